#include "base/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"

enum { MIN_CAPACITY = 2 }; /* with one cell, "filled" and "free for the next round" were the same turn */

struct sv_ring_cell {
    atomic_size_t turn; /* == position: free for that push; == position + 1: filled by it */
    void *item;
};

static size_t power_of_two(size_t n)
{
    size_t power = MIN_CAPACITY;

    while (power < n && power) {
        power *= 2;
    }
    return power;
}

static int make_cells(struct sv_ring *ring, size_t capacity)
{
    size_t cells = power_of_two(capacity);

    ring->cells = cells ? calloc(cells, sizeof *ring->cells) : NULL;
    if (!ring->cells) {
        return SV_E_NOMEM;
    }
    for (size_t i = 0; i < cells; i++) {
        atomic_init(&ring->cells[i].turn, i);
    }
    ring->mask = cells - 1;
    return 0;
}

int sv_ring_init(struct sv_ring *ring, size_t capacity)
{
    *ring = (struct sv_ring){.fd = -1};

    int error = make_cells(ring, capacity);

    if (error) {
        return error;
    }
    ring->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (ring->fd < 0) {
        error = sv_fail(SV_E_SYSTEM, "eventfd: %s", strerror(errno));
        sv_ring_clear(ring);
    }
    return error;
}

void sv_ring_clear(struct sv_ring *ring)
{
    if (!ring->cells) {
        return;
    }
    if (ring->fd >= 0) {
        close(ring->fd);
    }
    free(ring->cells);
    ring->cells = NULL;
    ring->fd = -1;
}

/* The first producer that finds the consumer asleep wakes it; the others need not. */
static void wake_consumer(struct sv_ring *ring)
{
    if (atomic_load(&ring->sleeping) && atomic_exchange(&ring->sleeping, false)) {
        eventfd_write(ring->fd, 1);
    }
}

/* Takes a free cell for this producer alone, or returns NULL when the ring is full. */
static struct sv_ring_cell *claim(struct sv_ring *ring, size_t *position)
{
    size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

    for (;;) {
        struct sv_ring_cell *cell = &ring->cells[head & ring->mask];
        size_t turn = atomic_load_explicit(&cell->turn, memory_order_acquire);

        if (turn == head) {
            if (atomic_compare_exchange_weak_explicit(&ring->head, &head, head + 1, memory_order_relaxed,
                                                      memory_order_relaxed)) {
                *position = head;
                return cell;
            }
        } else if ((ptrdiff_t)(turn - head) < 0) {
            return NULL;
        } else {
            head = atomic_load_explicit(&ring->head, memory_order_relaxed);
        }
    }
}

bool sv_ring_push(struct sv_ring *ring, void *item)
{
    size_t position;
    struct sv_ring_cell *cell = claim(ring, &position);

    if (!cell) {
        return false;
    }
    cell->item = item;
    /* seq_cst here and in sleep: either this thread sees `sleeping`, or the consumer sees the item. */
    atomic_store(&cell->turn, position + 1);
    wake_consumer(ring);
    return true;
}

void *sv_ring_pop(struct sv_ring *ring)
{
    struct sv_ring_cell *cell = &ring->cells[ring->tail & ring->mask];

    if (atomic_load_explicit(&cell->turn, memory_order_acquire) != ring->tail + 1) {
        return NULL;
    }
    void *item = cell->item;

    atomic_store_explicit(&cell->turn, ring->tail + ring->mask + 1, memory_order_release);
    ring->tail++;
    return item;
}

bool sv_ring_sleep(struct sv_ring *ring)
{
    atomic_store(&ring->sleeping, true);
    if (atomic_load(&ring->cells[ring->tail & ring->mask].turn) != ring->tail + 1) {
        return true;
    }
    atomic_store(&ring->sleeping, false);
    return false;
}

void sv_ring_wake(struct sv_ring *ring)
{
    eventfd_t wakeups;

    atomic_store(&ring->sleeping, false);
    eventfd_read(ring->fd, &wakeups);
}
