#include "transport/proxy_gate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <smartvpn/base.h>

#include "base/clock.h"
#include "transport/proxy_header.h"

struct sv_proxy_waiting {
    struct sv_proxy_gate *gate;
    struct sv_proxy_waiting *next, *prev;
    struct sv_watch *watch;
    struct sv_proxy_visitor visitor;
    size_t seen; /* bytes that were not enough */
};

/* ---- the line ---- */

static void arm(struct sv_proxy_gate *gate)
{
    sv_timer_set(gate->timer, gate->first ? gate->first->visitor.accepted_at + gate->patience : SV_NEVER);
}

static void join(struct sv_proxy_gate *gate, struct sv_proxy_waiting *waiting)
{
    waiting->prev = gate->last;
    *(gate->last ? &gate->last->next : &gate->first) = waiting;
    gate->last = waiting;
    gate->count++;
    if (gate->first == waiting) {
        arm(gate);
    }
}

/* Its fd is the caller's again. */
static int leave(struct sv_proxy_waiting *waiting)
{
    struct sv_proxy_gate *gate = waiting->gate;
    bool was_first = gate->first == waiting;
    int fd = waiting->visitor.fd;

    *(waiting->prev ? &waiting->prev->next : &gate->first) = waiting->next;
    *(waiting->next ? &waiting->next->prev : &gate->last) = waiting->prev;
    gate->count--;
    if (was_first) {
        arm(gate);
    }
    sv_watch_close(waiting->watch);
    free(waiting);
    return fd;
}

static void on_patience_ended(void *ctx)
{
    struct sv_proxy_gate *gate = ctx;
    uint64_t now = sv_clock_now();

    while (gate->first && gate->first->visitor.accepted_at + gate->patience <= now) {
        close(leave(gate->first));
    }
}

/* ---- looking at the bytes ---- */

/* The socket is readable again only when it holds that many bytes: what was only looked at would make it so
 * all the time. */
static void wake_with(int fd, size_t bytes)
{
    int wanted = (int)bytes;

    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted);
}

static bool consume(int fd, size_t len)
{
    uint8_t header[SV_PROXY_HEADER_MAX];

    return len == 0 || recv(fd, header, len, 0) == (ssize_t)len;
}

/* *seen: how many bytes were there. A peer that has closed gives SV_PROXY_BAD. */
static enum sv_proxy_verdict look(struct sv_proxy_visitor *visitor, size_t *seen)
{
    uint8_t bytes[SV_PROXY_HEADER_MAX];
    struct sv_proxy_header header;
    ssize_t n = recv(visitor->fd, bytes, sizeof bytes, MSG_PEEK);
    enum sv_proxy_verdict verdict;

    *seen = n > 0 ? (size_t)n : 0;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        return SV_PROXY_BAD;
    }
    verdict = sv_proxy_header_read(&header, bytes, *seen);
    if (verdict == SV_PROXY_MORE) {
        wake_with(visitor->fd, header.length);
    } else if (verdict == SV_PROXY_HEADER && !consume(visitor->fd, header.length)) {
        return SV_PROXY_BAD;
    } else if (verdict == SV_PROXY_HEADER && header.has_source) {
        memcpy(visitor->source, header.source, sizeof visitor->source);
        visitor->port = header.port;
    }
    return verdict;
}

static void decide(struct sv_proxy_gate *gate, const struct sv_proxy_visitor *visitor,
                   enum sv_proxy_verdict verdict)
{
    if (verdict == SV_PROXY_BAD) {
        close(visitor->fd);
        return;
    }
    wake_with(visitor->fd, 1);
    gate->pass(gate->ctx, visitor);
}

static void on_ready(void *ctx, int events)
{
    struct sv_proxy_waiting *waiting = ctx;
    struct sv_proxy_gate *gate = waiting->gate;
    struct sv_proxy_visitor visitor = waiting->visitor;
    size_t seen;
    enum sv_proxy_verdict verdict = look(&visitor, &seen);

    (void)events;
    if (verdict == SV_PROXY_MORE && seen > waiting->seen) {
        waiting->seen = seen;
        return;
    }
    leave(waiting);
    /* Awake without a byte more than before: the peer has closed, or the kernel wants its memory back. */
    decide(gate, &visitor, verdict == SV_PROXY_MORE ? SV_PROXY_BAD : verdict);
}

static bool wait_for_more(struct sv_proxy_gate *gate, const struct sv_proxy_visitor *visitor, size_t seen)
{
    struct sv_proxy_waiting *waiting = calloc(1, sizeof *waiting);

    if (!waiting) {
        return false;
    }
    *waiting = (struct sv_proxy_waiting){.gate = gate, .visitor = *visitor, .seen = seen};
    waiting->watch = sv_watch_new(gate->loop, visitor->fd, on_ready, waiting);
    if (!waiting->watch) {
        free(waiting);
        return false;
    }
    sv_watch_set(waiting->watch, SV_READABLE);
    join(gate, waiting);
    return true;
}

void sv_proxy_gate_enter(struct sv_proxy_gate *gate, const struct sv_proxy_visitor *visitor)
{
    struct sv_proxy_visitor known = *visitor;
    size_t seen;
    enum sv_proxy_verdict verdict = look(&known, &seen);

    if (verdict == SV_PROXY_MORE) {
        if (!wait_for_more(gate, &known, seen)) {
            close(known.fd);
        }
        return;
    }
    decide(gate, &known, verdict);
}

/* ---- making and ending ---- */

int sv_proxy_gate_init(struct sv_proxy_gate *gate, struct sv_loop *loop, uint64_t patience,
                       void (*pass)(void *ctx, const struct sv_proxy_visitor *visitor), void *ctx)
{
    *gate = (struct sv_proxy_gate){.loop = loop, .patience = patience, .pass = pass, .ctx = ctx};
    gate->timer = sv_timer_new(loop, on_patience_ended, gate);
    return gate->timer ? 0 : SV_E_NOMEM;
}

void sv_proxy_gate_clear(struct sv_proxy_gate *gate)
{
    while (gate->first) {
        close(leave(gate->first));
    }
    if (gate->timer) {
        sv_timer_close(gate->timer);
        gate->timer = NULL;
    }
}
