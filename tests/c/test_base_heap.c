/* The heap gives deadlines back in order of time, whatever was moved or taken out before, as a list would. */
#include "tests/c/check.h"

#include <stdbool.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/heap.h"

/* The one failed allocation below is meant to return NULL. */
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

enum { DEADLINES = 300, STEPS = 60000 };

struct owner {
    int before; /* so that the deadline is not at the start */
    struct sv_deadline deadline;
    uint64_t expected; /* the model: SV_NEVER when in no heap */
};

static struct owner owners[DEADLINES];

static uint64_t random_number(void)
{
    static uint64_t x = UINT64_C(0x9e3779b97f4a7c15);

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x >> 11;
}

static uint64_t soonest_expected(void)
{
    uint64_t soonest = SV_NEVER;

    for (size_t i = 0; i < DEADLINES; i++) {
        soonest = owners[i].expected < soonest ? owners[i].expected : soonest;
    }
    return soonest;
}

static bool is_sound(const struct sv_heap *heap)
{
    for (size_t i = 0; i < heap->count; i++) {
        const struct sv_deadline *parent = heap->entries[i ? (i - 1) / 2 : 0];

        if (heap->entries[i]->place != i + 1 || heap->entries[i]->at < parent->at) {
            return false;
        }
    }
    return true;
}

static bool agrees(const struct sv_heap *heap)
{
    size_t in = 0;

    for (size_t i = 0; i < DEADLINES; i++) {
        bool expected_in = owners[i].expected != SV_NEVER;

        in += expected_in;
        if (expected_in != (owners[i].deadline.place != 0) ||
            (expected_in && owners[i].deadline.at != owners[i].expected)) {
            return false;
        }
    }
    return in == heap->count;
}

static void random_step(struct sv_heap *heap)
{
    struct owner *owner = &owners[random_number() % DEADLINES];
    uint64_t choice = random_number() % 8;

    if (choice < 5) {
        owner->expected = random_number() % 500;
        CHECK_EQ(sv_heap_set(heap, &owner->deadline, owner->expected), 0);
    } else if (choice == 5) {
        owner->expected = SV_NEVER;
        sv_heap_remove(heap, &owner->deadline);
    } else if (choice == 6) {
        owner->expected = SV_NEVER;
        CHECK_EQ(sv_heap_set(heap, &owner->deadline, SV_NEVER), 0);
    } else {
        uint64_t now = random_number() % 500;
        struct sv_deadline *due = sv_heap_pop(heap, now);

        CHECK_EQ(due != NULL, soonest_expected() <= now);
        if (due) {
            struct owner *popped = SV_CONTAINER_OF(due, struct owner, deadline);

            CHECK_EQ(popped->expected, soonest_expected());
            popped->expected = SV_NEVER;
        }
    }
}

static void forget_all(void)
{
    for (size_t i = 0; i < DEADLINES; i++) {
        owners[i] = (struct owner){.expected = SV_NEVER};
    }
}

static void agrees_with_a_list(void)
{
    struct sv_heap heap;

    forget_all();
    sv_heap_init(&heap);
    for (int step = 0; step < STEPS; step++) {
        random_step(&heap);
        CHECK(sv_heap_next(&heap) == soonest_expected());
        if (step % 16 == 0) {
            CHECK(is_sound(&heap) && agrees(&heap));
        }
    }
    sv_heap_clear(&heap);
}

static void pops_in_order(void)
{
    struct sv_heap heap;
    uint64_t last = 0;

    forget_all();
    sv_heap_init(&heap);
    for (size_t i = 0; i < DEADLINES; i++) {
        CHECK_EQ(sv_heap_set(&heap, &owners[i].deadline, random_number() % 100), 0);
    }
    for (size_t i = 0; i < DEADLINES; i++) {
        struct sv_deadline *due = sv_heap_pop(&heap, 100);

        CHECK(due && due->at >= last && !due->place);
        last = due ? due->at : 0;
    }
    CHECK(!sv_heap_pop(&heap, SV_NEVER));
    CHECK(sv_heap_next(&heap) == SV_NEVER);
    sv_heap_clear(&heap);
}

static void due_at_its_very_time(void)
{
    struct sv_heap heap;
    struct sv_deadline deadline = {0};

    sv_heap_init(&heap);
    CHECK_EQ(sv_heap_set(&heap, &deadline, 1000), 0);
    CHECK(!sv_heap_pop(&heap, 999));
    CHECK(sv_heap_pop(&heap, 1000) == &deadline);
    sv_heap_remove(&heap, &deadline);
    CHECK_EQ(heap.count, 0);
    sv_heap_clear(&heap);
}

static void clear_takes_all_out(void)
{
    struct sv_heap heap;

    forget_all();
    sv_heap_init(&heap);
    for (size_t i = 0; i < DEADLINES; i++) {
        CHECK_EQ(sv_heap_set(&heap, &owners[i].deadline, i), 0);
    }
    sv_heap_clear(&heap);
    for (size_t i = 0; i < DEADLINES; i++) {
        CHECK_EQ(owners[i].deadline.place, 0);
    }
    CHECK_EQ(sv_heap_set(&heap, &owners[7].deadline, 5), 0);
    CHECK_EQ(sv_heap_next(&heap), 5);
    sv_heap_clear(&heap);
}

/* A heap that claims to hold 2^58 entries cannot grow. */
static void without_memory_nothing_changes(void)
{
    const size_t huge = (size_t)1 << 58;
    struct sv_deadline in = {0};
    struct sv_deadline out = {0};
    struct sv_heap heap;

    sv_heap_init(&heap);
    CHECK_EQ(sv_heap_set(&heap, &in, 10), 0);
    const struct sv_heap real = heap;

    heap.count = heap.capacity = huge;
    CHECK_EQ(sv_heap_set(&heap, &out, 5), SV_E_NOMEM);
    CHECK_EQ(out.place, 0);
    CHECK_EQ(heap.count, huge);
    CHECK_EQ(heap.capacity, huge);
    CHECK(heap.entries == real.entries && sv_heap_next(&heap) == 10);
    heap = real;
    CHECK(sv_heap_pop(&heap, 10) == &in);
    sv_heap_clear(&heap);
}

int main(void)
{
    RUN(agrees_with_a_list);
    RUN(pops_in_order);
    RUN(due_at_its_very_time);
    RUN(clear_takes_all_out);
    RUN(without_memory_nothing_changes);
    return CHECK_DONE("base_heap");
}
