#include "policy/queue.h"

#include <smartvpn/base.h>
#include <stdbool.h>
#include <string.h>

#include "base/clock.h"

void sv_queue_init(struct sv_queue *queue, const size_t limits[SV_CLASS_COUNT])
{
    memset(queue, 0, sizeof *queue);
    for (size_t i = 0; i < SV_CLASS_COUNT; i++) {
        queue->lanes[i].last = &queue->lanes[i].first;
        queue->lanes[i].limit = limits[i];
    }
}

/* ---- flows ---- */

/* Where the flow's packets are counted: its own place; or, if other flows had all places of its set when it came, the one that such flows share. A flow
 * gets a place of its own only while nothing is counted in the shared one, so none is ever counted in two. */
static struct sv_queue_flow *flow_of(struct sv_queue *queue, uint32_t hash)
{
    struct sv_queue_flow *set = queue->flows[hash % SV_QUEUE_SETS], *shared = &set[SV_QUEUE_WAYS - 1];
    struct sv_queue_flow *place = shared;

    for (struct sv_queue_flow *flow = set; flow < shared; flow++) {
        if (flow->packets && flow->hash == hash) {
            return flow;
        }
        place = !flow->packets && !shared->packets ? flow : place;
    }
    return place;
}

static void leave_flow(struct sv_queue *queue, const struct sv_buf *buf)
{
    flow_of(queue, buf->tag)->packets--;
}

/* ---- lanes ---- */

static struct sv_buf *take_first(struct sv_queue *queue, struct sv_queue_lane *lane)
{
    struct sv_buf *buf = lane->first;

    lane->first = buf->next;
    if (!lane->first) {
        lane->last = &lane->first;
    }
    buf->next = NULL;
    lane->bytes -= sv_buf_len(buf);
    lane->packets--;
    leave_flow(queue, buf);
    return buf;
}

void sv_queue_clear(struct sv_queue *queue)
{
    for (size_t i = 0; i < SV_CLASS_COUNT; i++) {
        while (queue->lanes[i].first) {
            sv_buf_put(take_first(queue, &queue->lanes[i]));
        }
    }
}

/* An empty lane takes any packet, so that nothing is too long for its limit. High goes on past it, on time. */
static bool has_room(const struct sv_queue_lane *lane, enum sv_class klass, size_t len)
{
    size_t limit = klass == SV_CLASS_HIGH ? 2 * lane->limit : lane->limit;

    return !lane->packets || lane->bytes + len <= limit;
}

enum sv_class sv_queue_class(struct sv_queue *queue, uint32_t hash, enum sv_class own)
{
    const struct sv_queue_flow *flow = flow_of(queue, hash);

    return flow->packets ? (enum sv_class)flow->lane : own;
}

/* High: its deadline. Else when it came. */
static uint64_t stamp_of(const struct sv_queue_lane *lane, uint64_t now, size_t len, enum sv_class klass)
{
    if (klass != SV_CLASS_HIGH) {
        return now;
    }
    return lane->bytes + len > lane->limit ? now + SV_QUEUE_HIGH_WAIT_MS * SV_NS_PER_MS : SV_NEVER;
}

int sv_queue_push(struct sv_queue *queue, uint64_t now, struct sv_buf *buf, enum sv_class klass)
{
    struct sv_queue_flow *flow = flow_of(queue, buf->tag);
    struct sv_queue_lane *lane;

    klass = flow->packets ? (enum sv_class)flow->lane : klass;
    lane = &queue->lanes[klass];
    if (!has_room(lane, klass, sv_buf_len(buf)) || flow->packets == UINT16_MAX) {
        lane->drops++;
        sv_buf_put(buf);
        return SV_E_FULL;
    }
    buf->stamp = stamp_of(lane, now, sv_buf_len(buf), klass);
    *flow = (struct sv_queue_flow){buf->tag, (uint16_t)(flow->packets + 1), (uint8_t)klass};
    buf->next = NULL;
    *lane->last = buf;
    lane->last = &buf->next;
    lane->bytes += sv_buf_len(buf);
    lane->packets++;
    return 0;
}

static void drop_first(struct sv_queue *queue, struct sv_queue_lane *lane)
{
    struct sv_buf *buf = take_first(queue, lane);

    lane->drops++;
    queue->expired++;
    queue->expired_high += lane == &queue->lanes[SV_CLASS_HIGH];
    queue->expired_bytes += sv_buf_len(buf);
    sv_buf_put(buf);
}

static struct sv_queue_lane *first_lane(struct sv_queue *queue, uint64_t now)
{
    struct sv_queue_lane *high = &queue->lanes[SV_CLASS_HIGH];

    while (high->first && high->first->stamp < now) {
        drop_first(queue, high);
    }
    for (size_t i = 0; i < SV_CLASS_COUNT; i++) {
        if (queue->lanes[i].first) {
            return &queue->lanes[i];
        }
    }
    return NULL;
}

/* The lane whose turn it is keeps its packets: its limit bounds their wait, and a machine that was slow for a moment loses none. */
void sv_queue_drop_older(struct sv_queue *queue, uint64_t before)
{
    bool kept_waiting = queue->lanes[SV_CLASS_HIGH].first != NULL;

    for (size_t i = SV_CLASS_HIGH + 1; i < SV_CLASS_COUNT; i++) {
        struct sv_queue_lane *lane = &queue->lanes[i];

        while (kept_waiting && lane->first && lane->first->stamp < before) {
            drop_first(queue, lane);
        }
        kept_waiting = kept_waiting || lane->first;
    }
}

struct sv_buf *sv_queue_peek(struct sv_queue *queue, uint64_t now)
{
    struct sv_queue_lane *lane = first_lane(queue, now);

    return lane ? lane->first : NULL;
}

struct sv_buf *sv_queue_pop(struct sv_queue *queue, uint64_t now)
{
    struct sv_queue_lane *lane = first_lane(queue, now);

    return lane ? take_first(queue, lane) : NULL;
}
