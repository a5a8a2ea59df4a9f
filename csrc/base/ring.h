/* A bounded queue of pointers into one consumer, with an eventfd that wakes it: many producers, one consumer, no lock.
 *
 * The eventfd is written only when the consumer had said it sleeps (sv_ring_sleep), so a busy consumer costs its
 * producers no system call.
 */
#ifndef SV_BASE_RING_H
#define SV_BASE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sv_ring_cell;

struct sv_ring {
    _Alignas(64) atomic_size_t head;         /* producers take cells here */
    _Alignas(64) size_t tail;                /* the consumer's */
    _Alignas(64) struct sv_ring_cell *cells; /* from here on read by all, written seldom */
    size_t mask;                             /* capacity - 1 */
    int fd;                                  /* eventfd, non-blocking; the consumer polls it for reading */
    atomic_bool sleeping;
};

/* capacity is rounded up to a power of two. */
int sv_ring_init(struct sv_ring *ring, size_t capacity);
void sv_ring_clear(struct sv_ring *ring);

/* Any thread. false: full, the caller keeps the item. */
bool sv_ring_push(struct sv_ring *ring, void *item);

/* Consumer only: the oldest item, or NULL. */
void *sv_ring_pop(struct sv_ring *ring);

/* Consumer only, before it waits on fd: true when it may sleep, false when items are there. */
bool sv_ring_sleep(struct sv_ring *ring);

/* Consumer only, after waking: clears the eventfd and says that it is awake. */
void sv_ring_wake(struct sv_ring *ring);

#endif
