#include "base/heap.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"

enum { FIRST_CAPACITY = 16 };

void sv_heap_init(struct sv_heap *heap)
{
    *heap = (struct sv_heap){0};
}

void sv_heap_clear(struct sv_heap *heap)
{
    for (size_t i = 0; i < heap->count; i++) {
        heap->entries[i]->place = 0;
    }
    free(heap->entries);
    sv_heap_init(heap);
}

static void put_at(struct sv_heap *heap, size_t index, struct sv_deadline *deadline)
{
    heap->entries[index] = deadline;
    deadline->place = index + 1;
}

static void sift_up(struct sv_heap *heap, struct sv_deadline *deadline)
{
    size_t index = deadline->place - 1;

    while (index > 0 && deadline->at < heap->entries[(index - 1) / 2]->at) {
        put_at(heap, index, heap->entries[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    put_at(heap, index, deadline);
}

static size_t soonest_child(const struct sv_heap *heap, size_t index)
{
    size_t left = 2 * index + 1;
    size_t right = left + 1;

    return right < heap->count && heap->entries[right]->at < heap->entries[left]->at ? right : left;
}

static void sift_down(struct sv_heap *heap, struct sv_deadline *deadline)
{
    size_t index = deadline->place - 1;
    size_t child = soonest_child(heap, index);

    while (child < heap->count && heap->entries[child]->at < deadline->at) {
        put_at(heap, index, heap->entries[child]);
        index = child;
        child = soonest_child(heap, index);
    }
    put_at(heap, index, deadline);
}

static void restore(struct sv_heap *heap, struct sv_deadline *deadline)
{
    sift_up(heap, deadline);
    sift_down(heap, deadline);
}

static int make_room(struct sv_heap *heap)
{
    if (heap->count < heap->capacity) {
        return 0;
    }
    size_t capacity = heap->capacity ? 2 * heap->capacity : FIRST_CAPACITY;
    struct sv_deadline **entries = reallocarray(heap->entries, capacity, sizeof *entries);

    if (!entries) {
        return SV_E_NOMEM;
    }
    heap->entries = entries;
    heap->capacity = capacity;
    return 0;
}

int sv_heap_set(struct sv_heap *heap, struct sv_deadline *deadline, uint64_t at)
{
    if (at == SV_NEVER) {
        sv_heap_remove(heap, deadline);
        return 0;
    }
    if (!deadline->place) {
        int error = make_room(heap);

        if (error) {
            return error;
        }
        put_at(heap, heap->count++, deadline);
    }
    deadline->at = at;
    restore(heap, deadline);
    return 0;
}

void sv_heap_remove(struct sv_heap *heap, struct sv_deadline *deadline)
{
    if (!deadline->place) {
        return;
    }
    size_t index = deadline->place - 1;
    struct sv_deadline *last = heap->entries[--heap->count];

    deadline->place = 0;
    if (last != deadline) {
        put_at(heap, index, last);
        restore(heap, last);
    }
}

uint64_t sv_heap_next(const struct sv_heap *heap)
{
    return heap->count ? heap->entries[0]->at : SV_NEVER;
}

struct sv_deadline *sv_heap_pop(struct sv_heap *heap, uint64_t now)
{
    if (!heap->count || heap->entries[0]->at > now) {
        return NULL;
    }
    struct sv_deadline *deadline = heap->entries[0];

    sv_heap_remove(heap, deadline);
    return deadline;
}
