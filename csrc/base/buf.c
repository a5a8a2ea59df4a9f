#include "base/buf.h"

#include <stdlib.h>

void sv_buf_pool_init(struct sv_buf_pool *pool, uint32_t max_small, uint32_t max_large)
{
    *pool = (struct sv_buf_pool){.max_small = max_small, .max_large = max_large};
}

static void free_list(struct sv_buf *buf)
{
    while (buf) {
        struct sv_buf *next = buf->next;

        free(buf);
        buf = next;
    }
}

void sv_buf_pool_clear(struct sv_buf_pool *pool)
{
    sv_buf_pool_collect(pool);
    free_list(pool->free_small);
    free_list(pool->free_large);
    pool->free_small = pool->free_large = NULL;
}

static struct sv_buf *take(struct sv_buf_pool *pool, struct sv_buf **list, size_t room)
{
    struct sv_buf *buf = *list;

    if (buf) {
        *list = buf->next;
    } else {
        buf = malloc(sizeof *buf + SV_BUF_HEADROOM + room);
        if (!buf) {
            return NULL;
        }
        buf->pool = pool;
        buf->size = (uint32_t)(SV_BUF_HEADROOM + room);
    }
    buf->next = NULL;
    sv_buf_reset(buf);
    return buf;
}

static struct sv_buf *take_bounded(struct sv_buf_pool *pool, struct sv_buf **list, size_t room,
                                   uint32_t *used, uint32_t max)
{
    struct sv_buf *buf = *used < max ? take(pool, list, room) : NULL;

    *used += buf != NULL;
    return buf;
}

struct sv_buf *sv_buf_get(struct sv_buf_pool *pool, size_t room)
{
    if (room <= SV_BUF_SMALL) {
        return take_bounded(pool, &pool->free_small, SV_BUF_SMALL, &pool->used_small, pool->max_small);
    }
    if (room <= SV_BUF_LARGE) {
        return take_bounded(pool, &pool->free_large, SV_BUF_LARGE, &pool->used_large, pool->max_large);
    }
    return NULL;
}

void sv_buf_put(struct sv_buf *buf)
{
    if (!buf) {
        return;
    }
    struct sv_buf_pool *pool = buf->pool;
    int small = buf->size == SV_BUF_HEADROOM + SV_BUF_SMALL;
    struct sv_buf **list = small ? &pool->free_small : &pool->free_large;

    *(small ? &pool->used_small : &pool->used_large) -= 1;
    buf->next = *list;
    *list = buf;
}

void sv_buf_put_remote(struct sv_buf *buf)
{
    struct sv_buf_pool *pool = buf->pool;

    buf->next = atomic_load_explicit(&pool->returned, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&pool->returned, &buf->next, buf, memory_order_release,
                                                  memory_order_relaxed)) {
    }
}

void sv_buf_pool_collect(struct sv_buf_pool *pool)
{
    struct sv_buf *buf = atomic_exchange_explicit(&pool->returned, NULL, memory_order_acquire);

    while (buf) {
        struct sv_buf *next = buf->next;

        sv_buf_put(buf);
        buf = next;
    }
}
