/* A link's three priority queues: high always drains first.
 *
 * low and normal are dropped when their queue is full; high is taken past its limit with a deadline of 5 ms and dropped when that passes (a hard limit
 * of twice the limit holds all the same). A packet joins its flow's class as long as that flow has packets queued, so that no flow is
 * ever reordered. Buffers that are refused or expire are put back to their pool and counted.
 *
 * A caller that holds packets back on purpose (a rate limiter) drops what has waited too long: with strict priorities a low packet would
 * else wait as long as the better classes fill the rate.
 */
#ifndef SV_POLICY_QUEUE_H
#define SV_POLICY_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "policy/classify.h"

enum {
    SV_QUEUE_HIGH_WAIT_MS = 5,
    SV_QUEUE_HELD_MS = 50, /* the most a packet is held back by a limiter */
    SV_QUEUE_SETS = 16,    /* of the flow table */
    SV_QUEUE_WAYS = 4,     /* flows of a set, the last of them all that find no place of their own */
};

struct sv_queue_lane {
    struct sv_buf *first, **last;
    size_t bytes, packets;
    size_t limit; /* bytes */
    uint64_t drops;
};

/* A flow that has packets queued. */
struct sv_queue_flow {
    uint32_t hash;
    uint16_t packets; /* 0: a free place */
    uint8_t lane;
};

struct sv_queue {
    struct sv_queue_lane lanes[SV_CLASS_COUNT];
    struct sv_queue_flow flows[SV_QUEUE_SETS][SV_QUEUE_WAYS];
    /* Packets that were taken and dropped after all, those of the high lane among them, and their bytes; the owner reads and zeroes them. */
    size_t expired, expired_high, expired_bytes;
};

void sv_queue_init(struct sv_queue *queue, const size_t limits[SV_CLASS_COUNT]);
void sv_queue_clear(struct sv_queue *queue);

/* The class of a flow's next packet: that of its packets in the queue, else its own. */
enum sv_class sv_queue_class(struct sv_queue *queue, uint32_t hash, enum sv_class own);

/* Takes the buffer over (buf->tag is the flow hash). 0 or SV_E_FULL (dropped, counted, put back). */
int sv_queue_push(struct sv_queue *queue, uint64_t now, struct sv_buf *buf, enum sv_class klass);

/* The next to send (the caller owns it then), or NULL. Expired ones are dropped on the way. */
struct sv_buf *sv_queue_pop(struct sv_queue *queue, uint64_t now);
/* The same one without taking it. */
struct sv_buf *sv_queue_peek(struct sv_queue *queue, uint64_t now);

/* Drops the normal and low packets that were pushed before `before` (ns) and that a better class keeps waiting. */
void sv_queue_drop_older(struct sv_queue *queue, uint64_t before);

static inline size_t sv_queue_packets(const struct sv_queue *queue)
{
    return queue->lanes[0].packets + queue->lanes[1].packets + queue->lanes[2].packets;
}

#endif
