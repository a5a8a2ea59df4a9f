#include "engine/keep.h"

#include <stdlib.h>
#include <string.h>

#include "engine/core.h"

enum {
    FLOWS = 16,
    LIFETIME_S = 120, /* of a TCP segment (RFC 9293, section 3.4.1) */
};

struct sv_kept {
    uint8_t *packet; /* NULL: free */
    size_t len;
    uint32_t flow;
    uint64_t at; /* ns */
};

static struct sv_kept *slot_for(struct sv_kept *slots, uint32_t flow)
{
    struct sv_kept *oldest = slots;

    for (size_t i = 0; i < FLOWS; i++) {
        if (slots[i].packet && slots[i].flow == flow) {
            return &slots[i];
        }
        oldest = slots[i].at < oldest->at ? &slots[i] : oldest;
    }
    return oldest;
}

void sv_keep_note(struct sv_keep *keep, uint64_t now, uint32_t flow, const uint8_t *packet, size_t len)
{
    struct sv_kept *slot;

    if (!keep->slots && !(keep->slots = calloc(FLOWS, sizeof *keep->slots))) {
        return;
    }
    slot = slot_for(keep->slots, flow);
    if (!slot->packet && !(slot->packet = malloc(SV_BUF_SMALL))) {
        return;
    }
    memcpy(slot->packet, packet, len);
    slot->len = len;
    slot->flow = flow;
    keep->newest = slot->at = now;
}

void sv_keep_clear(struct sv_keep *keep)
{
    for (size_t i = 0; keep->slots && i < FLOWS; i++) {
        free(keep->slots[i].packet);
    }
    free(keep->slots);
    *keep = (struct sv_keep){0};
}

void sv_keep_answered(struct sv_keep *keep, uint64_t since)
{
    if (keep->slots && keep->newest <= since) {
        sv_keep_clear(keep);
    }
}

void sv_keep_move(struct sv_keep *to, struct sv_keep *from)
{
    sv_keep_clear(to);
    *to = *from;
    *from = (struct sv_keep){0};
}

/* A client's rules may have changed since the packet was kept. */
static bool may_still_go(struct sv_worker *worker, const struct sv_ip *ip)
{
    const struct sv_conn *sender;

    if (!worker->engine->hub) {
        return true;
    }
    sender = sv_hub_route(worker->engine, ip->src);
    return sv_hub_check_destination(worker->engine->hub, sender ? sender->client : NULL, ip) == SV_PASS;
}

static void resend(struct sv_worker *worker, const struct sv_kept *kept)
{
    struct sv_buf *buf = sv_buf_get(&worker->pool, kept->len);
    struct sv_ip ip;

    if (buf && sv_ip_parse(&ip, kept->packet, kept->len) == 0 && may_still_go(worker, &ip)) {
        memcpy(buf->data, kept->packet, kept->len);
        buf->end = buf->data + kept->len;
        sv_outbound_route(worker, &buf, &ip);
    }
    sv_buf_put(buf);
}

/* Sending may keep packets in turn: not among those that are being sent. */
void sv_keep_resend(struct sv_keep *keep, struct sv_worker *worker, uint64_t since)
{
    struct sv_keep taken = *keep;

    *keep = (struct sv_keep){0};
    for (size_t i = 0; taken.slots && i < FLOWS; i++) {
        const struct sv_kept *kept = &taken.slots[i];

        if (kept->packet && kept->at > since && worker->loop.now < kept->at + LIFETIME_S * SV_NS_PER_S) {
            resend(worker, kept);
        }
    }
    sv_keep_clear(&taken);
}
