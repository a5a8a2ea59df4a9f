#include "engine/limit.h"

#include <stdlib.h>

enum {
    QUEUE_HIGH = 256 * 1024, /* bytes a link's lanes hold when nothing limits the client */
    QUEUE_BULK = 4 * 1024 * 1024,
    QUEUE_LEAST = 6000,   /* a few packets, however low the limit */
    LIMITED_PER_SEC = 25, /* a limited lane holds 1/25 s of the rate, a little less than the longest wait */
    PRIORITY_USUAL = 100,
    SHARE_USUAL = 64 * 1024, /* bytes: one super-packet */
    SHARE_MOST = 1024 * 1024,
    SHARE_LEAST = 4 * 1024, /* whatever the priority: a super-packet's turn comes within 16 rounds */
};

static const uint64_t HELD_AT_MOST = SV_QUEUE_HELD_MS * SV_NS_PER_MS;

static size_t at_most(uint64_t bytes, size_t most)
{
    return bytes < most ? (size_t)bytes : most;
}

static void set_limits(struct sv_queue *queue, const struct sv_limiter *limiter)
{
    uint64_t limited = limiter && limiter->bytes_per_sec ? limiter->bytes_per_sec / LIMITED_PER_SEC
                                                         : UINT64_MAX;

    if (limited < QUEUE_LEAST) {
        limited = QUEUE_LEAST;
    }
    queue->lanes[SV_CLASS_HIGH].limit = at_most(limited, QUEUE_HIGH);
    queue->lanes[SV_CLASS_NORMAL].limit = at_most(limited, QUEUE_BULK);
    queue->lanes[SV_CLASS_LOW].limit = queue->lanes[SV_CLASS_NORMAL].limit;
}

struct sv_queue *sv_queue_make(struct sv_queue **queue, const struct sv_limiter *limiter)
{
    static const size_t none[SV_CLASS_COUNT];

    if (!*queue) {
        *queue = malloc(sizeof **queue);
        if (!*queue) {
            return NULL;
        }
        sv_queue_init(*queue, none);
    }
    set_limits(*queue, limiter);
    return *queue;
}

void sv_queue_free(struct sv_queue *queue)
{
    if (queue) {
        sv_queue_clear(queue);
        free(queue);
    }
}

/* At rates so low that the least queue holds more than 50 ms of them, its time. */
static uint64_t patience(const struct sv_limiter *limiter)
{
    uint64_t least = QUEUE_LEAST * SV_NS_PER_S / limiter->bytes_per_sec;

    return least > HELD_AT_MOST ? least : HELD_AT_MOST;
}

struct sv_buf *sv_queue_next(struct sv_queue *queue, const struct sv_limiter *limiter,
                             struct sv_bucket *bucket, uint64_t now, uint64_t *again)
{
    struct sv_buf *buf = sv_queue_peek(queue, now);
    uint64_t at;

    *again = SV_NEVER;
    if (!buf || !limiter || sv_bucket_take(bucket, now, (uint32_t)sv_buf_len(buf))) {
        return sv_queue_pop(queue, now);
    }
    if (now > patience(limiter)) {
        sv_queue_drop_older(queue, now - patience(limiter));
    }
    buf = sv_queue_peek(queue, now);
    if (buf) {
        at = sv_bucket_when(bucket, now, (uint32_t)sv_buf_len(buf));
        *again = at < now + HELD_AT_MOST ? at : now + HELD_AT_MOST;
    }
    return NULL;
}

void sv_queue_count_expired(struct sv_queue *queue, struct sv_traffic *traffic)
{
    if (!queue->expired) {
        return;
    }
    sv_count_shared(&traffic->drops[SV_DROP_HIGH], queue->expired_high);
    sv_count_shared(&traffic->drops[SV_DROP_RATE], queue->expired - queue->expired_high);
    sv_count_shared(&traffic->bytes_dropped, queue->expired_bytes);
    queue->expired = queue->expired_high = queue->expired_bytes = 0;
}

int64_t sv_turn_share(int priority)
{
    int64_t share = (int64_t)SHARE_USUAL * PRIORITY_USUAL / (priority > 1 ? priority : 1);

    return share > SHARE_MOST ? SHARE_MOST : share < SHARE_LEAST ? SHARE_LEAST : share;
}
