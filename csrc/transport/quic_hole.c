#include "transport/quic_hole.h"

#include "base/clock.h"
#include "transport/quic_conn.h"

enum {
    PAYLOAD_LEAST = SV_QUIC_HOLE_SMALL + SV_QUIC_OVERHEAD,
    LOST_LEAST = 3,
    LONGEST_MOST = 8,
    OWED_PTOS = 8,       /* as many times at least it was sent again */
    AGAIN_AFTER_S = 600, /* RFC 8899, section 5.1.1 */
};

/* What a queue or the air swallows at once is one loss. TCP sends again after 200 ms, 400 ms more, 800 ms more: the third of its losses is to tell. */
static const uint64_t APART = 100 * SV_NS_PER_MS, ROW_LASTS = 500 * SV_NS_PER_MS;
static const uint64_t OWED_LEAST = SV_NS_PER_S;

static bool avoid_large(struct sv_quic_hole *hole, uint64_t now)
{
    hole->until = now + AGAIN_AFTER_S * SV_NS_PER_S;
    return true;
}

/* A path that loses much has had its rows already, and must have a much longer one. */
bool sv_quic_hole_on_lost(struct sv_quic_hole *hole, uint64_t now, size_t len, uint64_t pto)
{
    uint64_t apart = pto > APART ? pto : APART;

    if (len <= SV_QUIC_HOLE_SMALL || hole->until) {
        return false;
    }
    hole->least = hole->lost && hole->least < len ? hole->least : len;
    if (now < hole->counted_at + apart) {
        return false;
    }
    hole->row_since = hole->lost++ ? hole->row_since : now;
    hole->counted_at = now;
    return hole->lost >= LOST_LEAST + 2 * hole->longest && now >= hole->row_since + ROW_LASTS &&
           avoid_large(hole, now);
}

void sv_quic_hole_on_acked(struct sv_quic_hole *hole, uint64_t now, size_t len)
{
    unsigned longest = hole->lost > hole->longest ? hole->lost : hole->longest;

    if (len > SV_QUIC_HOLE_SMALL && len >= hole->least) {
        hole->longest = longest < LONGEST_MOST ? longest : LONGEST_MOST;
        hole->lost = 0;
        hole->least = 0;
        hole->counted_at = now; /* what was sent before it and is lost is told until then */
        hole->until = 0;
    } else if (hole->until && now >= hole->until) {
        sv_quic_hole_forget(hole, now);
    }
}

bool sv_quic_hole_on_owed(struct sv_quic_hole *hole, uint64_t now, size_t owed, uint64_t pto)
{
    uint64_t patience = OWED_PTOS * pto > OWED_LEAST ? OWED_PTOS * pto : OWED_LEAST;

    if (owed <= SV_QUIC_HOLE_SMALL || hole->until || now < hole->waits_since + patience) {
        return false;
    }
    hole->least = SV_QUIC_PAYLOAD_MAX; /* no datagram disproves it */
    return avoid_large(hole, now);
}

void sv_quic_hole_on_stream(struct sv_quic_hole *hole, uint64_t now)
{
    hole->waits_since = now;
}

void sv_quic_hole_forget(struct sv_quic_hole *hole, uint64_t now)
{
    *hole = (struct sv_quic_hole){.counted_at = now, .waits_since = now};
}

size_t sv_quic_hole_payload(const struct sv_quic_hole *hole)
{
    return hole->until ? PAYLOAD_LEAST : SV_QUIC_PAYLOAD_MAX;
}
