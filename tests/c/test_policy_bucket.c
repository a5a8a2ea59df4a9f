/* A bucket passes its burst at once and then its rate, at any rate, whatever the packets' sizes and however many
 * threads take from it. */
#include "tests/c/check.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "policy/bucket.h"
#include "tests/c/random.h"

enum { THREADS = 4, TAKES = 200000, PACKET = 1500 };

static const uint64_t START = 3600 * SV_NS_PER_S;

/* What passes when packets of these sizes are offered at every instant of so many steps. */
static uint64_t offer(struct sv_bucket *bucket, uint64_t from, uint64_t step, size_t steps, uint32_t size)
{
    uint64_t passed = 0;

    for (size_t i = 1; i <= steps; i++) {
        while (sv_bucket_take(bucket, from + i * step, size)) {
            passed += size;
        }
    }
    return passed;
}

static uint64_t drain(struct sv_bucket *bucket, uint64_t now, uint32_t size)
{
    uint64_t passed = 0;

    while (sv_bucket_take(bucket, now, size)) {
        passed += size;
    }
    return passed;
}

static void no_rate_is_no_limit(void)
{
    struct sv_bucket bucket;

    sv_bucket_init(&bucket, 0, 0);
    for (size_t i = 0; i < 1000; i++) {
        CHECK(sv_bucket_take(&bucket, START, UINT32_MAX));
    }
    CHECK_EQ(sv_bucket_when(&bucket, START, UINT32_MAX), START);
}

static void the_burst_passes_at_once(void)
{
    struct sv_bucket bucket;

    sv_bucket_init(&bucket, 1000000, 50000);
    CHECK_EQ(drain(&bucket, START, 100), 50000);
    CHECK(!sv_bucket_take(&bucket, START, 1));
}

static void the_usual_burst_is_a_tenth_of_a_second(void)
{
    struct sv_bucket bucket;

    sv_bucket_init(&bucket, 1000000, 0);
    CHECK_EQ(drain(&bucket, START, 10), 100000);
    sv_bucket_init(&bucket, 1000, 0);
    CHECK_EQ(drain(&bucket, START, 10), 16000);
}

static void the_rate_holds_from_a_byte_to_100_gigabit(void)
{
    static const uint64_t rates[] = {1, 999, 125000, 12500000, 125000000, UINT64_C(12500000000)};

    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        uint32_t size = rates[i] < 10000 ? 1 : PACKET;
        uint64_t seconds = rates[i] < 10000 ? 1000 : rates[i] > UINT64_C(1000000000) ? 1 : 10;
        struct sv_bucket bucket;
        uint64_t passed;

        sv_bucket_init(&bucket, rates[i], 0);
        drain(&bucket, START, size);
        passed = offer(&bucket, START, SV_NS_PER_MS, 1000 * seconds, size);
        CHECK(passed <= rates[i] * seconds * 1001 / 1000 + size);
        CHECK(passed + size >= rates[i] * seconds * 999 / 1000);
    }
}

static void sizes_do_not_change_the_rate(void)
{
    struct sv_bucket bucket;
    uint64_t passed = 0, now = START;
    const uint64_t rate = 1000000;

    sv_bucket_init(&bucket, rate, 20000);
    drain(&bucket, now, 1);
    while (now < START + 20 * SV_NS_PER_S) {
        uint32_t size = 1 + random_below(9000);

        now = sv_bucket_when(&bucket, now, size);
        CHECK(sv_bucket_take(&bucket, now, size));
        passed += size;
    }
    CHECK(passed > 20 * rate * 995 / 1000 && passed < 20 * rate * 1005 / 1000 + 9000);
}

/* One nanosecond before `when` it is refused, at `when` it passes. */
static void when_is_the_first_instant(void)
{
    struct sv_bucket bucket;
    uint64_t now = START;

    sv_bucket_init(&bucket, 123457, 16000);
    for (size_t i = 0; i < 10000; i++) {
        uint32_t size = 1 + random_below(20000);
        uint64_t when = sv_bucket_when(&bucket, now, size);

        CHECK(when >= now);
        if (when > now) {
            CHECK(!sv_bucket_take(&bucket, when - 1, size));
        }
        CHECK(sv_bucket_take(&bucket, when, size));
        now = when + random_below(50000000);
    }
}

/* A super-packet of 64 KB under a burst of 16 KB: it goes when the bucket is full, and the debt is paid after it. */
static void more_than_the_burst_goes_when_the_bucket_is_full(void)
{
    struct sv_bucket bucket;
    uint64_t when;

    sv_bucket_init(&bucket, 64000, 16000);
    CHECK(sv_bucket_take(&bucket, START, 64000));
    when = sv_bucket_when(&bucket, START, 64000);
    CHECK_EQ(when, START + SV_NS_PER_S);
    CHECK(!sv_bucket_take(&bucket, when - 1, 64000));
    CHECK(!sv_bucket_take(&bucket, START + SV_NS_PER_S / 2, 1));
    CHECK(sv_bucket_take(&bucket, when, 64000));
}

static void silence_saves_no_more_than_the_burst(void)
{
    struct sv_bucket bucket;

    sv_bucket_init(&bucket, 1000000, 50000);
    drain(&bucket, START, 100);
    CHECK_EQ(drain(&bucket, START + 86400 * SV_NS_PER_S, 100), 50000);
}

static void an_absurd_burst_does_not_wrap(void)
{
    struct sv_bucket bucket;

    sv_bucket_init(&bucket, 1, UINT64_MAX);
    for (size_t i = 0; i < 1000; i++) {
        CHECK(sv_bucket_take(&bucket, START, PACKET));
    }
    CHECK_EQ(sv_bucket_when(&bucket, START, PACKET), START);
}

static void a_refusal_costs_nothing(void)
{
    struct sv_bucket bucket;
    uint64_t when;

    sv_bucket_init(&bucket, 1000000, 50000);
    drain(&bucket, START, 100);
    when = sv_bucket_when(&bucket, START, PACKET);
    for (size_t i = 0; i < 1000; i++) {
        CHECK(!sv_bucket_take(&bucket, START, PACKET));
    }
    CHECK_EQ(sv_bucket_when(&bucket, START, PACKET), when);
}

struct taker {
    struct sv_bucket *bucket;
    uint64_t passed;
};

static void *take_many(void *arg)
{
    struct taker *taker = arg;

    for (size_t i = 0; i < TAKES; i++) {
        taker->passed += sv_bucket_take(taker->bucket, START + i * SV_NS_PER_US, PACKET) ? PACKET : 0;
    }
    return NULL;
}

/* Threads see different times, all within the 0.2 s: together they get the burst and 0.2 s of the rate. */
static void threads_share_one_level(void)
{
    struct taker takers[THREADS] = {{0}};
    pthread_t threads[THREADS];
    struct sv_bucket bucket;
    uint64_t passed = 0;

    sv_bucket_init(&bucket, 100000000, 1000000);
    for (size_t i = 0; i < THREADS; i++) {
        takers[i].bucket = &bucket;
        CHECK_EQ(pthread_create(&threads[i], NULL, take_many, &takers[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        passed += takers[i].passed;
    }
    CHECK(passed <= 21000000 && passed >= 20900000);
}

int main(void)
{
    RUN(no_rate_is_no_limit);
    RUN(the_burst_passes_at_once);
    RUN(the_usual_burst_is_a_tenth_of_a_second);
    RUN(the_rate_holds_from_a_byte_to_100_gigabit);
    RUN(sizes_do_not_change_the_rate);
    RUN(when_is_the_first_instant);
    RUN(more_than_the_burst_goes_when_the_bucket_is_full);
    RUN(silence_saves_no_more_than_the_burst);
    RUN(an_absurd_burst_does_not_wrap);
    RUN(a_refusal_costs_nothing);
    RUN(threads_share_one_level);
    return CHECK_DONE("policy/bucket");
}
