/* Bytes that wait: a read with a frame's end still to come, or what a socket refused. They lie in blocks that a link
 * borrows from its worker while it has any, so idle links hold none. */
#ifndef SV_TRANSPORT_WS_BYTES_H
#define SV_TRANSPORT_WS_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transport/ws_frame.h"

enum {
    SV_WS_BLOCK = SV_WS_MESSAGE_MAX + 4096, /* the longest frame with its header fits */
    SV_WS_WAITING_MAX = 4 * 1024 * 1024,
};

struct sv_ws_blocks {
    struct sv_ws_block *first;
    size_t count;
};

/* In a borrowed block, or in one of their own where they are too many. All zeros: none. */
struct sv_ws_bytes {
    uint8_t *bytes;
    size_t start, end, size;
};

void sv_ws_blocks_clear(struct sv_ws_blocks *blocks);

static inline size_t sv_ws_bytes_len(const struct sv_ws_bytes *bytes)
{
    return bytes->end - bytes->start;
}

/* Borrows a block when there is none yet; false when memory is short. */
bool sv_ws_bytes_borrow(struct sv_ws_bytes *bytes, struct sv_ws_blocks *blocks);
/* Gives the memory back, with whatever is in it. */
void sv_ws_bytes_release(struct sv_ws_bytes *bytes, struct sv_ws_blocks *blocks);
void sv_ws_bytes_release_if_empty(struct sv_ws_bytes *bytes, struct sv_ws_blocks *blocks);
/* All free room is behind the bytes then. */
void sv_ws_bytes_to_front(struct sv_ws_bytes *bytes);
/* SV_E_NOMEM; SV_E_FULL beyond SV_WS_WAITING_MAX: a peer that never reads, or an owner that does not wait. */
int sv_ws_bytes_append(struct sv_ws_bytes *bytes, struct sv_ws_blocks *blocks, const uint8_t *from,
                       size_t len);

#endif
