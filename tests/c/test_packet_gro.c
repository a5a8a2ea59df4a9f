/* Only what may be merged is, and what is merged is what sv_gso would split. */
#include "tests/c/gro_fixture.h"

#include "packet/gso.h"

/* ---- what merges ---- */

static void a_run_becomes_one(void)
{
    for (int v = 0; v < 4; v++) {
        for (size_t payload = 1; payload < 1450; payload += 97) {
            size_t n = 2 + make_below(40);
            struct make m = make_of(v, payload);

            start();
            for (size_t i = 0; i < n; i++, advance(&m)) {
                add(&m);
            }
            finish(1);
            CHECK_EQ(last_pieces, n);
            CHECK_EQ(last_vnet.gso_size, payload);
        }
    }
}

/* What sv_gso splits, sv_gro makes whole again, headers and all. */
static void split_and_merged_again(void)
{
    static uint8_t whole[PACKET_ROOM];

    for (int round = 0; round < 400; round++) {
        struct make m = make_of(round, 0);
        size_t segment = 256 + make_below(1100), len;
        struct sv_ip ip;
        struct sv_gso it;
        struct sv_vnet vnet;
        uint8_t kind = m.proto == IPPROTO_UDP ? SV_SUPER_UDP : m.version == 4 ? SV_SUPER_TCP4 : SV_SUPER_TCP6;

        m.payload = segment + 1 + make_below((uint32_t)(segment * (1 + make_below(40))));
        m.payload = m.payload > 65000 ? 65000 : m.payload;
        m.flags = (uint8_t)(ACK | (make_below(2) ? PSH : 0));
        m.df = make_below(2);
        len = make_packet(whole, &m);
        CHECK_EQ(sv_ip_parse(&ip, whole, len), 0);
        CHECK_EQ(sv_gso_init(&it, whole, len, &ip, kind, (uint16_t)segment), 0);
        start();
        while ((in[in_count].len = sv_gso_next(&it, in[in_count].bytes)) > 0) {
            give();
        }
        finish(1);
        CHECK_EQ(sv_vnet_build(&vnet, whole, len, &ip, kind, (uint16_t)segment), 0);
        CHECK_MEM(&last_vnet, &vnet, sizeof vnet);
        CHECK_EQ(last_len, len);
        CHECK_MEM(super, whole, len);
    }
}

static void a_short_segment_is_the_last(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_of(v, 1000);

        start();
        add(&m);
        advance(&m);
        m.payload = 999;
        add(&m);
        advance(&m);
        m.payload = 999;
        add(&m);
        advance(&m);
        add(&m);
        finish(2);
    }
}

static void a_longer_segment_starts_anew(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_of(v, 1000);

        start();
        add(&m);
        advance(&m);
        m.payload = 1001;
        add(&m);
        advance(&m);
        add(&m);
        finish(2);
    }
}

static void push_ends_it(void)
{
    struct make m = make_of(3, 1000);

    start();
    add(&m);
    advance(&m);
    m.flags = ACK | PSH;
    add(&m);
    advance(&m);
    add(&m);
    advance(&m);
    m.flags = ACK;
    add(&m);
    finish(3);
    CHECK_EQ(in_count, 4);
}

static void at_most_64_segments(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_of(v, 100);

        for (int extra = 0; extra < 2; extra++) {
            start();
            for (int i = 0; i < 2 * SV_GRO_SEGMENTS + extra; i++, advance(&m)) {
                add(&m);
            }
            finish(2 + (size_t)extra);
        }
    }
}

static void at_most_64_kilobytes(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_of(v, 1448);

        start();
        for (int i = 0; i < 60; i++, advance(&m)) {
            add(&m);
        }
        finish(2);
    }
}

static void sequence_and_id_wrap(void)
{
    struct make m = make_of(3, 1000);

    m.seq = UINT32_C(0xFFFFFF00);
    m.id = 0xFFFF;
    m.df = false;
    start();
    for (int i = 0; i < 4; i++, advance(&m)) {
        add(&m);
    }
    finish(1);
}

/* ---- what does not merge ---- */

static void check_second(const struct make *first, const struct make *second, bool merges)
{
    start();
    add(first);
    add(second);
    finish(merges ? 1 : 2);
}

static bool applies(int variant, enum change what)
{
    if (what == DONT_FRAGMENT) {
        return variant & 1;
    }
    if (what == LABEL) {
        return !(variant & 1);
    }
    return what < SEQUENCE_GAP || (variant & 2);
}

static void every_difference_counts(void)
{
    for (int v = 0; v < 4; v++) {
        for (enum change what = NOTHING; what < CHANGES; what++) {
            struct make first = make_of(v, 700), second = first;

            if (applies(v, what)) {
                advance(&second);
                change(&second, what);
                check_second(&first, &second, what == NOTHING);
            }
        }
    }
}

/* The same oddity in both makes them no better. */
static void not_even_equal_ones(void)
{
    static const enum change never[] = {OPTIONS, EMPTY, RESERVED};

    for (int v = 0; v < 4; v++) {
        for (size_t i = 0; i < 3; i++) {
            struct make first = make_of(v, 700), second;

            change(&first, never[i]);
            second = first;
            advance(&second);
            if (applies(v, never[i])) {
                check_second(&first, &second, false);
            }
        }
    }
}

static void ids_count_up_without_df(void)
{
    struct make first = make_of(3, 700), second;

    first.df = false;
    second = first;
    advance(&second);
    check_second(&first, &second, true);
    second.id++;
    check_second(&first, &second, false);
    first.df = second.df = true;
    check_second(&first, &second, true);
}

static void only_plain_flags(void)
{
    for (unsigned flags = 0; flags < 256; flags++) {
        struct make first = make_of(3, 700), second = first;
        bool plain = flags == ACK || flags == (ACK | PSH);

        advance(&second);
        second.flags = (uint8_t)flags;
        check_second(&first, &second, plain);
        first.flags = (uint8_t)flags;
        second.flags = ACK;
        check_second(&first, &second, flags == ACK);
    }
}

/* First or second of the pair, in the IPv4 header, the TCP or UDP header, or the payload: nothing is made
 * good by merging. */
static void broken_sums_do_not_merge(void)
{
    for (int v = 0; v < 4; v++) {
        for (int place = v & 1 ? 0 : 1; place < 3; place++) {
            struct make first = make_of(v, 700), second = first;
            size_t l4 = make_ip_header(&first);
            size_t at = place == 0 ? 10 : place == 1 ? l4 + (v & 2 ? 17 : 7) : l4 + 100;

            advance(&second);
            for (int broken = 0; broken < 2; broken++) {
                start();
                for (int i = 0; i < 2; i++) {
                    in[in_count].len = make_packet(in[in_count].bytes, i ? &second : &first);
                    if (i == broken) {
                        break_byte(at);
                    } else {
                        give();
                    }
                }
                finish(2);
            }
        }
    }
}

static void udp_that_tells_another_length(void)
{
    struct make m = make_of(1, 700);

    start();
    for (int i = 0; i < 2; i++, advance(&m)) {
        in[in_count].len = make_packet(in[in_count].bytes, &m);
        put16(in[in_count].bytes + 24, 700);
        naive_finish(in[in_count].bytes, in[in_count].len);
        give();
    }
    finish(2);
}

static void udp_without_checksum(void)
{
    struct make m = make_of(1, 700);

    start();
    for (int i = 0; i < 2; i++, advance(&m)) {
        in[in_count].len = make_packet(in[in_count].bytes, &m);
        put16(in[in_count].bytes + 26, 0);
        give();
    }
    finish(2);
}

static void udp_only_where_the_tun_takes_it(void)
{
    struct make udp = make_of(1, 700), tcp = make_of(3, 700);

    start();
    gro.udp = false;
    tcp.dst_host++;
    for (int i = 0; i < 3; i++, advance(&udp), advance(&tcp)) {
        add(&udp);
        add(&tcp);
    }
    finish(4);
}

static void other_protocols(void)
{
    struct make m = make_default(4, IPPROTO_ICMP, 100);

    start();
    add(&m);
    add(&m);
    m.version = 6;
    add(&m);
    finish(3);
}

static void an_empty_batch(void)
{
    start();
    finish(0);
}

int main(void)
{
    RUN(a_run_becomes_one);
    RUN(split_and_merged_again);
    RUN(a_short_segment_is_the_last);
    RUN(a_longer_segment_starts_anew);
    RUN(push_ends_it);
    RUN(at_most_64_segments);
    RUN(at_most_64_kilobytes);
    RUN(sequence_and_id_wrap);
    RUN(every_difference_counts);
    RUN(not_even_equal_ones);
    RUN(ids_count_up_without_df);
    RUN(only_plain_flags);
    RUN(broken_sums_do_not_merge);
    RUN(udp_that_tells_another_length);
    RUN(udp_without_checksum);
    RUN(udp_only_where_the_tun_takes_it);
    RUN(other_protocols);
    RUN(an_empty_batch);
    return CHECK_DONE("packet_gro");
}
