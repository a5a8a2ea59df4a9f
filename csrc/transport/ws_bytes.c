#include "transport/ws_bytes.h"

#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS_KEPT = 8 };

struct sv_ws_block {
    struct sv_ws_block *next;
};

static uint8_t *borrow(struct sv_ws_blocks *blocks)
{
    struct sv_ws_block *block = blocks->first;

    if (!block) {
        return malloc(SV_WS_BLOCK);
    }
    blocks->first = block->next;
    blocks->count--;
    return (uint8_t *)block;
}

static void give_back(struct sv_ws_blocks *blocks, uint8_t *bytes)
{
    struct sv_ws_block *block = (struct sv_ws_block *)(void *)bytes;

    if (blocks->count >= BLOCKS_KEPT) {
        free(block);
        return;
    }
    block->next = blocks->first;
    blocks->first = block;
    blocks->count++;
}

void sv_ws_blocks_clear(struct sv_ws_blocks *blocks)
{
    while (blocks->first) {
        struct sv_ws_block *block = blocks->first;

        blocks->first = block->next;
        free(block);
    }
    blocks->count = 0;
}

void sv_ws_bytes_release(struct sv_ws_bytes *bytes, struct sv_ws_blocks *blocks)
{
    if (bytes->bytes) {
        if (bytes->size == SV_WS_BLOCK) {
            give_back(blocks, bytes->bytes);
        } else {
            free(bytes->bytes);
        }
    }
    *bytes = (struct sv_ws_bytes){.bytes = NULL};
}

void sv_ws_bytes_release_if_empty(struct sv_ws_bytes *bytes, struct sv_ws_blocks *blocks)
{
    if (bytes->start == bytes->end) {
        sv_ws_bytes_release(bytes, blocks);
    }
}

bool sv_ws_bytes_borrow(struct sv_ws_bytes *bytes, struct sv_ws_blocks *blocks)
{
    if (!bytes->bytes) {
        bytes->bytes = borrow(blocks);
        bytes->size = SV_WS_BLOCK;
    }
    return bytes->bytes != NULL;
}

void sv_ws_bytes_to_front(struct sv_ws_bytes *bytes)
{
    memmove(bytes->bytes, bytes->bytes + bytes->start, sv_ws_bytes_len(bytes));
    bytes->end -= bytes->start;
    bytes->start = 0;
}

static int grow(struct sv_ws_bytes *bytes, struct sv_ws_blocks *blocks, size_t len)
{
    size_t have = sv_ws_bytes_len(bytes);
    struct sv_ws_bytes bigger = {.size = 2 * (have + len), .end = have};

    if (have + len > SV_WS_WAITING_MAX) {
        return SV_E_FULL;
    }
    bigger.bytes = malloc(bigger.size);
    if (!bigger.bytes) {
        return SV_E_NOMEM;
    }
    memcpy(bigger.bytes, bytes->bytes + bytes->start, have);
    sv_ws_bytes_release(bytes, blocks);
    *bytes = bigger;
    return 0;
}

int sv_ws_bytes_append(struct sv_ws_bytes *bytes, struct sv_ws_blocks *blocks, const uint8_t *from,
                       size_t len)
{
    int error = 0;

    if (!sv_ws_bytes_borrow(bytes, blocks)) {
        return SV_E_NOMEM;
    }
    if (bytes->size - bytes->end < len) {
        sv_ws_bytes_to_front(bytes);
    }
    if (bytes->size - bytes->end < len) {
        error = grow(bytes, blocks, len);
    }
    if (!error) {
        memcpy(bytes->bytes + bytes->end, from, len);
        bytes->end += len;
    }
    return error;
}
