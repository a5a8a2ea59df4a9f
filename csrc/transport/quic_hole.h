/* A path that has come to swallow large packets, and says nothing (RFC 8899, section 4.3): ngtcp2 looks for what a path carries once, and does not doubt it
 * later. What it tells of losses it knows from acknowledgements, so smaller packets arrive meanwhile. Then none but small ones are sent, until the path is
 * another one, or may have changed again. */
#ifndef SV_TRANSPORT_QUIC_HOLE_H
#define SV_TRANSPORT_QUIC_HOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_QUIC_HOLE_SMALL = 1168, /* bytes of a datagram, or of the stream, that every path of QUIC's takes */
};

struct sv_quic_hole {
    unsigned lost;        /* in a row, of those that count */
    unsigned longest;     /* row that proved to be no hole's */
    size_t least;         /* bytes of the shortest in the row */
    uint64_t row_since;   /* ns: the first in the row */
    uint64_t counted_at;  /* ns: the last that counts, or that arrived */
    uint64_t waits_since; /* ns: nothing of the stream has been acknowledged since */
    uint64_t until;       /* ns: so long large ones are not sent; 0: they are */
};

/* A datagram of `len` bytes. true: from now on large ones are not sent. pto (ns) is the connection's. */
bool sv_quic_hole_on_lost(struct sv_quic_hole *hole, uint64_t now, size_t len, uint64_t pto);
void sv_quic_hole_on_acked(struct sv_quic_hole *hole, uint64_t now, size_t len);
/* The same of the stream, whose frames fill packets, and are sent again in such: `owed` bytes of it were sent and not acknowledged, but something else just now. */
bool sv_quic_hole_on_owed(struct sv_quic_hole *hole, uint64_t now, size_t owed, uint64_t pto);
/* Bytes of it were acknowledged, or are the first to be owed. */
void sv_quic_hole_on_stream(struct sv_quic_hole *hole, uint64_t now);
/* Another path. */
void sv_quic_hole_forget(struct sv_quic_hole *hole, uint64_t now);
/* UDP payload of the longest packet to be sent. */
size_t sv_quic_hole_payload(const struct sv_quic_hole *hole);

#endif
