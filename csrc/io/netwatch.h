/* Notices at once that the machine's addresses, routes or interfaces have changed, or that it has slept. */
#ifndef SV_IO_NETWATCH_H
#define SV_IO_NETWATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "io/loop.h"

struct sv_netwatch;

/* on_change comes a moment after the last of a burst of changes; `slept`: the machine was asleep meanwhile. Of the namespace that the calling
 * thread is in. Changes of the interface `except` are none (0: of every one). NULL: memory or netlink is not to be had (sv_error_detail). */
struct sv_netwatch *sv_netwatch_new(struct sv_loop *loop, unsigned except,
                                    void (*on_change)(void *ctx, bool slept), void *ctx);
/* NULL is fine. */
void sv_netwatch_close(struct sv_netwatch *watch);

/* The address from which packets to `remote` leave now; nothing is sent. SV_E_UNREACHABLE: there is no way. */
int sv_source_address(uint8_t local[16], const uint8_t remote[16]);
/* The index of the interface through which they leave. SV_E_UNREACHABLE, SV_E_SYSTEM. */
int sv_way_interface(unsigned *interface, const uint8_t remote[16]);

#endif
