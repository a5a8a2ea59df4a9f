/* A pool hands out at most what it may, uses every buffer again, and takes them back from any thread. */
#include "tests/c/check.h"

#include <pthread.h>
#include <sched.h>

#include "base/buf.h"
#include "base/ring.h"

enum { SMALL_BOUND = 8, LARGE_BOUND = 3, THREADS = 4, ROUNDS = 20000, OUTSTANDING = 32 };

static void room_and_headroom(void)
{
    static const struct {
        size_t asked, given;
    } sizes[] = {
        {0, SV_BUF_SMALL},
        {SV_BUF_SMALL, SV_BUF_SMALL},
        {SV_BUF_SMALL + 1, SV_BUF_LARGE},
        {SV_BUF_LARGE, SV_BUF_LARGE},
    };
    struct sv_buf_pool pool;

    sv_buf_pool_init(&pool, SMALL_BOUND, LARGE_BOUND);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct sv_buf *buf = sv_buf_get(&pool, sizes[i].asked);

        CHECK_EQ(sv_buf_len(buf), 0);
        CHECK_EQ(sv_buf_headroom(buf), SV_BUF_HEADROOM);
        CHECK_EQ(sv_buf_tailroom(buf), sizes[i].given);
        memset(buf->mem, 0xa5, buf->size);
        sv_buf_put(buf);
    }
    CHECK(!sv_buf_get(&pool, SV_BUF_LARGE + 1));
    sv_buf_pool_clear(&pool);
}

static void push_grows_to_the_front(void)
{
    struct sv_buf_pool pool;

    sv_buf_pool_init(&pool, SMALL_BOUND, LARGE_BOUND);
    struct sv_buf *buf = sv_buf_get(&pool, 100);
    uint8_t *payload = buf->data;

    buf->end += 10;
    CHECK(sv_buf_push(buf, 5) == payload - 5);
    CHECK_EQ(sv_buf_len(buf), 15);
    CHECK_EQ(sv_buf_headroom(buf), SV_BUF_HEADROOM - 5);
    CHECK(sv_buf_push(buf, SV_BUF_HEADROOM - 5) == buf->mem);
    CHECK_EQ(sv_buf_headroom(buf), 0);
    CHECK_EQ(sv_buf_tailroom(buf), SV_BUF_SMALL - 10);
    sv_buf_put(buf);
    sv_buf_pool_clear(&pool);
}

static void bound_of_class(size_t room, uint32_t bound)
{
    struct sv_buf *bufs[SMALL_BOUND] = {0};
    struct sv_buf_pool pool;

    sv_buf_pool_init(&pool, SMALL_BOUND, LARGE_BOUND);
    for (uint32_t i = 0; i < bound; i++) {
        bufs[i] = sv_buf_get(&pool, room);
        CHECK(bufs[i]);
    }
    CHECK(!sv_buf_get(&pool, room));
    sv_buf_put(bufs[0]);
    CHECK(sv_buf_get(&pool, room) == bufs[0]);
    CHECK(!sv_buf_get(&pool, room));
    for (uint32_t i = 0; i < bound; i++) {
        sv_buf_put(bufs[i]);
    }
    CHECK_EQ(pool.used_small + pool.used_large, 0);
    sv_buf_pool_clear(&pool);
}

static void each_class_has_its_bound(void)
{
    bound_of_class(SV_BUF_SMALL, SMALL_BOUND);
    bound_of_class(SV_BUF_LARGE, LARGE_BOUND);
}

static void comes_back_empty(void)
{
    struct sv_buf_pool pool;

    sv_buf_pool_init(&pool, 1, 1);
    struct sv_buf *buf = sv_buf_get(&pool, 1);

    sv_buf_push(buf, 3);
    buf->end += 7;
    buf->segment_size = 1400;
    buf->kind = 2;
    sv_buf_put(buf);
    sv_buf_put(NULL);

    struct sv_buf *again = sv_buf_get(&pool, 1);

    CHECK(again == buf && !again->next);
    CHECK_EQ(sv_buf_len(again), 0);
    CHECK_EQ(sv_buf_headroom(again), SV_BUF_HEADROOM);
    CHECK_EQ(again->segment_size + again->kind, 0);
    sv_buf_put(again);
    sv_buf_pool_clear(&pool);
}

static void remote_return_waits_for_collect(void)
{
    struct sv_buf_pool pool;

    sv_buf_pool_init(&pool, 2, 1);
    struct sv_buf *one = sv_buf_get(&pool, 1);
    struct sv_buf *two = sv_buf_get(&pool, 1);
    struct sv_buf *large = sv_buf_get(&pool, SV_BUF_LARGE);

    sv_buf_put_remote(one);
    sv_buf_put_remote(large);
    sv_buf_put_remote(two);
    CHECK(!sv_buf_get(&pool, 1));
    sv_buf_pool_collect(&pool);
    CHECK_EQ(pool.used_small + pool.used_large, 0);
    sv_buf_pool_collect(&pool);
    CHECK_EQ(pool.used_small + pool.used_large, 0);
    sv_buf_put_remote(sv_buf_get(&pool, 1));
    sv_buf_pool_clear(&pool);
    CHECK_EQ(pool.used_small, 0);
}

struct returner {
    struct sv_ring ring;
    pthread_t thread;
    unsigned long wrong;
};

static bool is_filled_with(const struct sv_buf *buf, uint8_t byte)
{
    for (const uint8_t *p = buf->data; p < buf->end; p++) {
        if (*p != byte) {
            return false;
        }
    }
    return true;
}

/* Each buffer carries a pattern; the other thread checks it, spoils it, and gives the buffer back. */
static void *return_buffers(void *arg)
{
    struct returner *returner = arg;

    for (int got = 0; got < ROUNDS;) {
        struct sv_buf *buf = sv_ring_pop(&returner->ring);

        if (!buf) {
            sched_yield();
            continue;
        }
        returner->wrong += sv_buf_len(buf) != 100 || !is_filled_with(buf, (uint8_t)buf->tag);
        memset(buf->data, 0xee, 100);
        sv_buf_put_remote(buf);
        got++;
    }
    return NULL;
}

static struct sv_buf *get_when_returned(struct sv_buf_pool *pool)
{
    struct sv_buf *buf;

    while (!(buf = sv_buf_get(pool, 100))) {
        sched_yield();
        sv_buf_pool_collect(pool);
    }
    return buf;
}

static void send_round(struct sv_buf_pool *pool, struct returner *returners, uint32_t round)
{
    for (size_t i = 0; i < THREADS; i++) {
        struct sv_buf *buf = get_when_returned(pool);

        buf->tag = round;
        memset(buf->data, (uint8_t)round, 100);
        buf->end = buf->data + 100;
        while (!sv_ring_push(&returners[i].ring, buf)) {
            sched_yield();
        }
    }
}

static void other_threads_return(void)
{
    static struct returner returners[THREADS];
    struct sv_buf_pool pool;

    sv_buf_pool_init(&pool, OUTSTANDING, 0);
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ(sv_ring_init(&returners[i].ring, OUTSTANDING), 0);
        CHECK_EQ(pthread_create(&returners[i].thread, NULL, return_buffers, &returners[i]), 0);
    }
    for (uint32_t round = 0; round < ROUNDS; round++) {
        send_round(&pool, returners, round);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(returners[i].thread, NULL);
        CHECK_EQ(returners[i].wrong, 0);
        sv_ring_clear(&returners[i].ring);
    }
    sv_buf_pool_collect(&pool);
    CHECK_EQ(pool.used_small, 0);
    sv_buf_pool_clear(&pool);
}

int main(void)
{
    RUN(room_and_headroom);
    RUN(push_grows_to_the_front);
    RUN(each_class_has_its_bound);
    RUN(comes_back_empty);
    RUN(remote_return_waits_for_collect);
    RUN(other_threads_return);
    return CHECK_DONE("base_buf");
}
