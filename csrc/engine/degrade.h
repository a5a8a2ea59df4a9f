/* When a QUIC link has become so bad that WebSocket will do better: loss, as networks cause it that throttle UDP, or a path that answers late or not. */
#ifndef SV_ENGINE_DEGRADE_H
#define SV_ENGINE_DEGRADE_H

#include <stdbool.h>
#include <stdint.h>

/* Sums since the link was opened. */
struct sv_degrade_sample {
    uint64_t arrived[2],
        lost[2]; /* datagrams: ours, as the transport sees them; the peer's, by the gaps in their counters */
    uint64_t srtt_ns, min_rtt_ns; /* 0: not measured */
    bool critical;                /* the keepalive's verdict, */
    unsigned checks, timeouts; /* on so many of its checks, and the last of them in a row without an answer */
};

struct sv_degrade {
    uint64_t looked_at; /* ns; 0: never */
    struct sv_degrade_sample before;
    unsigned strikes; /* bad seconds in a row */
    unsigned lossy;   /* seconds in a row that lost more than is usual */
};

/* At most once a second: true when the link has been bad for some seconds. */
bool sv_degrade_look(struct sv_degrade *degrade, uint64_t now, const struct sv_degrade_sample *sample);

#endif
