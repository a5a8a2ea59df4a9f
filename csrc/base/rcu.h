/* Grace periods: an object taken out of a shared table is freed once every worker has passed its loop top.
 *
 * Quiescent-state based: a worker is online while it runs callbacks and offline while it waits for events; a reader needs no
 * instruction per look-up. Writers are serialised by the owner's lock.
 */
#ifndef SV_BASE_RCU_H
#define SV_BASE_RCU_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { SV_RCU_MAX_READERS = 64 };

struct sv_rcu_reader {
    _Alignas(64) atomic_uint_fast64_t seen; /* 0 while offline, else the epoch at its last loop top */
};

struct sv_rcu_deferred;

struct sv_rcu {
    atomic_uint_fast64_t epoch;             /* starts at 1 */
    size_t reader_count;
    struct sv_rcu_reader readers[SV_RCU_MAX_READERS];
    struct sv_rcu_deferred *first, **last;  /* waiting to be freed, oldest first; the writer's */
};

int sv_rcu_init(struct sv_rcu *rcu, size_t readers);

/* Frees all that waits; every reader must have ended. */
void sv_rcu_clear(struct sv_rcu *rcu);

/* Reader i (one thread each): at the loop's top after waking, and before it goes to sleep. online may be called again and
 * again while online: each call is a loop top. */
void sv_rcu_online(struct sv_rcu *rcu, size_t reader);
void sv_rcu_offline(struct sv_rcu *rcu, size_t reader);

/* Writer: free_fn(object) after a grace period; when memory is short it waits for the grace period itself. */
void sv_rcu_defer(struct sv_rcu *rcu, void (*free_fn)(void *), void *object);

/* Writer: returns after a grace period. Never from a reader that is online: it would wait for itself. */
void sv_rcu_wait(struct sv_rcu *rcu);

/* Writer: frees what is due; returns how many still wait. Called now and then by the control thread. */
size_t sv_rcu_reclaim(struct sv_rcu *rcu);

#endif
