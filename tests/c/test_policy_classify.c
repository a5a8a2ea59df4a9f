/* The three classes of product.md, at their borders, and a table that strangers can't grow. */
#include "tests/c/check.h"

#include <netinet/in.h>
#include <stdlib.h>

#include "base/clock.h"
#include "policy/classify.h"
#include "tests/c/random.h"

enum { FLOWS = 64, LOW_BYTES = 1000000 };

static const uint64_t START = 7200 * SV_NS_PER_S;
static const uint8_t SECRET[16] = "0123456789abcdef";

static struct sv_ip packet_of(uint8_t proto, uint16_t src_port, uint16_t dst_port, uint32_t len)
{
    return (struct sv_ip){
        .version = 4,
        .proto = proto,
        .src = {[10] = 0xFF, [11] = 0xFF, [12] = 10, [15] = 2},
        .dst = {[10] = 0xFF, [11] = 0xFF, [12] = 10, [15] = 1},
        .src_port = src_port,
        .dst_port = dst_port,
        .len = len,
    };
}

static enum sv_class classify(struct sv_classifier *classifier, uint64_t now, const struct sv_ip *ip)
{
    uint32_t flow;

    return sv_classify(classifier, now, ip, &flow);
}

/* The class of a first packet. */
static enum sv_class class_of(uint8_t proto, uint16_t src_port, uint16_t dst_port, uint32_t len)
{
    struct sv_classifier *classifier = sv_classifier_new(FLOWS, SECRET);
    struct sv_ip ip = packet_of(proto, src_port, dst_port, len);
    enum sv_class klass = classify(classifier, START, &ip);

    sv_classifier_free(classifier);
    return klass;
}

static void what_people_wait_for_is_high(void)
{
    CHECK_EQ(class_of(IPPROTO_ICMP, 0, 0, 1400), SV_CLASS_HIGH);
    CHECK_EQ(class_of(IPPROTO_ICMPV6, 0, 0, 1400), SV_CLASS_HIGH);
    CHECK_EQ(class_of(IPPROTO_UDP, 40000, 53, 1400), SV_CLASS_HIGH);
    CHECK_EQ(class_of(IPPROTO_UDP, 53, 40000, 1400), SV_CLASS_HIGH);
    CHECK_EQ(class_of(IPPROTO_TCP, 40000, 53, 1400), SV_CLASS_HIGH);
    CHECK_EQ(class_of(IPPROTO_TCP, 40000, 22, 1400), SV_CLASS_HIGH);
    CHECK_EQ(class_of(IPPROTO_TCP, 22, 40000, 1400), SV_CLASS_HIGH);
    CHECK_EQ(class_of(IPPROTO_TCP, 40000, 443, 127), SV_CLASS_HIGH);
}

static void the_rest_begins_as_normal(void)
{
    CHECK_EQ(class_of(IPPROTO_TCP, 40000, 443, 128), SV_CLASS_NORMAL);
    CHECK_EQ(class_of(IPPROTO_UDP, 40000, 443, 1400), SV_CLASS_NORMAL);
    CHECK_EQ(class_of(IPPROTO_GRE, 0, 0, 1400), SV_CLASS_NORMAL);
    CHECK_EQ(class_of(IPPROTO_TCP, 40000, 443, 65000), SV_CLASS_NORMAL);
}

static void a_flow_is_low_past_a_megabyte_in_a_minute(void)
{
    struct sv_classifier *classifier = sv_classifier_new(FLOWS, SECRET);
    struct sv_ip ip = packet_of(IPPROTO_TCP, 40000, 443, 1000), other = ip;
    uint64_t now = START;

    for (size_t i = 0; i < LOW_BYTES / 1000; i++) {
        CHECK_EQ(classify(classifier, now += SV_NS_PER_MS, &ip), SV_CLASS_NORMAL);
    }
    CHECK_EQ(classify(classifier, now, &ip), SV_CLASS_LOW);
    other.src_port++;
    CHECK_EQ(classify(classifier, now, &other), SV_CLASS_NORMAL);
    CHECK_EQ(classify(classifier, START + 60 * SV_NS_PER_S, &ip), SV_CLASS_LOW);
    CHECK_EQ(classify(classifier, START + 61 * SV_NS_PER_S, &ip), SV_CLASS_NORMAL);
    sv_classifier_free(classifier);
}

/* Keystrokes of a session that once moved much still go first. */
static void small_packets_of_a_low_flow_are_high(void)
{
    struct sv_classifier *classifier = sv_classifier_new(FLOWS, SECRET);
    struct sv_ip big = packet_of(IPPROTO_TCP, 40000, 443, 60000), small = big;

    small.len = 52;
    for (size_t i = 0; i < 20; i++) {
        classify(classifier, START, &big);
    }
    CHECK_EQ(classify(classifier, START, &big), SV_CLASS_LOW);
    CHECK_EQ(classify(classifier, START, &small), SV_CLASS_HIGH);
    sv_classifier_free(classifier);
}

/* Sixteen new flows a packet against a table of 64: the steady flow, never the quietest, keeps its count. */
static void strangers_do_not_push_out_a_busy_flow(void)
{
    struct sv_classifier *classifier = sv_classifier_new(FLOWS, SECRET);
    struct sv_ip steady = packet_of(IPPROTO_TCP, 40000, 443, 1000);
    enum sv_class last = SV_CLASS_HIGH;
    uint64_t now = START;

    for (size_t i = 0; i < 1100; i++) {
        last = classify(classifier, ++now, &steady);
        struct sv_ip stranger = packet_of(IPPROTO_UDP, (uint16_t)(i + 1000), 443, 1000);
        classify(classifier, ++now, &stranger);
    }
    CHECK_EQ(last, SV_CLASS_LOW);
    sv_classifier_free(classifier);
}

static void the_flow_is_its_five_tuple(void)
{
    struct sv_classifier *classifier = sv_classifier_new(FLOWS, SECRET);
    struct sv_ip ip = packet_of(IPPROTO_TCP, 40000, 443, 1000), other;
    uint32_t flow, again, different;

    sv_classify(classifier, START, &ip, &flow);
    sv_classify(classifier, START + 1, &ip, &again);
    CHECK_EQ(flow, again);
    other = ip;
    other.dst_port = 444;
    sv_classify(classifier, START, &other, &different);
    CHECK(different != flow);
    other = ip;
    other.proto = IPPROTO_UDP;
    sv_classify(classifier, START, &other, &different);
    CHECK(different != flow);
    other = ip;
    other.src[15]++;
    sv_classify(classifier, START, &other, &different);
    CHECK(different != flow);
    sv_classifier_free(classifier);
}

static void fragments_of_a_packet_stay_together(void)
{
    struct sv_classifier *classifier = sv_classifier_new(FLOWS, SECRET);
    struct sv_ip first = packet_of(IPPROTO_UDP, 40000, 4500, 1400), second = first;
    uint32_t flow, again;

    first.fragment = first.first_fragment = true;
    second.fragment = true;
    second.src_port = second.dst_port = 0;
    sv_classify(classifier, START, &first, &flow);
    sv_classify(classifier, START, &second, &again);
    CHECK_EQ(flow, again);
    sv_classifier_free(classifier);
}

/* The hash is keyed: who does not know the secret can't choose packets that meet. */
static void another_secret_gives_other_flows(void)
{
    static const uint8_t other[16] = "fedcba9876543210";
    struct sv_classifier *a = sv_classifier_new(FLOWS, SECRET), *b = sv_classifier_new(FLOWS, other);
    struct sv_ip ip = packet_of(IPPROTO_TCP, 40000, 443, 1000);
    uint32_t flow_a, flow_b;

    sv_classify(a, START, &ip, &flow_a);
    sv_classify(b, START, &ip, &flow_b);
    CHECK(flow_a != flow_b);
    sv_classifier_free(a);
    sv_classifier_free(b);
}

/* Any number of flows in a table of few: every answer is one of the three. */
static void a_flood_of_flows_changes_nothing_else(void)
{
    struct sv_classifier *classifier = sv_classifier_new(1, SECRET);

    for (size_t i = 0; i < 100000; i++) {
        struct sv_ip ip = packet_of(IPPROTO_UDP, (uint16_t)random_number(),
                                    (uint16_t)(1024 + random_below(60000)), 128 + random_below(1000));

        if (ip.src_port != 53 && ip.src_port != 22) {
            CHECK_EQ(classify(classifier, START + i, &ip), SV_CLASS_NORMAL);
        }
    }
    sv_classifier_free(classifier);
}

int main(void)
{
    RUN(what_people_wait_for_is_high);
    RUN(the_rest_begins_as_normal);
    RUN(a_flow_is_low_past_a_megabyte_in_a_minute);
    RUN(small_packets_of_a_low_flow_are_high);
    RUN(strangers_do_not_push_out_a_busy_flow);
    RUN(the_flow_is_its_five_tuple);
    RUN(fragments_of_a_packet_stay_together);
    RUN(another_secret_gives_other_flows);
    RUN(a_flood_of_flows_changes_nothing_else);
    return CHECK_DONE("policy/classify");
}
