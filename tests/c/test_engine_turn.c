/* Links that compete in one worker turn: shares by priority, nobody starved, no turn without end. */
#include "tests/c/check.h"

#include <stdlib.h>

#include "engine/hub.h"
#include "engine/limit.h"
#include "tests/c/session_fixture.h"

enum { CONNS = 4, PACKET = 1400, PACKETS = 1400, TURN = 2 << 20, ROUND_MOST = 1 << 20, TURNS_MOST = 100 };

static struct sv_engine engine = {.server = true};
static struct sv_worker worker;
static struct sv_client clients[CONNS];
static struct sv_link links[CONNS];
static struct sv_conn *conns[CONNS];
static size_t sent[CONNS]; /* bytes of frames */

static int record(struct sv_link *link, uint8_t *bytes, size_t len)
{
    (void)bytes;
    sent[link - links] += len;
    return 0;
}

static const struct sv_link_ops recording = {.send = record};

static void fill(struct sv_conn *conn, size_t packets)
{
    static const struct sv_limiter unlimited;
    struct sv_queue *queue = sv_queue_make(&conn->queue, &unlimited);

    for (size_t i = 0; i < packets; i++) {
        struct sv_buf *buf = sv_buf_get(&worker.pool, PACKET);

        buf->end += PACKET;
        CHECK_EQ(sv_queue_push(queue, worker.loop.now, buf, SV_CLASS_NORMAL), 0);
    }
    sv_worker_mark_dirty(conn);
}

static void open_conn(size_t i, int priority)
{
    struct fixture f;

    server_live(&f);
    atomic_store(&clients[i].policy, sv_policy_new(NULL, NULL, priority));
    links[i] = (struct sv_link){.ops = &recording};
    conns[i] = sv_conn_new(&worker, &links[i]);
    conns[i]->client = &clients[i];
    conns[i]->session = f.s;
    sent[i] = 0;
}

static void begin(const int priorities[CONNS])
{
    memset(&worker, 0, sizeof worker);
    worker.engine = &engine;
    worker.loop.now = START_NS;
    worker.dirty_last = &worker.dirty;
    pthread_mutex_init(&worker.conns_lock, NULL);
    sv_buf_pool_init(&worker.pool, CONNS * PACKETS + 1, CONNS + 1);
    sv_heap_init(&worker.deadlines);
    for (size_t i = 0; i < CONNS; i++) {
        open_conn(i, priorities[i]);
    }
}

static void end(void)
{
    for (size_t i = 0; i < CONNS; i++) {
        sv_worker_unmark_dirty(conns[i]);
        sv_heap_remove(&worker.deadlines, &conns[i]->deadline);
        sv_queue_free(conns[i]->queue);
        sv_session_clear(&conns[i]->session);
        sv_policy_free(atomic_load(&clients[i].policy));
        free(conns[i]);
    }
    CHECK_EQ(worker.pool.used_small + worker.pool.used_large, 0);
    sv_heap_clear(&worker.deadlines);
    sv_buf_pool_clear(&worker.pool);
    pthread_mutex_destroy(&worker.conns_lock);
}

static size_t all_sent(void)
{
    size_t sum = 0;

    for (size_t i = 0; i < CONNS; i++) {
        sum += sent[i];
    }
    return sum;
}

/* Within a share of the best: the turn ends in the midst of a round. */
static void shares_are_inverse_to_priority(void)
{
    size_t one = (size_t)sv_turn_share(50);

    begin((const int[]){50, 100, 200, 200});
    for (size_t i = 0; i < CONNS; i++) {
        fill(conns[i], PACKETS);
    }
    sv_worker_flush(&worker);
    CHECK(all_sent() >= TURN && all_sent() < TURN + 2 * one);
    CHECK(sent[0] > 2 * sent[1] - 2 * one && sent[0] < 2 * sent[1] + 2 * one);
    CHECK(sent[1] > 2 * sent[2] - one && sent[1] < 2 * sent[2] + one);
    CHECK(sent[2] > sent[3] - one / 2 && sent[2] < sent[3] + one / 2);
    CHECK(sent[3] > 0);
    end();
}

/* The least favoured of all beside the most favoured, which has always something to send. */
static void nobody_starves(void)
{
    size_t before = 0;

    begin((const int[]){0, 65535, 0, 0});
    fill(conns[1], PACKETS);
    for (int turn = 0; turn < 8; turn++) {
        for (size_t i = 0; i < CONNS; i++) {
            if (i != 1) {
                fill(conns[i], 700 - (conns[i]->queue ? sv_queue_packets(conns[i]->queue) : 0));
            }
        }
        sv_worker_flush(&worker);
        if (turn % 2) {
            CHECK(sent[1] > before);
            before = sent[1];
        }
    }
    end();
}

/* What one turn leaves the next ones send, all of it. */
static void everything_goes_in_the_end(void)
{
    int turns = 0;

    begin((const int[]){100, 7, 65535, 300});
    for (size_t i = 0; i < CONNS; i++) {
        fill(conns[i], PACKETS);
    }
    for (; worker.dirty && turns < TURNS_MOST; turns++) {
        size_t before = all_sent();

        sv_worker_flush(&worker);
        CHECK(all_sent() - before < TURN + 2 * ROUND_MOST);
    }
    CHECK(turns < TURNS_MOST);
    for (size_t i = 0; i < CONNS; i++) {
        CHECK(sent[i] >= (size_t)PACKET * PACKETS);
        CHECK_EQ(sv_queue_packets(conns[i]->queue), 0);
        CHECK_EQ(sv_counted(&conns[i]->traffic.packets_out), PACKETS);
    }
    end();
}

/* A blocked link gives its turn away and saves nothing up. */
static void a_blocked_link_waits(void)
{
    begin((const int[]){1, 100, 100, 100});
    fill(conns[0], PACKETS);
    fill(conns[1], 10);
    links[0].blocked = true;
    sv_worker_flush(&worker);
    CHECK_EQ(sent[0], 0);
    CHECK(sent[1] >= 10 * PACKET);
    CHECK(worker.dirty == NULL);
    links[0].blocked = false;
    sv_worker_mark_dirty(conns[0]);
    sv_worker_flush(&worker);
    CHECK(sent[0] >= (size_t)PACKET * PACKETS);
    end();
}

/* ---- classes under backpressure ---- */

enum { LANE = 4 << 20, LANE_HIGH = 256 << 10, LOW_AFTER = 1000000 };

/* An IPv4 datagram from that port to the first connection. */
static void datagram(uint16_t port, size_t len)
{
    struct sv_buf *buf = sv_buf_get(&worker.pool, len);
    struct sv_ip ip;

    memset(buf->data, 0, len);
    buf->end += len;
    memcpy(buf->data, "\x45", 1);
    sv_store16be(buf->data + 2, (uint16_t)len);
    memcpy(buf->data + 8, "\x40\x11\0\0\x0a\x08\0\1\x0a\x08\0\2", 12);
    sv_store16be(buf->data + 20, port);
    sv_store16be(buf->data + 22, 4000);
    sv_store16be(buf->data + 24, (uint16_t)(len - 20));
    CHECK_EQ(sv_ip_parse(&ip, buf->data, len), 0);
    sv_outbound_packet(conns[0], &buf, &ip);
    sv_buf_put(buf);
}

static uint64_t dropped(enum sv_verdict verdict)
{
    return sv_counted(&conns[0]->traffic.drops[verdict]);
}

/* The full lane's class is counted, also for a flow that became low while its packets wait as normal ones. */
static void drops_are_counted_by_class(void)
{
    static const uint8_t secret[16] = {5};
    size_t most = LANE / PACKET, most_high = 2 * LANE_HIGH / 100;

    begin((const int[]){100, 100, 100, 100});
    sv_buf_pool_clear(&worker.pool);
    sv_buf_pool_init(&worker.pool, 20000, 10);
    worker.classifier = sv_classifier_new(64, secret);
    conns[0]->mtu = 1420;
    for (size_t i = 0; i < LOW_AFTER / PACKET + 1; i++) {
        datagram(1111, PACKET);
    }
    links[0].blocked = true;
    for (size_t i = 0; i < most + 7; i++) {
        datagram(1111, PACKET);
        datagram(2222, PACKET);
    }
    for (size_t i = 0; i < most_high + 9; i++) {
        datagram(53, 100);
    }
    CHECK_EQ(dropped(SV_DROP_LOW), 7);
    CHECK_EQ(dropped(SV_DROP_NORMAL), 7);
    CHECK_EQ(dropped(SV_DROP_HIGH), 9);
    worker.loop.now += 6 * SV_NS_PER_MS;
    links[0].blocked = false;
    sv_worker_flush(&worker);
    CHECK_EQ(dropped(SV_DROP_HIGH), 9 + most_high - LANE_HIGH / 100);
    CHECK_EQ(sv_counted(&conns[0]->traffic.bytes_dropped),
             14 * PACKET + 100 * (9 + most_high - LANE_HIGH / 100));
    sv_classifier_free(worker.classifier);
    end();
}

/* ---- a limiter ---- */

static size_t queued(void)
{
    return conns[0]->queue ? sv_queue_packets(conns[0]->queue) : 0;
}

/* Low packets that normal ones keep from going wait 50 ms, then they are dropped for the rate. */
static void what_a_limiter_holds_goes_within_50_ms(void)
{
    static const uint8_t secret[16] = {6};
    struct sv_limiter limiter = {.bytes_per_sec = 1000000, .burst_bytes = 16000};
    uint64_t refused;

    begin((const int[]){100, 100, 100, 100});
    worker.classifier = sv_classifier_new(64, secret);
    conns[0]->mtu = 1420;
    for (size_t i = 0; i < LOW_AFTER / PACKET + 1; i++) {
        datagram(1111, PACKET);
    }
    sv_bucket_init(&limiter.down, limiter.bytes_per_sec, limiter.burst_bytes);
    atomic_store(&clients[0].limiter, &limiter);
    for (size_t i = 0; i < 16000 / PACKET + 10; i++) {
        datagram(1111, PACKET);
    }
    CHECK(queued() >= 8);
    refused = dropped(SV_DROP_RATE);
    for (int ms = 0; ms < 60; ms++) {
        worker.loop.now += SV_NS_PER_MS;
        datagram(2222, PACKET);
        sv_worker_flush(&worker);
    }
    CHECK_EQ(conns[0]->queue->lanes[SV_CLASS_LOW].packets, 0);
    CHECK(dropped(SV_DROP_RATE) > refused);
    CHECK_EQ(dropped(SV_DROP_LOW) + dropped(SV_DROP_NORMAL), 0);
    CHECK(conns[0]->drain_at <= worker.loop.now + 50 * SV_NS_PER_MS);
    atomic_store(&clients[0].limiter, NULL);
    sv_worker_mark_dirty(conns[0]);
    sv_worker_flush(&worker);
    CHECK_EQ(queued(), 0);
    sv_classifier_free(worker.classifier);
    end();
}

int main(void)
{
    if (sv_crypto_init() != 0 || sv_aead_init() != 0) {
        return 1;
    }
    make_pairs();
    RUN(shares_are_inverse_to_priority);
    RUN(nobody_starves);
    RUN(everything_goes_in_the_end);
    RUN(a_blocked_link_waits);
    RUN(drops_are_counted_by_class);
    RUN(what_a_limiter_holds_goes_within_50_ms);
    return CHECK_DONE("engine/turn");
}
