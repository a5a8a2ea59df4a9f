/* Nothing is freed while a reader may still hold it; everything is freed once every reader has moved on. */
#include "tests/c/check.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "base/rcu.h"

enum { READERS = 3, SWAPS = 30000, ALIVE = 0x600d, DEAD = 0xbad };

static struct sv_rcu rcu;
static int freed[16];
static int freed_count;

static struct sv_rcu_head heads[16];

static void note_freed(struct sv_rcu_head *head)
{
    freed[freed_count++] = (int)(head - heads);
}

static void defer_number(int number)
{
    sv_rcu_defer(&rcu, &heads[number], note_freed);
}

static void start(size_t readers)
{
    freed_count = 0;
    CHECK_EQ(sv_rcu_init(&rcu, readers), 0);
}

static void online_reader_holds_it_up(void)
{
    start(2);
    sv_rcu_online(&rcu, 0);
    sv_rcu_online(&rcu, 1);
    defer_number(1);
    CHECK_EQ(sv_rcu_reclaim(&rcu), 1);
    sv_rcu_online(&rcu, 0);
    CHECK_EQ(sv_rcu_reclaim(&rcu), 1);
    sv_rcu_offline(&rcu, 1);
    CHECK_EQ(sv_rcu_reclaim(&rcu), 0);
    CHECK_EQ(freed_count, 1);
    sv_rcu_clear(&rcu);
}

static void later_reader_holds_up_nothing(void)
{
    start(2);
    defer_number(1);
    sv_rcu_online(&rcu, 0);
    CHECK_EQ(sv_rcu_reclaim(&rcu), 0);
    CHECK_EQ(freed_count, 1);
    sv_rcu_clear(&rcu);
}

/* A reader that passed its top between two defers holds up only the second. */
static void each_has_its_own_period(void)
{
    start(1);
    sv_rcu_online(&rcu, 0);
    defer_number(1);
    sv_rcu_online(&rcu, 0);
    defer_number(2);
    CHECK_EQ(sv_rcu_reclaim(&rcu), 1);
    CHECK_EQ(freed_count, 1);
    CHECK_EQ(freed[0], 1);
    sv_rcu_online(&rcu, 0);
    CHECK_EQ(sv_rcu_reclaim(&rcu), 0);
    CHECK_EQ(freed[1], 2);
    sv_rcu_clear(&rcu);
}

static void clear_frees_all_in_order(void)
{
    start(1);
    sv_rcu_online(&rcu, 0);
    for (int i = 0; i < 5; i++) {
        defer_number(10 + i);
    }
    CHECK_EQ(sv_rcu_reclaim(&rcu), 5);
    sv_rcu_clear(&rcu);
    CHECK_EQ(freed_count, 5);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(freed[i], 10 + i);
    }
}

static void defer_more(struct sv_rcu_head *head)
{
    note_freed(head);
    defer_number(2);
}

static void freeing_may_defer_more(void)
{
    start(1);
    sv_rcu_defer(&rcu, &heads[1], defer_more);
    sv_rcu_reclaim(&rcu);
    sv_rcu_reclaim(&rcu);
    CHECK_EQ(freed_count, 2);
    sv_rcu_defer(&rcu, &heads[1], defer_more);
    sv_rcu_clear(&rcu);
    CHECK_EQ(freed_count, 4);
}

static void too_many_readers(void)
{
    CHECK_EQ(sv_rcu_init(&rcu, SV_RCU_MAX_READERS + 1), SV_E_INVALID);
    CHECK_EQ(sv_rcu_init(&rcu, SV_RCU_MAX_READERS), 0);
    sv_rcu_online(&rcu, SV_RCU_MAX_READERS - 1);
    defer_number(1);
    CHECK_EQ(sv_rcu_reclaim(&rcu), 1);
    sv_rcu_clear(&rcu);
}

struct object {
    struct sv_rcu_head rcu;
    int state;
};

struct reader {
    size_t index;
    pthread_t thread;
    unsigned long looks, dead;
};

static struct object *_Atomic current;
static atomic_bool stop;
static atomic_size_t running;

static struct object *new_object(void)
{
    struct object *object = malloc(sizeof *object);

    object->state = ALIVE;
    return object;
}

static void kill_object(struct sv_rcu_head *head)
{
    struct object *object = (struct object *)head;

    object->state = DEAD;
    free(object);
}

/* Looks at one object for as long as it may be held, then passes a loop top or goes to sleep. */
static void *read_objects(void *arg)
{
    struct reader *reader = arg;

    atomic_fetch_add(&running, 1);
    while (!atomic_load(&stop)) {
        sv_rcu_online(&rcu, reader->index);
        const struct object *object = atomic_load_explicit(&current, memory_order_acquire);

        for (int i = 0; i < 20; i++) {
            reader->dead += *(const volatile int *)&object->state != ALIVE;
        }
        if (++reader->looks % 3 == 0) {
            sv_rcu_offline(&rcu, reader->index);
            sched_yield();
        }
    }
    sv_rcu_offline(&rcu, reader->index);
    return NULL;
}

static void swap_objects(void)
{
    for (int i = 0; i < SWAPS; i++) {
        struct object *old = atomic_load_explicit(&current, memory_order_relaxed);

        atomic_store_explicit(&current, new_object(), memory_order_release);
        sv_rcu_defer(&rcu, &old->rcu, kill_object);
        if (i % 4 == 0) {
            sv_rcu_reclaim(&rcu);
        }
    }
}

static void readers_never_see_the_dead(void)
{
    struct reader readers[READERS] = {0};

    start(READERS);
    atomic_store(&current, new_object());
    for (size_t i = 0; i < READERS; i++) {
        readers[i].index = i;
        CHECK_EQ(pthread_create(&readers[i].thread, NULL, read_objects, &readers[i]), 0);
    }
    while (atomic_load(&running) < READERS) {
    }
    swap_objects();
    atomic_store(&stop, true);
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        CHECK(readers[i].looks > 0);
        CHECK_EQ(readers[i].dead, 0);
    }
    CHECK_EQ(sv_rcu_reclaim(&rcu), 0);
    kill_object(&atomic_load(&current)->rcu);
    sv_rcu_clear(&rcu);
}

int main(void)
{
    RUN(online_reader_holds_it_up);
    RUN(later_reader_holds_up_nothing);
    RUN(each_has_its_own_period);
    RUN(clear_frees_all_in_order);
    RUN(freeing_may_defer_more);
    RUN(too_many_readers);
    RUN(readers_never_see_the_dead);
    return CHECK_DONE("base_rcu");
}
