/* Where connections from trusted proxies wait until it is known whether a PROXY header stands in front of their
 * bytes. The header is taken off the socket to the byte; what follows stays there for whoever reads it next. */
#ifndef SV_TRANSPORT_PROXY_GATE_H
#define SV_TRANSPORT_PROXY_GATE_H

#include "io/loop.h"

struct sv_proxy_waiting;

struct sv_proxy_visitor {
    int fd;
    uint8_t peer[16];     /* the other end of the socket */
    uint8_t source[16];   /* whom the header names; without one, the peer */
    uint16_t port;        /* the source's */
    uint64_t accepted_at; /* ns */
};

struct sv_proxy_gate {
    struct sv_loop *loop;
    struct sv_timer *timer;                /* for the first of the line */
    struct sv_proxy_waiting *first, *last; /* in the order they came, which is that of their deadlines */
    size_t count;
    uint64_t patience;                                               /* ns from accept */
    void (*pass)(void *ctx, const struct sv_proxy_visitor *visitor); /* takes over the fd */
    void *ctx;
};

/* SV_E_NOMEM. */
int sv_proxy_gate_init(struct sv_proxy_gate *gate, struct sv_loop *loop, uint64_t patience,
                       void (*pass)(void *ctx, const struct sv_proxy_visitor *visitor), void *ctx);
/* Closes those that wait; also what init has not touched but all zeros. */
void sv_proxy_gate_clear(struct sv_proxy_gate *gate);

/* Takes the fd over: passes it on, within this call or later, or closes it when its header is bad, late or cut
 * off. From call to call accepted_at never goes back. */
void sv_proxy_gate_enter(struct sv_proxy_gate *gate, const struct sv_proxy_visitor *visitor);

#endif
