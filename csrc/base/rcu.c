#include "base/rcu.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/error.h"

int sv_rcu_init(struct sv_rcu *rcu, size_t readers)
{
    *rcu = (struct sv_rcu){.epoch = 1, .last = &rcu->first};
    if (readers > SV_RCU_MAX_READERS) {
        return SV_E_INVALID;
    }
    pthread_mutex_init(&rcu->lock, NULL);
    rcu->reader_count = readers;
    return 0;
}

/* The oldest that `seen` allows, taken out of the list, or NULL: free_fn is called without the lock. */
static struct sv_rcu_head *take_oldest(struct sv_rcu *rcu, uint64_t seen)
{
    struct sv_rcu_head *head;

    pthread_mutex_lock(&rcu->lock);
    head = rcu->first;
    if (head && head->due <= seen) {
        rcu->first = head->next;
        rcu->last = rcu->first ? rcu->last : &rcu->first;
    } else {
        head = NULL;
    }
    pthread_mutex_unlock(&rcu->lock);
    return head;
}

static void free_until(struct sv_rcu *rcu, uint64_t seen)
{
    struct sv_rcu_head *head;

    while ((head = take_oldest(rcu, seen))) {
        head->free_fn(head);
    }
}

void sv_rcu_clear(struct sv_rcu *rcu)
{
    if (rcu->last) {
        free_until(rcu, UINT64_MAX);
    }
}

/* Either the second look at the epoch sees the writer's step, and with it all that was taken out before; or
 * the writer, which steps first and looks at `seen` then, sees this reader and waits for it. Both pairs of
 * accesses need the one order that only seq_cst gives. */
void sv_rcu_online(struct sv_rcu *rcu, size_t reader)
{
    atomic_uint_fast64_t *seen = &rcu->readers[reader].seen;
    uint64_t epoch = atomic_load(&rcu->epoch);

    while (atomic_load_explicit(seen, memory_order_relaxed) != epoch) {
        atomic_store(seen, epoch);
        epoch = atomic_load(&rcu->epoch);
    }
}

void sv_rcu_offline(struct sv_rcu *rcu, size_t reader)
{
    atomic_store_explicit(&rcu->readers[reader].seen, 0, memory_order_release);
}

/* The epoch that makes everything taken out so far unreachable once it was seen. */
static uint64_t next_epoch(struct sv_rcu *rcu)
{
    return atomic_fetch_add(&rcu->epoch, 1) + 1;
}

static uint64_t oldest_seen(struct sv_rcu *rcu)
{
    uint64_t oldest = UINT64_MAX;

    for (size_t i = 0; i < rcu->reader_count; i++) {
        uint64_t seen = atomic_load(&rcu->readers[i].seen);

        if (seen && seen < oldest) {
            oldest = seen;
        }
    }
    return oldest;
}

void sv_rcu_defer(struct sv_rcu *rcu, struct sv_rcu_head *head, void (*free_fn)(struct sv_rcu_head *))
{
    pthread_mutex_lock(&rcu->lock);
    *head = (struct sv_rcu_head){.due = next_epoch(rcu), .free_fn = free_fn};
    *rcu->last = head;
    rcu->last = &head->next;
    pthread_mutex_unlock(&rcu->lock);
}

void sv_rcu_free(struct sv_rcu_head *head)
{
    free(head);
}

size_t sv_rcu_reclaim(struct sv_rcu *rcu)
{
    size_t waiting = 0;

    free_until(rcu, oldest_seen(rcu));
    pthread_mutex_lock(&rcu->lock);
    for (const struct sv_rcu_head *d = rcu->first; d; d = d->next) {
        waiting++;
    }
    pthread_mutex_unlock(&rcu->lock);
    return waiting;
}
