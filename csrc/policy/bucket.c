#include "policy/bucket.h"

#include "base/clock.h"

enum { TICKS_PER_NS = 16, FRACTION = 20, LEAST_BURST = 16000 };

/* Nine years: a burst that takes longer is as good as this one, and no sum overflows. */
#define TICKS_MOST (UINT64_MAX / 4)

static uint64_t time_of(const struct sv_bucket *bucket, uint64_t bytes)
{
    unsigned __int128 ticks = ((unsigned __int128)bucket->ticks_per_byte_q20 * bytes) >> FRACTION;

    return ticks < TICKS_MOST ? (uint64_t)ticks : TICKS_MOST;
}

void sv_bucket_init(struct sv_bucket *bucket, uint64_t bytes_per_sec, uint64_t burst_bytes)
{
    atomic_init(&bucket->empty_at, 0);
    bucket->ticks_per_byte_q20 =
        bytes_per_sec ? ((SV_NS_PER_S * TICKS_PER_NS << FRACTION) + bytes_per_sec / 2) / bytes_per_sec : 0;
    if (!burst_bytes) {
        burst_bytes = bytes_per_sec / 10 > LEAST_BURST ? bytes_per_sec / 10 : LEAST_BURST;
    }
    bucket->burst_ticks = time_of(bucket, burst_bytes);
}

/* When the bucket would be empty after so many bytes; what is longer than the burst goes when the bucket is full. */
static bool conforms(const struct sv_bucket *bucket, uint64_t now, uint64_t empty_at, uint64_t cost,
                     uint64_t *after)
{
    uint64_t from = empty_at > now ? empty_at : now;
    uint64_t limit = cost > bucket->burst_ticks ? cost : bucket->burst_ticks;

    *after = from + cost;
    return from + cost <= now + limit;
}

bool sv_bucket_take(struct sv_bucket *bucket, uint64_t now, uint32_t bytes)
{
    uint64_t cost = time_of(bucket, bytes);
    uint64_t empty_at = atomic_load_explicit(&bucket->empty_at, memory_order_relaxed);
    uint64_t after;

    if (!bucket->ticks_per_byte_q20) {
        return true;
    }
    do {
        if (!conforms(bucket, now * TICKS_PER_NS, empty_at, cost, &after)) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&bucket->empty_at, &empty_at, after, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

uint64_t sv_bucket_when(const struct sv_bucket *bucket, uint64_t now, uint32_t bytes)
{
    uint64_t cost = time_of(bucket, bytes);
    uint64_t limit = cost > bucket->burst_ticks ? cost : bucket->burst_ticks;
    uint64_t empty_at = atomic_load_explicit(&bucket->empty_at, memory_order_relaxed);
    uint64_t ticks = empty_at + cost > limit ? empty_at + cost - limit : 0;
    uint64_t at = (ticks + TICKS_PER_NS - 1) / TICKS_PER_NS;

    return bucket->ticks_per_byte_q20 && at > now ? at : now;
}
