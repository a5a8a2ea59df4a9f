/* High before normal before low, no flow reordered, every lane bounded, every buffer accounted for. */
#include "tests/c/check.h"

#include <smartvpn/base.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "policy/queue.h"
#include "tests/c/random.h"

enum { LIMIT = 10000, BUFFERS = 4096 };

static const size_t LIMITS[SV_CLASS_COUNT] = {LIMIT, LIMIT, LIMIT};
static const uint64_t START = 1000 * SV_NS_PER_S;

static struct sv_buf_pool pool;
static struct sv_queue queue;

static void begin(void)
{
    sv_buf_pool_init(&pool, BUFFERS, BUFFERS);
    sv_queue_init(&queue, LIMITS);
}

static void end(void)
{
    sv_queue_clear(&queue);
    CHECK_EQ(sv_queue_packets(&queue), 0);
    CHECK_EQ(pool.used_small + pool.used_large, 0);
    sv_buf_pool_clear(&pool);
}

/* A packet of the flow that carries its number. */
static struct sv_buf *packet(uint32_t flow, uint32_t number, size_t len)
{
    struct sv_buf *buf = sv_buf_get(&pool, len);

    buf->tag = flow;
    buf->end += len;
    sv_store32be(buf->data, number);
    return buf;
}

static int push(uint64_t now, uint32_t flow, uint32_t number, size_t len, enum sv_class klass)
{
    return sv_queue_push(&queue, now, packet(flow, number, len), klass);
}

/* The next packet's number; -1: none. */
static long pop(uint64_t now)
{
    struct sv_buf *peeked = sv_queue_peek(&queue, now), *buf = sv_queue_pop(&queue, now);
    long number = buf ? (long)sv_load32be(buf->data) : -1;

    CHECK(buf == peeked);
    sv_buf_put(buf);
    return number;
}

static void high_goes_before_normal_before_low(void)
{
    begin();
    CHECK_EQ(push(START, 1, 1, 100, SV_CLASS_LOW), 0);
    CHECK_EQ(push(START, 2, 2, 100, SV_CLASS_NORMAL), 0);
    CHECK_EQ(push(START, 3, 3, 100, SV_CLASS_HIGH), 0);
    CHECK_EQ(push(START, 4, 4, 100, SV_CLASS_NORMAL), 0);
    CHECK_EQ(sv_queue_packets(&queue), 4);
    CHECK_EQ(pop(START), 3);
    CHECK_EQ(pop(START), 2);
    CHECK_EQ(pop(START), 4);
    CHECK_EQ(pop(START), 1);
    CHECK_EQ(pop(START), -1);
    end();
}

/* A flow that becomes low while its packets wait: the later ones follow the earlier, not overtake or fall behind. */
static void a_flow_keeps_its_lane_while_it_waits(void)
{
    begin();
    push(START, 7, 1, 1000, SV_CLASS_LOW);
    push(START, 7, 2, 60, SV_CLASS_HIGH);
    push(START, 8, 3, 1000, SV_CLASS_NORMAL);
    CHECK_EQ(pop(START), 3);
    CHECK_EQ(pop(START), 1);
    CHECK_EQ(pop(START), 2);
    push(START, 7, 4, 60, SV_CLASS_HIGH);
    push(START, 8, 5, 60, SV_CLASS_NORMAL);
    CHECK_EQ(pop(START), 4);
    CHECK_EQ(pop(START), 5);
    end();
}

/* Flows of one set of the table: a bulk flow does not take its neighbours into its lane, until there are more than the set has places. */
static void flows_of_a_set_are_told_apart(void)
{
    enum { OWN = SV_QUEUE_WAYS - 1 };

    begin();
    for (uint32_t i = 0; i < OWN; i++) {
        push(START, i * SV_QUEUE_SETS, i, 1000, i < OWN - 1 ? SV_CLASS_LOW : SV_CLASS_HIGH);
    }
    CHECK_EQ(pop(START), OWN - 1);
    push(START, 100 * SV_QUEUE_SETS, 100, 1000, SV_CLASS_LOW);
    push(START, 101 * SV_QUEUE_SETS, 101, 60, SV_CLASS_LOW);  /* no place of its own */
    push(START, 102 * SV_QUEUE_SETS, 102, 60, SV_CLASS_HIGH); /* the same, behind 101 */
    CHECK_EQ(sv_queue_class(&queue, 102 * SV_QUEUE_SETS, SV_CLASS_HIGH), SV_CLASS_LOW);
    CHECK_EQ(sv_queue_class(&queue, 102 * SV_QUEUE_SETS + 1, SV_CLASS_HIGH), SV_CLASS_HIGH);
    CHECK_EQ(pop(START), 0);
    push(START, 102 * SV_QUEUE_SETS, 103, 60, SV_CLASS_HIGH); /* a place is free, but 102 waits elsewhere */
    for (uint32_t i = 1; i < OWN - 1; i++) {
        CHECK_EQ(pop(START), i);
    }
    CHECK_EQ(pop(START), 100);
    CHECK_EQ(pop(START), 101);
    CHECK_EQ(pop(START), 102);
    CHECK_EQ(pop(START), 103);
    CHECK_EQ(sv_queue_class(&queue, 102 * SV_QUEUE_SETS, SV_CLASS_HIGH), SV_CLASS_HIGH);
    end();
}

static void normal_and_low_are_dropped_when_full(void)
{
    begin();
    for (int klass = SV_CLASS_NORMAL; klass <= SV_CLASS_LOW; klass++) {
        for (uint32_t i = 0; i < 10; i++) {
            CHECK_EQ(push(START, (uint32_t)klass, i, LIMIT / 10, (enum sv_class)klass), 0);
        }
        CHECK_EQ(push(START, (uint32_t)klass, 10, 1, (enum sv_class)klass), SV_E_FULL);
        CHECK_EQ(queue.lanes[klass].drops, 1);
        CHECK_EQ(queue.lanes[klass].bytes, LIMIT);
    }
    CHECK_EQ(push(START, 9, 11, 1000, SV_CLASS_HIGH), 0);
    end();
}

static void high_is_taken_past_its_limit_for_5_ms(void)
{
    begin();
    for (uint32_t i = 0; i < 20; i++) {
        CHECK_EQ(push(START, i, i, LIMIT / 10, SV_CLASS_HIGH), 0);
    }
    CHECK_EQ(push(START, 30, 30, LIMIT / 10, SV_CLASS_HIGH), SV_E_FULL);
    for (uint32_t i = 0; i < 10; i++) {
        CHECK_EQ(pop(START + 5 * SV_NS_PER_MS), i);
    }
    CHECK_EQ(pop(START + 5 * SV_NS_PER_MS), 10);
    CHECK_EQ(pop(START + 5 * SV_NS_PER_MS + 1), -1);
    CHECK_EQ(queue.lanes[SV_CLASS_HIGH].drops, 1 + 9);
    CHECK_EQ(queue.expired, 9);
    CHECK_EQ(queue.expired_high, 9);
    CHECK_EQ(queue.expired_bytes, 9 * LIMIT / 10);
    CHECK_EQ(queue.lanes[SV_CLASS_HIGH].bytes, 0);
    end();
}

/* What better classes keep waiting is dropped by age, oldest first; high has its own deadline, the lane whose turn it is its limit. */
static void what_waited_too_long_is_dropped(void)
{
    begin();
    CHECK_EQ(push(START, 1, 1, 100, SV_CLASS_LOW), 0);
    CHECK_EQ(push(START, 2, 2, 200, SV_CLASS_NORMAL), 0);
    CHECK_EQ(push(START, 3, 3, 100, SV_CLASS_HIGH), 0);
    CHECK_EQ(push(START + 1, 1, 4, 100, SV_CLASS_LOW), 0);
    sv_queue_drop_older(&queue, START);
    CHECK_EQ(sv_queue_packets(&queue), 4);
    sv_queue_drop_older(&queue, START + 1);
    CHECK_EQ(queue.expired, 2);
    CHECK_EQ(queue.expired_high, 0);
    CHECK_EQ(queue.expired_bytes, 300);
    CHECK_EQ(queue.lanes[SV_CLASS_LOW].drops, 1);
    CHECK_EQ(queue.lanes[SV_CLASS_NORMAL].drops, 1);
    CHECK_EQ(pop(START + 1), 3);
    sv_queue_drop_older(&queue, START + 100);
    CHECK_EQ(pop(START + 1), 4);
    CHECK_EQ(pop(START + 1), -1);
    CHECK_EQ(queue.expired, 2);
    end();
}

static void an_empty_lane_takes_any_packet(void)
{
    begin();
    for (int klass = 0; klass < SV_CLASS_COUNT; klass++) {
        CHECK_EQ(push(START, (uint32_t)klass, 1, 60000, (enum sv_class)klass), 0);
        CHECK_EQ(push(START, (uint32_t)klass, 2, 100, (enum sv_class)klass), SV_E_FULL);
    }
    end();
}

/* The most a stranger's packets can hold of memory, whatever they are. */
static void the_bounds_hold_with(uint32_t apart)
{
    uint32_t pushed[8] = {0}, popped[8] = {0};
    uint64_t refused = 0, taken = 0, given = 0, drops = 0, now = START;

    begin();
    for (size_t i = 0; i < 200000; i++) {
        if (random_below(5) < 3) {
            uint32_t flow = random_below(8);
            uint32_t number = pushed[flow]++ << 3 | flow;

            if (push(now, flow * apart, number, 4 + random_below(1500), (enum sv_class)random_below(3)) ==
                0) {
                taken++;
            } else {
                refused++;
            }
        } else {
            long number = pop(now);

            if (number >= 0) {
                uint32_t flow = (uint32_t)number & 7, order = (uint32_t)number >> 3;

                CHECK(order >= popped[flow]);
                popped[flow] = order + 1;
                given++;
            }
        }
        now += random_below(2) * SV_NS_PER_MS / 2;
        CHECK(queue.lanes[SV_CLASS_HIGH].bytes <= 2 * LIMIT && queue.lanes[SV_CLASS_NORMAL].bytes <= LIMIT &&
              queue.lanes[SV_CLASS_LOW].bytes <= LIMIT);
    }
    for (size_t i = 0; i < SV_CLASS_COUNT; i++) {
        drops += queue.lanes[i].drops;
    }
    CHECK(refused > 0 && given > 0);
    CHECK_EQ(taken - given - sv_queue_packets(&queue), drops - refused);
    end();
}

static void the_bounds_hold_in_any_mix(void)
{
    the_bounds_hold_with(1);
    the_bounds_hold_with(SV_QUEUE_SETS); /* all flows in one set */
}

int main(void)
{
    RUN(high_goes_before_normal_before_low);
    RUN(a_flow_keeps_its_lane_while_it_waits);
    RUN(flows_of_a_set_are_told_apart);
    RUN(normal_and_low_are_dropped_when_full);
    RUN(high_is_taken_past_its_limit_for_5_ms);
    RUN(what_waited_too_long_is_dropped);
    RUN(an_empty_lane_takes_any_packet);
    RUN(the_bounds_hold_in_any_mix);
    return CHECK_DONE("policy/queue");
}
