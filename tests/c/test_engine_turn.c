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
    return CHECK_DONE("engine/turn");
}
