/* What was written to a stream and is not acknowledged yet: ngtcp2 points into it until then, so it lies in blocks that never move. */
#ifndef SV_TRANSPORT_QUIC_BACKLOG_H
#define SV_TRANSPORT_QUIC_BACKLOG_H

#include <ngtcp2/ngtcp2.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_QUIC_BLOCK = 32 * 1024,
    SV_QUIC_BLOCKS_IDLE = 32, /* kept for the next writer */
};

struct sv_quic_block {
    struct sv_quic_block *next;
    size_t start, end; /* bytes[start, end) are not acknowledged */
    uint8_t bytes[SV_QUIC_BLOCK];
};

/* Free blocks that the links of one loop share. */
struct sv_quic_blocks {
    struct sv_quic_block *idle;
    size_t count;
};

void sv_quic_blocks_clear(struct sv_quic_blocks *blocks);

struct sv_quic_backlog {
    struct sv_quic_block *first, *last;
    struct sv_quic_block *at; /* the next byte to send is at->bytes[at_offset]; NULL: all has been sent */
    size_t at_offset;
    size_t unsent, held; /* held: unacknowledged, the unsent among them */
};

/* All or nothing. SV_E_NOMEM. */
int sv_quic_backlog_append(struct sv_quic_backlog *backlog, struct sv_quic_blocks *blocks,
                           const uint8_t *bytes, size_t len);
/* The unsent bytes from the first on, in at most `max` pieces. How many pieces there are, and their length together. */
size_t sv_quic_backlog_unsent(const struct sv_quic_backlog *backlog, ngtcp2_vec *pieces, size_t max,
                              size_t *len);
/* Bytes that were sent and are not acknowledged. */
size_t sv_quic_backlog_owed(const struct sv_quic_backlog *backlog);
void sv_quic_backlog_sent(struct sv_quic_backlog *backlog, size_t len);
/* The oldest `len` bytes are not needed any more; all of them were sent. */
void sv_quic_backlog_acked(struct sv_quic_backlog *backlog, struct sv_quic_blocks *blocks, size_t len);
void sv_quic_backlog_clear(struct sv_quic_backlog *backlog, struct sv_quic_blocks *blocks);

#endif
