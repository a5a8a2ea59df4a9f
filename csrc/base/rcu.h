/* Grace periods: an object taken out of a shared table is freed once every worker has passed its loop top.
 *
 * Quiescent-state based: a worker is online while it runs callbacks and offline while it waits for events; a reader needs no
 * instruction per look-up. Any thread may defer; an object is taken out of its table under its owner's lock.
 */
#ifndef SV_BASE_RCU_H
#define SV_BASE_RCU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { SV_RCU_MAX_READERS = 64 };

struct sv_rcu_reader {
    _Alignas(64) atomic_uint_fast64_t seen; /* 0 while offline, else the epoch at its last loop top */
};

/* Inside the object, so that giving it up needs no memory. */
struct sv_rcu_head {
    struct sv_rcu_head *next;
    uint64_t due; /* epoch that every online reader must have seen */
    void (*free_fn)(struct sv_rcu_head *);
};

struct sv_rcu {
    atomic_uint_fast64_t epoch; /* starts at 1 */
    size_t reader_count;
    struct sv_rcu_reader readers[SV_RCU_MAX_READERS];
    pthread_mutex_t lock;
    struct sv_rcu_head *first, **last; /* waiting to be freed, oldest first; under the lock */
};

int sv_rcu_init(struct sv_rcu *rcu, size_t readers);

/* Frees all that waits; every reader must have ended. */
void sv_rcu_clear(struct sv_rcu *rcu);

/* Reader i (one thread each): at the loop's top after waking, and before it goes to sleep. online may be called again and
 * again while online: each call is a loop top. */
void sv_rcu_online(struct sv_rcu *rcu, size_t reader);
void sv_rcu_offline(struct sv_rcu *rcu, size_t reader);

/* Any thread: free_fn(head) after a grace period. Objects are freed in the order in which they came. */
void sv_rcu_defer(struct sv_rcu *rcu, struct sv_rcu_head *head, void (*free_fn)(struct sv_rcu_head *));

/* For sv_rcu_defer: free(), of objects whose first member is the head. */
void sv_rcu_free(struct sv_rcu_head *head);

/* Any thread, now and then: frees what is due; how many still wait. free_fn may defer more. */
size_t sv_rcu_reclaim(struct sv_rcu *rcu);

#endif
