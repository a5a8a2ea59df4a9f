/* Packets of limited clients wait here, each worker's apart: a lane per client with a queue for either direction. Within a flow they keep
 * their order, since a flow stays on its worker. A lane knows its client by key only, so nobody needs to know of lanes when one goes. */
#include <stdlib.h>
#include <string.h>

#include "engine/hub.h"
#include "engine/limit.h"
#include "engine/wg.h"
#include "packet/gso.h"

enum { UP, DOWN, WAYS };

static const uint64_t IDLE_LIFE = 10 * SV_NS_PER_S;

struct lane {
    uint8_t key[SV_KEY];
    struct sv_queue *queues[WAYS];
    struct sv_deadline deadline;
    uint64_t used_at;
};

static void drain(struct sv_worker *worker, struct lane *lane);

/* ---- lanes ---- */

static void free_lane(struct sv_worker *worker, struct lane *lane)
{
    sv_heap_remove(&worker->wg->lane_deadlines, &lane->deadline);
    sv_map_remove(&worker->wg->lanes, lane->key);
    for (size_t i = 0; i < WAYS; i++) {
        sv_queue_free(lane->queues[i]);
    }
    free(lane);
}

static void arm(struct sv_worker *worker)
{
    uint64_t at = sv_heap_next(&worker->wg->lane_deadlines);

    if (at != worker->wg->lane_timer_at) {
        worker->wg->lane_timer_at = at;
        sv_timer_set(worker->wg->lane_timer, at);
    }
}

static void on_timer(void *ctx)
{
    struct sv_worker *worker = ctx;
    struct sv_deadline *due;

    worker->wg->lane_timer_at = SV_NEVER;
    while ((due = sv_heap_pop(&worker->wg->lane_deadlines, worker->loop.now))) {
        drain(worker, SV_CONTAINER_OF(due, struct lane, deadline));
    }
    sv_gro_flush(worker->gro);
    arm(worker);
}

int sv_wg_lanes_open(struct sv_worker *worker)
{
    struct sv_wg_worker *part = worker->wg;

    sv_heap_init(&part->lane_deadlines);
    part->lane_timer_at = SV_NEVER;
    part->lane_timer = sv_timer_new(&worker->loop, on_timer, worker);
    return part->lane_timer ? sv_map_init(&part->lanes, SV_KEY, NULL, worker->engine->secret) : SV_E_NOMEM;
}

static bool first(void *ctx, const void *key, void *object)
{
    (void)key;
    *(struct lane **)ctx = object;
    return false;
}

void sv_wg_lanes_close(struct sv_worker *worker)
{
    struct lane *lane = NULL;

    if (!worker->wg->lane_timer) {
        return;
    }
    for (sv_map_each(&worker->wg->lanes, first, &lane); lane; sv_map_each(&worker->wg->lanes, first, &lane)) {
        free_lane(worker, lane);
        lane = NULL;
    }
    sv_timer_close(worker->wg->lane_timer);
    sv_map_clear(&worker->wg->lanes);
    sv_heap_clear(&worker->wg->lane_deadlines);
}

static struct lane *lane_of(struct sv_worker *worker, const struct sv_wg_member *member)
{
    struct lane *lane = sv_map_get(&worker->wg->lanes, member->peer.public_key);

    if (!lane) {
        lane = calloc(1, sizeof *lane);
        if (lane && sv_map_insert(&worker->wg->lanes, member->peer.public_key, lane)) {
            free(lane);
            lane = NULL;
        }
        if (lane) {
            memcpy(lane->key, member->peer.public_key, SV_KEY);
        }
    }
    return lane;
}

static bool waits(const struct lane *lane, size_t way)
{
    return lane && lane->queues[way] && sv_queue_packets(lane->queues[way]);
}

static struct sv_bucket *bucket_of(struct sv_limiter *limiter, size_t way)
{
    return way == UP ? &limiter->up : &limiter->down;
}

/* ---- holding back ---- */

static void drop(struct sv_wg_member *member, enum sv_verdict verdict, size_t bytes)
{
    sv_count_shared(&member->traffic.drops[verdict], 1);
    sv_count_shared(&member->traffic.bytes_dropped, bytes);
}

static bool passes(struct sv_worker *worker, const struct sv_wg_member *member, struct sv_limiter *limiter,
                   size_t way, size_t len)
{
    return !waits(sv_map_get(&worker->wg->lanes, member->peer.public_key), way) &&
           sv_bucket_take(bucket_of(limiter, way), worker->loop.now, (uint32_t)len);
}

/* At `at` or before: the limit may change meanwhile. */
static void wake_by(struct sv_worker *worker, struct lane *lane, uint64_t at)
{
    uint64_t latest = worker->loop.now + SV_QUEUE_HELD_MS * SV_NS_PER_MS;

    at = at < latest ? at : latest;
    if (!lane->deadline.place || at < lane->deadline.at) {
        sv_heap_set(&worker->wg->lane_deadlines, &lane->deadline, at);
        arm(worker);
    }
}

static void hold(struct sv_worker *worker, struct sv_wg_member *member, struct sv_limiter *limiter,
                 size_t way, struct sv_buf **slot, const struct sv_ip *ip)
{
    struct lane *lane = lane_of(worker, member);
    struct sv_queue *queue = lane ? sv_queue_make(&lane->queues[way], limiter) : NULL;
    size_t len = sv_buf_len(*slot);
    uint64_t now = worker->loop.now;
    uint32_t flow;
    enum sv_class klass = sv_classify(worker->classifier, now, ip, &flow);
    struct sv_buf *kept = queue ? sv_outbound_keep(worker, slot) : NULL;

    if (kept) {
        kept->tag = flow;
    }
    if (!kept || sv_queue_push(queue, now, kept, klass)) {
        drop(member, SV_DROP_RATE, len);
    }
    if (lane) {
        lane->used_at = now;
    }
    if (waits(lane, way)) {
        wake_by(worker, lane, sv_bucket_when(bucket_of(limiter, way), now, (uint32_t)len));
    }
}

static void pass_down(struct sv_worker *worker, struct sv_wg_member *member, struct sv_limiter *limiter,
                      struct sv_buf **slot, const struct sv_ip *ip)
{
    if (passes(worker, member, limiter, DOWN, sv_buf_len(*slot))) {
        sv_wg_transmit(worker, member, *slot, ip);
    } else {
        hold(worker, member, limiter, DOWN, slot, ip);
    }
}

/* Under a limit a super-packet goes segment by segment. */
static void split(struct sv_worker *worker, struct sv_wg_member *member, struct sv_limiter *limiter,
                  struct sv_buf *super, const struct sv_ip *ip)
{
    struct sv_gso it;
    struct sv_ip inner;
    size_t n;

    if (sv_gso_init(&it, super->data, sv_buf_len(super), ip, super->kind, super->segment_size)) {
        drop(member, SV_DROP_MALFORMED, sv_buf_len(super));
        return;
    }
    for (struct sv_buf *segment; (segment = sv_buf_get(&worker->pool, SV_BUF_LARGE));) {
        n = sv_gso_next(&it, segment->data);
        segment->end = segment->data + n;
        if (n && sv_ip_parse(&inner, segment->data, n) == 0) {
            pass_down(worker, member, limiter, &segment, &inner);
        }
        sv_buf_put(segment);
        if (!n) {
            break;
        }
    }
}

void sv_wg_limit_down(struct sv_worker *worker, struct sv_wg_member *member, struct sv_limiter *limiter,
                      struct sv_buf **slot, const struct sv_ip *ip)
{
    if ((*slot)->kind) {
        split(worker, member, limiter, *slot, ip);
    } else {
        pass_down(worker, member, limiter, slot, ip);
    }
}

void sv_wg_limit_up(struct sv_worker *worker, struct sv_wg_member *member, struct sv_limiter *limiter,
                    uint8_t *packet, size_t len, const struct sv_ip *ip)
{
    struct sv_buf *buf;

    if (passes(worker, member, limiter, UP, len)) {
        sv_wg_deliver(worker, member, packet, len, ip);
        return;
    }
    buf = sv_buf_get(&worker->pool, len > SV_BUF_SMALL ? SV_BUF_LARGE : SV_BUF_SMALL);
    if (buf) {
        memcpy(buf->data, packet, len);
        buf->end = buf->data + len;
        hold(worker, member, limiter, UP, &buf, ip);
        sv_buf_put(buf);
    } else {
        drop(member, SV_DROP_RATE, len);
    }
}

/* ---- letting go ---- */

static void let_go(struct sv_worker *worker, struct sv_wg_member *member, size_t way, struct sv_buf *buf)
{
    struct sv_ip ip;

    if (sv_ip_parse(&ip, buf->data, sv_buf_len(buf))) {
        return;
    }
    if (way == DOWN) {
        sv_wg_transmit(worker, member, buf, &ip);
    } else {
        sv_wg_deliver(worker, member, buf->data, sv_buf_len(buf), &ip);
        sv_gro_flush(worker->gro); /* before the buffer is given back */
    }
}

/* When the next packet of that way may go; SV_NEVER: none waits. */
static uint64_t drain_way(struct sv_worker *worker, struct sv_wg_member *member, struct sv_limiter *limiter,
                          struct lane *lane, size_t way)
{
    struct sv_queue *queue = lane->queues[way];
    struct sv_bucket *bucket = limiter ? bucket_of(limiter, way) : NULL;
    uint64_t again = SV_NEVER;
    struct sv_buf *buf;

    while (queue && (buf = sv_queue_next(queue, limiter, bucket, worker->loop.now, &again))) {
        let_go(worker, member, way, buf);
        sv_buf_put(buf);
    }
    if (queue) {
        sv_queue_count_expired(queue, &member->traffic);
    }
    return again;
}

static void drain(struct sv_worker *worker, struct lane *lane)
{
    struct sv_wg_member *member = sv_wg_find(worker->engine->wg, lane->key);
    struct sv_limiter *limiter = member && member->client ? sv_hub_limiter(member->client) : NULL;
    uint64_t at = SV_NEVER;

    if (limiter && !limiter->bytes_per_sec) {
        limiter = NULL;
    }
    for (size_t way = 0; member && way < WAYS; way++) {
        uint64_t next = drain_way(worker, member, limiter, lane, way);

        at = next < at ? next : at;
    }
    if (at == SV_NEVER && (!member || worker->loop.now - lane->used_at >= IDLE_LIFE)) {
        free_lane(worker, lane);
        return;
    }
    sv_heap_set(&worker->wg->lane_deadlines, &lane->deadline,
                at == SV_NEVER ? lane->used_at + IDLE_LIFE : at);
}
