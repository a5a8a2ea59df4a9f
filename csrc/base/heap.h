/* Deadlines, soonest first: an intrusive binary heap whose entries know their place, so moving one costs O(log n). */
#ifndef SV_BASE_HEAP_H
#define SV_BASE_HEAP_H

#include <stddef.h>
#include <stdint.h>

/* Embedded in the owner's struct (container_of); init with SV_DEADLINE_INIT or all zeros: in no heap. */
struct sv_deadline {
    uint64_t at;  /* ns; meaningful while in the heap */
    size_t place; /* 1 + index in the heap; 0: in none */
};

struct sv_heap {
    struct sv_deadline **entries;
    size_t count, capacity;
};

void sv_heap_init(struct sv_heap *heap);
void sv_heap_clear(struct sv_heap *heap);

/* Puts the deadline in, or moves it; SV_NEVER takes it out. SV_E_NOMEM changes nothing. */
int sv_heap_set(struct sv_heap *heap, struct sv_deadline *deadline, uint64_t at);
void sv_heap_remove(struct sv_heap *heap, struct sv_deadline *deadline);

/* Soonest deadline, or SV_NEVER. */
uint64_t sv_heap_next(const struct sv_heap *heap);

/* Takes out and returns one deadline that is due at `now`, or NULL. */
struct sv_deadline *sv_heap_pop(struct sv_heap *heap, uint64_t now);

#define SV_CONTAINER_OF(pointer, type, member) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

#endif
