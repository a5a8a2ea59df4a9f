#include "transport/quic_backlog.h"

#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

static struct sv_quic_block *take(struct sv_quic_blocks *blocks)
{
    struct sv_quic_block *block = blocks->idle;

    if (block) {
        blocks->idle = block->next;
        blocks->count--;
    } else {
        block = malloc(sizeof *block);
    }
    if (block) {
        block->next = NULL;
        block->start = block->end = 0;
    }
    return block;
}

static void give(struct sv_quic_blocks *blocks, struct sv_quic_block *block)
{
    if (blocks->count == SV_QUIC_BLOCKS_IDLE) {
        free(block);
        return;
    }
    block->next = blocks->idle;
    blocks->idle = block;
    blocks->count++;
}

static void give_chain(struct sv_quic_blocks *blocks, struct sv_quic_block *block)
{
    while (block) {
        struct sv_quic_block *next = block->next;

        give(blocks, block);
        block = next;
    }
}

void sv_quic_blocks_clear(struct sv_quic_blocks *blocks)
{
    while (blocks->idle) {
        struct sv_quic_block *block = blocks->idle;

        blocks->idle = block->next;
        free(block);
    }
    blocks->count = 0;
}

/* Blocks for `len` bytes more than the last one has room for. false: memory is short. */
static bool reserve(struct sv_quic_blocks *blocks, size_t len, struct sv_quic_block **chain)
{
    *chain = NULL;
    for (size_t room = 0; room < len; room += SV_QUIC_BLOCK) {
        struct sv_quic_block *block = take(blocks);

        if (!block) {
            give_chain(blocks, *chain);
            return false;
        }
        block->next = *chain;
        *chain = block;
    }
    return true;
}

static void fill(struct sv_quic_backlog *backlog, struct sv_quic_block *block, const uint8_t **bytes,
                 size_t *len)
{
    size_t room = SV_QUIC_BLOCK - block->end, n = *len < room ? *len : room;

    if (!backlog->at && n) {
        backlog->at = block;
        backlog->at_offset = block->end;
    }
    memcpy(block->bytes + block->end, *bytes, n);
    block->end += n;
    *bytes += n;
    *len -= n;
}

int sv_quic_backlog_append(struct sv_quic_backlog *backlog, struct sv_quic_blocks *blocks,
                           const uint8_t *bytes, size_t len)
{
    size_t room = backlog->last ? SV_QUIC_BLOCK - backlog->last->end : 0;
    struct sv_quic_block *chain = NULL;

    if (len > room && !reserve(blocks, len - room, &chain)) {
        return SV_E_NOMEM;
    }
    backlog->unsent += len;
    backlog->held += len;
    if (backlog->last) {
        fill(backlog, backlog->last, &bytes, &len);
    }
    while (chain) {
        struct sv_quic_block *block = chain;

        chain = block->next;
        block->next = NULL;
        *(backlog->last ? &backlog->last->next : &backlog->first) = block;
        backlog->last = block;
        fill(backlog, block, &bytes, &len);
    }
    return 0;
}

size_t sv_quic_backlog_unsent(const struct sv_quic_backlog *backlog, ngtcp2_vec *pieces, size_t max,
                              size_t *len)
{
    struct sv_quic_block *block = backlog->at;
    size_t offset = backlog->at_offset, count = 0;

    *len = 0;
    for (; block && count < max; block = block->next, offset = 0) {
        if (block->end > offset) {
            pieces[count] = (ngtcp2_vec){.base = block->bytes + offset, .len = block->end - offset};
            *len += pieces[count++].len;
        }
    }
    return count;
}

size_t sv_quic_backlog_owed(const struct sv_quic_backlog *backlog)
{
    return backlog->held - backlog->unsent;
}

void sv_quic_backlog_sent(struct sv_quic_backlog *backlog, size_t len)
{
    backlog->unsent -= len;
    while (backlog->at && len >= backlog->at->end - backlog->at_offset) {
        len -= backlog->at->end - backlog->at_offset;
        backlog->at = backlog->at->next;
        backlog->at_offset = 0;
    }
    backlog->at_offset += len;
}

void sv_quic_backlog_acked(struct sv_quic_backlog *backlog, struct sv_quic_blocks *blocks, size_t len)
{
    backlog->held -= len;
    while (len) {
        struct sv_quic_block *block = backlog->first;
        size_t here = block->end - block->start, n = len < here ? len : here;

        block->start += n;
        len -= n;
        if (block->start < block->end) {
            return;
        }
        if (block == backlog->last) {
            backlog->last = NULL;
        }
        backlog->first = block->next;
        give(blocks, block);
    }
}

void sv_quic_backlog_clear(struct sv_quic_backlog *backlog, struct sv_quic_blocks *blocks)
{
    give_chain(blocks, backlog->first);
    *backlog = (struct sv_quic_backlog){0};
}
