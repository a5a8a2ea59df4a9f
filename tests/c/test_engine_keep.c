/* What inner TCP connections sent last into a silent link: how much of it is kept, for how long, and what of it goes again. The connection that it is
 * sent to is blocked, so that all of it stands in the queue to be looked at. */
#include <malloc.h>
#include <stdlib.h>

#include "engine/dialer_internal.h"
#include "engine/hub.h"
#include "engine/limit.h"
#include "tests/c/check.h"
#include "tests/c/packet_make.h"

enum { FLOWS = 16, LIFETIME_S = 120, PAYLOAD = 1000, SEGMENT = 500, STRANGE = 200, CLASSIFIER = 1024 };

#define START (UINT64_C(1000) * SV_NS_PER_S)

static struct sv_dialer dialer;
static struct sv_hub hub;
static struct sv_engine engine = {.dialer = &dialer, .workers = NULL};
static struct sv_worker worker;
static struct sv_link blocked_link;
static struct sv_conn conn;
static struct sv_keep keep;

static uint8_t packet[PACKET_ROOM];
static uint64_t seen[STRANGE]; /* how often a packet of that mark came */

static void begin(void)
{
    static const uint8_t secret[16] = {1};

    memset(&worker, 0, sizeof worker);
    memset(&conn, 0, sizeof conn);
    keep = dialer.keep = (struct sv_keep){0};
    worker.engine = &engine;
    worker.loop.now = START;
    worker.dirty_last = &worker.dirty;
    worker.classifier = sv_classifier_new(CLASSIFIER, secret);
    sv_buf_pool_init(&worker.pool, 64, 4);
    blocked_link = (struct sv_link){.kind = SV_TRANSPORT_WEBSOCKET, .blocked = true};
    conn.worker = &worker;
    conn.link = &blocked_link;
    conn.mtu = SV_DEFAULT_MTU;
    dialer.active = &conn;
}

static void end(void)
{
    sv_keep_clear(&keep);
    sv_keep_clear(&conn.keep);
    sv_keep_clear(&dialer.keep);
    sv_queue_free(conn.queue);
    CHECK_EQ(worker.pool.used_small + worker.pool.used_large, 0);
    sv_buf_pool_clear(&worker.pool);
    sv_classifier_free(worker.classifier);
}

/* A TCP packet of a flow; the mark is its acknowledgement number, by which it is known again. */
static size_t tcp(uint16_t flow, uint32_t mark, size_t payload)
{
    struct make m = make_default(4, IPPROTO_TCP, payload);

    m.src_port = flow;
    m.ack = mark;
    return make_packet(packet, &m);
}

static void note(uint16_t flow, uint32_t mark)
{
    sv_keep_note(&keep, worker.loop.now, flow, packet, tcp(flow, mark, PAYLOAD));
}

/* How many went to the connection; what they were is in `seen`. */
static size_t sent(void)
{
    struct sv_buf *buf;
    size_t count = 0;

    memset(seen, 0, sizeof seen);
    while (conn.queue && (buf = sv_queue_pop(conn.queue, worker.loop.now))) {
        uint32_t mark = get32(buf->data + 28);

        CHECK(naive_valid(buf->data, sv_buf_len(buf)));
        CHECK(mark < STRANGE);
        seen[mark % STRANGE]++;
        count++;
        sv_buf_put(buf);
    }
    return count;
}

static size_t resend(uint64_t since)
{
    sv_keep_resend(&keep, &worker, since);
    CHECK(keep.slots == NULL);
    return sent();
}

static void a_flow_keeps_its_last_packet(void)
{
    begin();
    note(1, 1);
    note(2, 2);
    note(1, 3);
    note(1, 4);
    CHECK_EQ(resend(0), 2);
    CHECK(seen[4] == 1 && seen[2] == 1);
    CHECK_EQ(resend(0), 0);
    end();
}

static void a_new_flow_takes_the_oldest_ones_place(void)
{
    begin();
    for (uint16_t flow = 1; flow <= FLOWS; flow++, worker.loop.now++) {
        note(flow, flow);
    }
    note(1, 101); /* now the second is the oldest */
    worker.loop.now++;
    note(FLOWS + 1, 102);
    CHECK_EQ(resend(0), FLOWS);
    CHECK(seen[101] == 1 && seen[102] == 1 && seen[1] == 0 && seen[2] == 0 && seen[3] == 1);
    end();
}

static size_t memory(void)
{
    return mallinfo2().uordblks; /* 0 under a sanitizer */
}

static void memory_is_bounded(void)
{
    size_t before, first, full;

    begin();
    before = memory();
    note(1, 1);
    first = memory();
    for (unsigned i = 0; i < 1000; i++) {
        note(1, 2);
    }
    CHECK_EQ(memory(), first);
    for (uint16_t flow = 0; flow < 1000; flow++) {
        note(flow, 3);
    }
    full = memory();
    CHECK(full <= before + (FLOWS + 1) * (SV_BUF_SMALL + 64));
    for (uint16_t flow = 0; flow < 1000; flow++) {
        note(flow, 4);
    }
    CHECK_EQ(memory(), full);
    sv_keep_clear(&keep);
    CHECK(memory() < before + SV_BUF_SMALL); /* malloc holds small pieces back */
    end();
}

/* What is older than a segment may be in the network is nobody's any more (RFC 9293, section 3.4.1). */
static void what_is_old_is_not_sent(void)
{
    begin();
    note(1, 1);
    worker.loop.now += SV_NS_PER_S;
    note(2, 2);
    worker.loop.now = START + LIFETIME_S * SV_NS_PER_S;
    CHECK_EQ(resend(0), 1);
    CHECK_EQ(seen[2], 1);
    note(1, 1);
    worker.loop.now -= SV_NS_PER_S; /* another worker's turn began before this one's */
    CHECK_EQ(resend(0), 1);
    end();
}

static void what_was_answered_is_not_sent(void)
{
    begin();
    note(1, 1);
    worker.loop.now += 10;
    note(2, 2);
    sv_keep_answered(&keep, START + 9); /* a part is later: all stays, and the time decides */
    CHECK_EQ(resend(START), 1);
    CHECK_EQ(seen[2], 1);
    note(1, 1);
    sv_keep_answered(&keep, START + 10);
    CHECK(keep.slots == NULL);
    end();
}

static void it_moves_to_where_the_session_waits(void)
{
    struct sv_keep other;
    size_t one;

    begin();
    note(1, 1);
    one = memory();
    other = keep;
    keep = (struct sv_keep){0};
    note(2, 2);
    sv_keep_move(&keep, &other);
    CHECK(memory() < one + SV_BUF_SMALL);
    CHECK(other.slots == NULL);
    CHECK_EQ(resend(0), 1);
    CHECK_EQ(seen[1], 1);
    end();
}

/* ---- what is kept on the packets' way ---- */

static void route(size_t len, uint8_t kind)
{
    struct sv_buf *buf = sv_buf_get(&worker.pool, SV_BUF_LARGE);
    struct sv_ip ip;

    memcpy(buf->data, packet, len);
    buf->end = buf->data + len;
    buf->kind = kind;
    buf->segment_size = kind ? SEGMENT : 0;
    CHECK_EQ(sv_ip_parse(&ip, buf->data, len), 0);
    sv_outbound_route(&worker, &buf, &ip);
    sv_buf_put(buf);
}

static void only_the_silent_peers_packets_are_kept(void)
{
    begin();
    conn.session.last_received = worker.loop.now - 100 * SV_NS_PER_MS;
    route(tcp(1, 1, PAYLOAD), 0);
    CHECK(conn.keep.slots == NULL);
    worker.loop.now++;
    route(tcp(1, 2, PAYLOAD), 0);
    CHECK(conn.keep.slots != NULL);
    CHECK_EQ(sent(), 2);
    sv_keep_move(&keep, &conn.keep);
    worker.loop.now = conn.session.last_received; /* it has spoken */
    CHECK_EQ(resend(0), 1);
    CHECK_EQ(seen[2], 1);
    end();
}

static void super_packets_and_others_are_not_kept(void)
{
    struct make udp = make_default(4, IPPROTO_UDP, PAYLOAD);

    begin();
    conn.mtu = UINT16_MAX;
    blocked_link.path_mtu = UINT16_MAX;
    route(tcp(1, 1, 2 * SEGMENT), 1);
    route(make_packet(packet, &udp), 0);
    route(tcp(1, 1, SV_BUF_SMALL), 0);
    CHECK(conn.keep.slots == NULL);
    route(tcp(1, 1, SV_BUF_SMALL - 40), 0);
    CHECK(conn.keep.slots != NULL);
    sv_queue_free(conn.queue);
    conn.queue = NULL;
    end();
}

static void without_a_link_the_dialer_keeps(void)
{
    begin();
    dialer.active = NULL;
    route(tcp(1, 1, PAYLOAD), 0);
    route(tcp(2, 2, PAYLOAD), 0);
    CHECK_EQ(sv_counted(&worker.traffic.drops[SV_DROP_NO_ROUTE]), 2);
    dialer.active = &conn;
    sv_keep_resend(&dialer.keep, &worker, 0);
    CHECK_EQ(sent(), 2);
    CHECK(seen[1] == 1 && seen[2] == 1);
    end();
}

/* The new link may die as well, before anything comes back on it. */
static void what_goes_again_is_kept_again(void)
{
    begin();
    note(1, 1);
    note(2, 2);
    sv_keep_move(&conn.keep, &keep);
    for (unsigned i = 0; i < 3; i++) {
        sv_keep_resend(&conn.keep, &worker, 0);
        CHECK_EQ(sent(), 2);
        CHECK(seen[1] == 1 && seen[2] == 1);
    }
    end();
}

/* On the hub the sender's rules of the day hold. */
static void what_is_forbidden_by_now_stays(void)
{
    static const char *const deny[] = {"10.8.0.9"};
    static const uint8_t sender[16] = {[10] = 0xFF, 0xFF, 10, 8, 0, 2},
                         target[16] = {[10] = 0xFF, 0xFF, 10, 8, 0, 9};
    static struct sv_client alice, bob;
    static struct sv_conn alices = {.client = &alice};
    struct sv_acl *none, *denied;

    begin();
    CHECK_EQ(sv_acl_new(&none, NULL, 0, NULL, 0, NULL), 0);
    CHECK_EQ(sv_acl_new(&denied, NULL, 0, deny, 1, NULL), 0);
    atomic_init(&bob.policy, sv_policy_new(NULL, NULL, 100));
    atomic_init(&alice.policy, sv_policy_new(NULL, none, 100));
    CHECK_EQ(sv_map_init(&hub.routes, 16, NULL, (const uint8_t[16]){2}), 0);
    CHECK_EQ(sv_map_insert(&hub.routes, sender, &alices), 0);
    CHECK_EQ(sv_map_insert(&hub.routes, target, &conn), 0);
    conn.client = &bob;
    engine.hub = &hub;
    note(1, 1);
    CHECK_EQ(resend(0), 1);
    sv_policy_free(atomic_exchange(&alice.policy, sv_policy_new(NULL, denied, 100)));
    note(1, 1);
    CHECK_EQ(resend(0), 0);
    engine.hub = NULL;
    sv_map_clear(&hub.routes);
    sv_policy_free(atomic_load(&alice.policy));
    sv_policy_free(atomic_load(&bob.policy));
    end();
}

int main(void)
{
    RUN(a_flow_keeps_its_last_packet);
    RUN(a_new_flow_takes_the_oldest_ones_place);
    RUN(memory_is_bounded);
    RUN(what_is_old_is_not_sent);
    RUN(what_was_answered_is_not_sent);
    RUN(it_moves_to_where_the_session_waits);
    RUN(only_the_silent_peers_packets_are_kept);
    RUN(super_packets_and_others_are_not_kept);
    RUN(without_a_link_the_dialer_keeps);
    RUN(what_goes_again_is_kept_again);
    RUN(what_is_forbidden_by_now_stays);
    return CHECK_DONE("test_engine_keep");
}
