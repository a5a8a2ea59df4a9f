/* What every native transport offers: a link, operations down, a sink of callbacks up. A transport knows nothing of sessions or policy.
 *
 * A link is an ordered stream of frame bytes both ways (and datagrams, where a transport has them) that lives on one loop. All calls and
 * callbacks happen on that loop's thread. The transport owns the link's memory: it is gone when on_closed returns.
 */
#ifndef SV_TRANSPORT_TRANSPORT_H
#define SV_TRANSPORT_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_LINK_HEADROOM = 16, /* bytes in front of what is sent that the transport may overwrite */
    SV_LINK_CREDIT = 128 *
                     1024, /* bytes written between two confirmations that the socket is writable, at most */
    SV_LINK_REMOTE_MAX = 64,
};

enum sv_transport_kind { SV_TRANSPORT_WEBSOCKET = 1, SV_TRANSPORT_QUIC = 2, SV_TRANSPORT_WIREGUARD = 3 };

enum sv_link_close {
    SV_CLOSE_SILENT, /* at once, without a byte more (TCP close, no Close frame) */
    SV_CLOSE_GRACEFUL, /* what was sent goes out, then FIN/Close; read on, end when the peer has closed or after 1 s */
};

struct sv_link;

struct sv_link_ops {
    /* Sends whole frames: bytes[-SV_LINK_HEADROOM, len) may be overwritten (headers, masking). Everything is taken (a rest that the socket
     * refuses is kept by the transport); afterwards link->blocked tells whether the owner must wait for on_writable. One send is one
     * WebSocket message. SV_E_CLOSED: on_closed will come (never from within send). */
    int (*send)(struct sv_link *link, uint8_t *bytes, size_t len);
    /* on_closed comes later, from the loop, never from within close. */
    void (*close)(struct sv_link *link, enum sv_link_close how);
    /* One datagram, at most link->datagram_max bytes, copied before it returns. SV_E_AGAIN: the window or the socket is full, link->datagrams_blocked
     * is set until on_writable. SV_E_INVALID: longer than the path takes now. SV_E_CLOSED as with send. NULL: the transport has none. */
    int (*send_datagram)(struct sv_link *link, const uint8_t *bytes, size_t len);
    /* The turn's end: what was collected for one batch goes out. NULL: nothing is collected. */
    void (*flush)(struct sv_link *link);
    /* Looks at path_mtu and the round trip anew, where nothing tells that they have changed. NULL: they are always true. */
    void (*measure)(struct sv_link *link);
};

struct sv_link_sink {
    /* The link carries frames now (connected, TLS and upgrade done). */
    void (*on_open)(struct sv_link *link);
    /* Bytes of the frame stream, writable, valid during the call. */
    void (*on_bytes)(struct sv_link *link, uint8_t *bytes, size_t len);
    /* After send left the link blocked: it may be sent to again. */
    void (*on_writable)(struct sv_link *link);
    /* The last callback. error: 0 when the peer closed or we did, else SV_E_*; text says why, for people (may be ""). */
    void (*on_closed)(struct sv_link *link, int error, const char *text);
    /* One datagram, maybe of no bytes, writable, valid during the call. It may come before on_bytes of an earlier frame. */
    void (*on_datagram)(struct sv_link *link, uint8_t *bytes, size_t len);
    /* The peer speaks from another address (link->remote is still the old one), asked before the new path is used. false: the link is closed. */
    bool (*on_path)(struct sv_link *link, const uint8_t remote[16], uint16_t port);
    /* link->datagram_max or link->path_mtu has changed. */
    void (*on_path_mtu)(struct sv_link *link);
};

struct sv_link {
    const struct sv_link_ops *ops;
    const struct sv_link_sink *sink;
    void *owner; /* the sink's */
    enum sv_transport_kind kind;
    bool blocked;
    bool encrypted; /* TLS below: for the MTU's overhead */
    bool datagrams_blocked;
    uint32_t
        window; /* bytes written between two confirmations; fewer on a slow path. 0: nothing limits them */
    uint16_t datagram_max; /* bytes that send_datagram takes now; 0: none, or not agreed */
    uint16_t path_mtu;     /* IP packet size that the path is known to carry; 0: not known */
    uint8_t remote[16];    /* the peer's address, behind trusted proxies the real one; IPv4-mapped */
    uint16_t remote_port;
    uint8_t path_remote[16];                  /* the address at the other end of our socket */
    uint64_t opened_at;                       /* ns: accept or start of the connect */
    uint64_t path_since;                      /* ns: since then the path may still prove larger */
    uint64_t datagrams_acked, datagrams_lost; /* of ours, as far as the transport knows */
    uint64_t srtt_ns, min_rtt_ns;             /* of datagrams and their acknowledgements; 0: not known */
    /* ns: the first sent since the peer last acknowledged anything; 0: none, or not known */
    uint64_t unacked_since;
};

#endif
