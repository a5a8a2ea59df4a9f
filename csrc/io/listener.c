#include "io/listener.h"

#include <errno.h>
#include <inttypes.h>
#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "io/socket.h"

enum { ACCEPTS_PER_TURN = 64 };

static const uint64_t REST = 100 * SV_NS_PER_MS;

struct sv_listener {
    struct sv_loop *loop;
    struct sv_watch *watch;
    struct sv_timer *timer; /* runs while it rests */
    int fd;
    uint16_t port;
    sv_accepted_fn on_accepted;
    void *ctx;
};

static void rest(struct sv_listener *listener)
{
    static struct sv_log_limit limit;

    sv_log_limited(&limit, listener->loop->now, SV_LOG_ERROR,
                   "port %u: a connection cannot be accepted: %s; trying again in %" PRIu64 " ms",
                   listener->port, strerror(errno), REST / SV_NS_PER_MS);
    sv_watch_set(listener->watch, 0);
    sv_timer_set(listener->timer, listener->loop->now + REST);
}

static void on_rested(void *ctx)
{
    struct sv_listener *listener = ctx;

    sv_watch_set(listener->watch, SV_READABLE);
}

static void on_connection(void *ctx, int events)
{
    struct sv_listener *listener = ctx;
    struct sockaddr_storage peer;
    int fd;

    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int error = sv_accept(listener->fd, &fd, &peer);

        if (error == SV_E_AGAIN) {
            return;
        }
        if (error) {
            rest(listener);
            return;
        }
        listener->on_accepted(listener->ctx, fd, &peer);
    }
}

static int open_socket(struct sv_listener *listener, const char *listen_addr, bool reuse_port)
{
    struct sockaddr_storage addr;
    socklen_t len;
    uint8_t ip[16];
    int error = sv_sockaddr_parse(&addr, &len, listen_addr);

    if (error) {
        return sv_fail(error, "listenAddr: '%.64s' is not host:port", listen_addr);
    }
    error = sv_listen(&listener->fd, &addr, len, reuse_port);
    if (error) {
        return error;
    }
    len = sizeof addr;
    getsockname(listener->fd, (struct sockaddr *)&addr, &len);
    sv_sockaddr_split(&addr, ip, &listener->port);
    return 0;
}

int sv_listener_open(struct sv_listener **out, struct sv_loop *loop, const char *listen_addr, bool reuse_port,
                     sv_accepted_fn on_accepted, void *ctx)
{
    struct sv_listener *listener = calloc(1, sizeof *listener);
    int error;

    *out = NULL;
    if (!listener) {
        return SV_E_NOMEM;
    }
    *listener = (struct sv_listener){.loop = loop, .fd = -1, .on_accepted = on_accepted, .ctx = ctx};
    error = open_socket(listener, listen_addr, reuse_port);
    if (!error) {
        listener->watch = sv_watch_new(loop, listener->fd, on_connection, listener);
        listener->timer = sv_timer_new(loop, on_rested, listener);
        error = listener->watch && listener->timer ? 0 : SV_E_NOMEM;
    }
    if (error) {
        sv_listener_close(listener);
        return error;
    }
    sv_watch_set(listener->watch, SV_READABLE);
    *out = listener;
    return 0;
}

uint16_t sv_listener_port(const struct sv_listener *listener)
{
    return listener->port;
}

void sv_listener_close(struct sv_listener *listener)
{
    if (!listener) {
        return;
    }
    if (listener->watch) {
        sv_watch_close(listener->watch);
    }
    if (listener->timer) {
        sv_timer_close(listener->timer);
    }
    if (listener->fd >= 0) {
        close(listener->fd);
    }
    free(listener);
}
