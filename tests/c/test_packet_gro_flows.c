/* Whatever comes in one batch comes out again, in each flow's order. */
#include "tests/c/gro_fixture.h"

static void flows_do_not_mix(void)
{
    struct make m[8];

    start();
    for (int f = 0; f < 8; f++) {
        m[f] = make_of(f, 500);
        m[f].dst_host = (uint8_t)(20 + f);
    }
    for (int i = 0; i < 20; i++) {
        for (int f = 0; f < 8; f++, advance(&m[f - 1])) {
            add(&m[f]);
        }
    }
    finish(8);
}

/* The seventeenth flow flushes the table. */
static void more_flows_than_fit(void)
{
    struct make m = make_of(3, 500);

    start();
    for (int f = 0; f < SV_GRO_FLOWS + 1; f++) {
        CHECK_EQ(writes, 0);
        m.dst_host = (uint8_t)(20 + f);
        add(&m);
    }
    CHECK_EQ(writes, SV_GRO_FLOWS);
    finish(SV_GRO_FLOWS + 1);
}

/* A later fragment shows no ports: it may be of any flow between its hosts, and none may overtake it. */
static void nothing_overtakes_a_fragment(void)
{
    struct make m = make_of(1, 700);

    start();
    add(&m);
    advance(&m);
    add_fragment(&m, 0x2000);
    add_fragment(&m, 0x0058);
    advance(&m);
    add(&m);
    advance(&m);
    add(&m);
    finish(4);
    for (size_t i = 0; i < in_count; i++) {
        CHECK(same_packet(&in[i], &out[i]));
    }
}

/* ---- everything at once ---- */

enum { FLOWS = 20 };

static struct make random_flow(unsigned f)
{
    struct make m = make_of((int)make_below(4), 1 + make_below(1400));

    m.dst_host = (uint8_t)f;
    m.df = make_below(4) > 0;
    m.seq = make_random();
    m.id = (uint16_t)make_random();
    return m;
}

static void add_random(struct make *flow)
{
    struct make m = *flow;

    if (make_below(6) == 0) {
        change(&m, (enum change)(TOS + make_below(CHANGES - TOS)));
    }
    m.flags |= (uint8_t)(make_below(8) == 0 ? PSH : make_below(20) == 0 ? FIN : 0);
    m.payload = make_below(10) == 0 && m.payload ? make_below((uint32_t)m.payload) : m.payload;
    if (m.version == 4 && make_below(30) == 0) {
        add_fragment(&m, make_below(2) ? 0x2000 : 0x0003);
    } else if (make_below(20) == 0) {
        in[in_count].len = make_packet(in[in_count].bytes, &m);
        break_byte(in[in_count].len - 1);
    } else {
        add(&m);
    }
    flow->seq += (uint32_t)m.payload;
    flow->id++;
}

static void any_batch_comes_out_as_it_went_in(void)
{
    static struct make flows[FLOWS];
    size_t packets = 0, writes_in_all = 0;

    for (int round = 0; round < 1500; round++) {
        size_t used = 1 + make_below(FLOWS), count = make_below(BATCH), flow = 0;

        start();
        for (unsigned f = 0; f < used; f++) {
            flows[f] = random_flow(f);
        }
        for (size_t i = 0; i < count; i++) {
            flow = make_below(3) ? flow : make_below((uint32_t)used);
            add_random(&flows[flow]);
            if (make_below(200) == 0) {
                sv_gro_flush(&gro);
            }
        }
        sv_gro_flush(&gro);
        check_same_in_each_flow();
        packets += in_count;
        writes_in_all += writes;
    }
    CHECK(writes_in_all < packets * 3 / 4);
}

int main(void)
{
    RUN(flows_do_not_mix);
    RUN(more_flows_than_fit);
    RUN(nothing_overtakes_a_fragment);
    RUN(any_batch_comes_out_as_it_went_in);
    return CHECK_DONE("packet_gro_flows");
}
