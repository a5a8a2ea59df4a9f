/* Every item comes out once and in its producer's order; a sleeping consumer is woken, a busy one is not. */
#include "tests/c/check.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/error.h"
#include "base/ring.h"

/* The one oversized ring below is meant to be refused. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

enum { PRODUCERS = 4, ITEMS = 20000, PING_PONGS = 20000, DUELS = 200000, PATIENCE_MS = 10000 };

static char things[64];

static bool is_readable(int fd, int timeout_ms)
{
    struct pollfd event = {.fd = fd, .events = POLLIN};

    return poll(&event, 1, timeout_ms) == 1;
}

static size_t fill(struct sv_ring *ring)
{
    size_t count = 0;

    while (count < sizeof things && sv_ring_push(ring, &things[count])) {
        count++;
    }
    return count;
}

static void capacity_is_a_power_of_two(void)
{
    static const struct {
        size_t asked, given;
    } sizes[] = {{0, 2}, {1, 2}, {2, 2}, {3, 4}, {5, 8}, {8, 8}, {33, 64}};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct sv_ring ring;

        CHECK_EQ(sv_ring_init(&ring, sizes[i].asked), 0);
        CHECK_EQ(fill(&ring), sizes[i].given);
        sv_ring_clear(&ring);
    }
}

static void impossible_capacity(void)
{
    struct sv_ring ring;

    CHECK_EQ(sv_ring_init(&ring, SIZE_MAX), SV_E_NOMEM);
    sv_ring_clear(&ring);
    CHECK_EQ(sv_ring_init(&ring, (size_t)1 << 60), SV_E_NOMEM);
    sv_ring_clear(&ring);
}

static void no_eventfd_left(void)
{
    struct rlimit usual;
    struct rlimit none;
    struct sv_ring ring;

    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &usual), 0);
    none = (struct rlimit){0, usual.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQ(sv_ring_init(&ring, 8), SV_E_SYSTEM);
    CHECK(strncmp(sv_error_detail(), "eventfd: ", 9) == 0);
    sv_ring_clear(&ring);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &usual), 0);
}

static void oldest_first_across_the_edge(void)
{
    struct sv_ring ring;

    CHECK_EQ(sv_ring_init(&ring, 4), 0);
    CHECK(!sv_ring_pop(&ring));
    for (size_t round = 0; round < 100; round++) {
        for (size_t i = 0; i < 3; i++) {
            CHECK(sv_ring_push(&ring, &things[(round + i) % sizeof things]));
        }
        for (size_t i = 0; i < 3; i++) {
            CHECK(sv_ring_pop(&ring) == &things[(round + i) % sizeof things]);
        }
        CHECK(!sv_ring_pop(&ring));
    }
    sv_ring_clear(&ring);
}

static void full_keeps_what_is_in(void)
{
    struct sv_ring ring;

    CHECK_EQ(sv_ring_init(&ring, 2), 0);
    CHECK(sv_ring_push(&ring, &things[0]));
    CHECK(sv_ring_push(&ring, &things[1]));
    CHECK(!sv_ring_push(&ring, &things[2]));
    CHECK(sv_ring_pop(&ring) == &things[0]);
    CHECK(sv_ring_push(&ring, &things[3]));
    CHECK(!sv_ring_push(&ring, &things[4]));
    CHECK(sv_ring_pop(&ring) == &things[1]);
    CHECK(sv_ring_pop(&ring) == &things[3]);
    CHECK(!sv_ring_pop(&ring));
    sv_ring_clear(&ring);
}

static void only_a_sleeper_is_woken(void)
{
    struct sv_ring ring;

    CHECK_EQ(sv_ring_init(&ring, 8), 0);
    CHECK(sv_ring_push(&ring, &things[0]));
    CHECK(!is_readable(ring.fd, 0));
    CHECK(!sv_ring_sleep(&ring));
    CHECK(sv_ring_push(&ring, &things[1]));
    CHECK(!is_readable(ring.fd, 0));
    CHECK(sv_ring_pop(&ring) == &things[0] && sv_ring_pop(&ring) == &things[1]);

    CHECK(sv_ring_sleep(&ring));
    CHECK(!is_readable(ring.fd, 0));
    CHECK(sv_ring_push(&ring, &things[2]));
    CHECK(is_readable(ring.fd, 0));
    CHECK(sv_ring_push(&ring, &things[3]));

    uint64_t wakeups = 0;

    CHECK_EQ(read(ring.fd, &wakeups, sizeof wakeups), sizeof wakeups);
    CHECK_EQ(wakeups, 1);
    sv_ring_wake(&ring);
    CHECK(sv_ring_push(&ring, &things[4]));
    CHECK(!is_readable(ring.fd, 0));
    sv_ring_clear(&ring);
}

static void wake_clears_the_eventfd(void)
{
    struct sv_ring ring;

    CHECK_EQ(sv_ring_init(&ring, 8), 0);
    CHECK(sv_ring_sleep(&ring));
    CHECK(sv_ring_push(&ring, &things[0]));
    sv_ring_wake(&ring);
    CHECK(!is_readable(ring.fd, 0));
    CHECK(sv_ring_pop(&ring) == &things[0]);
    CHECK(sv_ring_sleep(&ring));
    sv_ring_wake(&ring);
    sv_ring_clear(&ring);
}

/* The consumer's side of the contract: drain, say that it sleeps, wait, wake. NULL: a wake-up was lost. */
static void *pop_or_wait(struct sv_ring *ring)
{
    for (;;) {
        void *item = sv_ring_pop(ring);

        if (item) {
            return item;
        }
        if (sv_ring_sleep(ring)) {
            if (!is_readable(ring->fd, PATIENCE_MS)) {
                return NULL;
            }
            sv_ring_wake(ring);
        }
    }
}

struct item {
    size_t producer, number;
};

struct producer {
    struct sv_ring *ring;
    pthread_t thread;
    struct item items[ITEMS];
};

static void *produce(void *arg)
{
    struct producer *producer = arg;

    for (size_t i = 0; i < ITEMS; i++) {
        while (!sv_ring_push(producer->ring, &producer->items[i])) {
            sched_yield();
        }
        if (i % 64 == 0) {
            sched_yield();
        }
    }
    return NULL;
}

static void start_producer(struct producer *producer, size_t index, struct sv_ring *ring)
{
    producer->ring = ring;
    for (size_t i = 0; i < ITEMS; i++) {
        producer->items[i] = (struct item){index, i};
    }
    CHECK_EQ(pthread_create(&producer->thread, NULL, produce, producer), 0);
}

static void many_producers_keep_their_order(size_t capacity)
{
    static struct producer producers[PRODUCERS];
    size_t next[PRODUCERS] = {0};
    struct sv_ring ring;

    CHECK_EQ(sv_ring_init(&ring, capacity), 0);
    for (size_t i = 0; i < PRODUCERS; i++) {
        start_producer(&producers[i], i, &ring);
    }
    for (size_t i = 0; i < (size_t)PRODUCERS * ITEMS; i++) {
        const struct item *item = pop_or_wait(&ring);

        CHECK(item);
        if (!item) {
            abort();
        }
        CHECK_EQ(item->number, next[item->producer]++);
    }
    CHECK(!sv_ring_pop(&ring));
    for (size_t i = 0; i < PRODUCERS; i++) {
        pthread_join(producers[i].thread, NULL);
    }
    sv_ring_clear(&ring);
}

static void many_producers(void)
{
    many_producers_keep_their_order(2);
    many_producers_keep_their_order(256);
}

struct table_tennis {
    struct sv_ring there, back;
};

static void *play_back(void *arg)
{
    struct table_tennis *game = arg;
    void *ball;

    while ((ball = pop_or_wait(&game->there)) != &things[1]) {
        if (!ball || !sv_ring_push(&game->back, ball)) {
            return NULL;
        }
    }
    return NULL;
}

/* Each push meets a consumer about to sleep, and nothing comes after it to cover a lost wake-up. */
static void no_wakeup_is_lost(void)
{
    struct table_tennis game;
    pthread_t thread;

    CHECK_EQ(sv_ring_init(&game.there, 2), 0);
    CHECK_EQ(sv_ring_init(&game.back, 2), 0);
    CHECK_EQ(pthread_create(&thread, NULL, play_back, &game), 0);
    for (int i = 0; i < PING_PONGS; i++) {
        CHECK(sv_ring_push(&game.there, &things[0]));
        void *ball = pop_or_wait(&game.back);

        CHECK(ball == &things[0]);
        if (!ball) {
            break;
        }
    }
    CHECK(sv_ring_push(&game.there, &things[1]));
    pthread_join(thread, NULL);
    sv_ring_clear(&game.there);
    sv_ring_clear(&game.back);
}

struct duel {
    struct sv_ring ring;
    _Alignas(64) atomic_uint round;  /* both act as soon as it changes */
    _Alignas(64) atomic_uint pushed; /* the last round whose push is over */
};

static void wait_until(atomic_uint *value, unsigned int wanted)
{
    for (unsigned int spins = 1; atomic_load_explicit(value, memory_order_acquire) != wanted; spins++) {
        if (spins % 2000 == 0) {
            sched_yield();
        }
    }
}

/* So that the two meet at every step of their ways. */
static void dawdle(unsigned int turns)
{
    for (volatile unsigned int i = 0; i < turns; i++) {
    }
}

static void *push_each_round(void *arg)
{
    struct duel *duel = arg;

    for (unsigned int round = 1; round <= DUELS; round++) {
        wait_until(&duel->round, round);
        dawdle(round % 37);
        sv_ring_push(&duel->ring, &things[0]);
        atomic_store_explicit(&duel->pushed, round, memory_order_release);
    }
    return NULL;
}

/* One push against one sleep at the same instant: the consumer stays awake or the eventfd calls it. */
static void push_meets_sleep(void)
{
    static struct duel duel;
    unsigned long lost = 0;
    pthread_t thread;

    CHECK_EQ(sv_ring_init(&duel.ring, 2), 0);
    CHECK_EQ(pthread_create(&thread, NULL, push_each_round, &duel), 0);
    for (unsigned int round = 1; round <= DUELS; round++) {
        atomic_store_explicit(&duel.round, round, memory_order_release);
        dawdle(round % 211);
        bool asleep = sv_ring_sleep(&duel.ring);

        wait_until(&duel.pushed, round);
        lost += asleep && !is_readable(duel.ring.fd, 0);
        sv_ring_wake(&duel.ring);
        CHECK(sv_ring_pop(&duel.ring) == &things[0]);
    }
    pthread_join(thread, NULL);
    CHECK_EQ(lost, 0);
    sv_ring_clear(&duel.ring);
}

int main(void)
{
    RUN(capacity_is_a_power_of_two);
    RUN(impossible_capacity);
    RUN(no_eventfd_left);
    RUN(oldest_first_across_the_edge);
    RUN(full_keeps_what_is_in);
    RUN(only_a_sleeper_is_woken);
    RUN(wake_clears_the_eventfd);
    RUN(many_producers);
    RUN(no_wakeup_is_lost);
    RUN(push_meets_sleep);
    return CHECK_DONE("base_ring");
}
