/* A TCP listener on a worker's loop. When the process is out of files or memory it rests a little instead of
 * being told again and again of a connection that it cannot take; the backlog keeps the newcomers. */
#ifndef SV_IO_LISTENER_H
#define SV_IO_LISTENER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "io/loop.h"

struct sv_listener;

/* The fd is the callee's: non-blocking, closed on exec. It may not close the listener. */
typedef void (*sv_accepted_fn)(void *ctx, int fd, const struct sockaddr_storage *peer);

/* listen_addr as of sv_sockaddr_parse. SV_E_INVALID, SV_E_IN_USE, SV_E_PERMISSION, SV_E_SYSTEM, SV_E_NOMEM, with detail text. */
int sv_listener_open(struct sv_listener **listener, struct sv_loop *loop, const char *listen_addr,
                     bool reuse_port, sv_accepted_fn on_accepted, void *ctx);
/* The port it got when it asked for 0. */
uint16_t sv_listener_port(const struct sv_listener *listener);
/* NULL is fine. */
void sv_listener_close(struct sv_listener *listener);

#endif
