/* The device's control thread: follows its interface, notices sleep and changes of the network, and serves the standard configuration socket. */
#ifndef SV_ENGINE_WG_CONTROL_H
#define SV_ENGINE_WG_CONTROL_H

#include <smartvpn/wg.h>

#include "engine/wg.h"

struct sv_wg_control;

/* The socket exists and the interface has been looked at when it returns; the thread runs from sv_wg_control_start on. */
int sv_wg_control_new(struct sv_wg_control **control, struct sv_wg *wg, const sv_wg_config *config);
int sv_wg_control_start(struct sv_wg_control *control);
/* Ends the thread and takes the socket away; free(NULL) is fine. */
void sv_wg_control_free(struct sv_wg_control *control);

/* ---- wg_socket.c ---- */

struct sv_wg_socket;

/* /var/run/wireguard/NAME.sock, or the descriptor of it. on_gone: somebody removed it. */
int sv_wg_socket_open(struct sv_wg_socket **socket, struct sv_loop *loop, sv_engine *engine, const char *name,
                      int fd, void (*on_gone)(void *ctx), void *ctx);
void sv_wg_socket_close(struct sv_wg_socket *socket);

#endif
