#include "policy/classify.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/siphash.h"

enum { WAYS = 4, DNS = 53, SSH = 22, SMALL = 128, LOW_BYTES = 1000000 };

static const uint64_t WINDOW = 60 * SV_NS_PER_S;

struct flow {
    uint64_t hash;        /* 0: free */
    uint64_t bytes;       /* in the window */
    uint64_t began, last; /* of the window; of its packets: ns */
};

struct sv_classifier {
    uint64_t secret[2]; /* hash key */
    size_t sets;
    struct flow flows[]; /* sets of WAYS */
};

struct sv_classifier *sv_classifier_new(size_t flows, const uint8_t secret[16])
{
    size_t sets = (flows + WAYS - 1) / WAYS;
    struct sv_classifier *classifier = calloc(1, sizeof *classifier + sets * WAYS * sizeof(struct flow));

    if (classifier) {
        classifier->secret[0] = sv_load64le(secret);
        classifier->secret[1] = sv_load64le(secret + 8);
        classifier->sets = sets;
    }
    return classifier;
}

void sv_classifier_free(struct sv_classifier *classifier)
{
    free(classifier);
}

static uint64_t hash_flow(const struct sv_classifier *classifier, const struct sv_ip *ip)
{
    uint8_t tuple[40];
    uint64_t hash;

    memcpy(tuple, ip->src, 16);
    memcpy(tuple + 16, ip->dst, 16);
    /* A later fragment has no ports: all fragments of a packet are one flow only when none counts them. */
    sv_store16be(tuple + 32, ip->fragment ? 0 : ip->src_port);
    sv_store16be(tuple + 34, ip->fragment ? 0 : ip->dst_port);
    sv_store32be(tuple + 36, ip->proto);
    hash = sv_siphash(classifier->secret, tuple, sizeof tuple);
    return hash ? hash : 1;
}

static struct flow *find_flow(struct sv_classifier *classifier, uint64_t now, uint64_t hash)
{
    struct flow *set = &classifier->flows[hash % classifier->sets * WAYS], *quietest = set;

    for (size_t i = 0; i < WAYS; i++) {
        if (set[i].hash == hash) {
            return &set[i];
        }
        quietest = set[i].last < quietest->last ? &set[i] : quietest;
    }
    *quietest = (struct flow){.hash = hash, .began = now};
    return quietest;
}

static bool is_high(const struct sv_ip *ip)
{
    return ip->proto == IPPROTO_ICMP || ip->proto == IPPROTO_ICMPV6 || ip->src_port == DNS ||
           ip->dst_port == DNS || ip->src_port == SSH || ip->dst_port == SSH || ip->len < SMALL;
}

enum sv_class sv_classify(struct sv_classifier *classifier, uint64_t now, const struct sv_ip *ip,
                          uint32_t *flow_hash)
{
    uint64_t hash = hash_flow(classifier, ip);
    struct flow *flow = find_flow(classifier, now, hash);

    *flow_hash = (uint32_t)(hash >> 32);
    if (now - flow->began > WINDOW) {
        flow->began = now;
        flow->bytes = 0;
    }
    flow->last = now;
    flow->bytes += ip->len;
    if (is_high(ip)) {
        return SV_CLASS_HIGH;
    }
    return flow->bytes > LOW_BYTES ? SV_CLASS_LOW : SV_CLASS_NORMAL;
}
