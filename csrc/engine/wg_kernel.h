/* A hub's WireGuard carried by the kernel: an interface of the kernel's own follows the device's tables, and its counters and handshakes come back
 * into them. No packet passes through this process, so what a hub asks of every packet cannot be had here: sv_wg_kernel_holds tells.
 *
 * Spoken to through the embeddable library of wireguard-tools. All but open and close: under wg->lock. */
#ifndef SV_ENGINE_WG_KERNEL_H
#define SV_ENGINE_WG_KERNEL_H

#include <smartvpn/config.h>

#include "engine/wg.h"

/* Makes the interface; `name` is a name or a pattern such as "svpn%d". One that an earlier run with the same key has left behind goes first.
 * *made gets the name, SV_TUN_NAME bytes. SV_E_UNSUPPORTED: this kernel, or this build, has no WireGuard. SV_E_IN_USE, SV_E_PERMISSION,
 * SV_E_SYSTEM; sv_error_detail() has the words. */
int sv_wg_kernel_open(const char *name, const uint8_t private_key[SV_KEY], char *made);
/* Deletes the interface. */
void sv_wg_kernel_close(const char *name);

/* The interface gets the device's key and listens; *port is what it got. SV_E_IN_USE, SV_E_SYSTEM. */
int sv_wg_kernel_listen(struct sv_wg *wg, const uint8_t private_key[SV_KEY], uint16_t *port);

/* The member as it is now: preshared key, allowed IPs, interval; its endpoint where there is one to set. What fails is tried again at each
 * sv_wg_kernel_read. */
void sv_wg_kernel_put(struct sv_wg_member *member, const struct sv_endpoint *endpoint);
void sv_wg_kernel_remove(struct sv_wg *wg, const uint8_t public_key[SV_KEY]);
/* Handshakes, endpoints and bytes into the members. What the interface has more or less than the tables is put right. */
void sv_wg_kernel_read(struct sv_wg *wg, uint64_t now);

/* 0, or SV_E_INVALID with words: it is a rule about packets or sources. */
int sv_wg_kernel_holds(const sv_client_entry *entry);

#endif
