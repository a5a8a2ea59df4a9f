/* Queues of packets that wait for a link or for a limiter, and what both decide about the next one to go. */
#ifndef SV_ENGINE_LIMIT_H
#define SV_ENGINE_LIMIT_H

#include "engine/core.h"

/* *queue, made when it is not there, with limits that fit the limiter (NULL: none). NULL when memory is short. */
struct sv_queue *sv_queue_make(struct sv_queue **queue, const struct sv_limiter *limiter);
void sv_queue_free(struct sv_queue *queue);

/* The next packet, the caller's from now on, when the bucket of that limiter (both NULL: none) has its bytes. Else NULL, and *again is when to ask again
 * (SV_NEVER: nothing waits); what better classes kept waiting too long is gone by then. A limit may change meanwhile, so *again is never far. */
struct sv_buf *sv_queue_next(struct sv_queue *queue, const struct sv_limiter *limiter,
                             struct sv_bucket *bucket, uint64_t now, uint64_t *again);

/* Counts what expired in the queue since the last time. */
void sv_queue_count_expired(struct sv_queue *queue, struct sv_traffic *traffic);

/* The bytes of queued packets that a link of that priority (100 is usual) may send before others have their turn: inverse to the number, and
 * never so little that it starves. */
int64_t sv_turn_share(int priority);

#endif
