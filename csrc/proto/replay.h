/* Sliding window over received counters (RFC 6479): each counter passes once, late ones up to the window's size. */
#ifndef SV_PROTO_REPLAY_H
#define SV_PROTO_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

enum { SV_REPLAY_WINDOW = 8192 };

struct sv_replay {
    uint64_t next; /* one above the greatest counter seen */
    uint64_t bits[SV_REPLAY_WINDOW / 64 +
                  1]; /* one word more than the window, so that sliding clears whole words */
};

void sv_replay_init(struct sv_replay *replay);

/* false: seen already or too old. Changes nothing: for a look before decryption. */
bool sv_replay_check(const struct sv_replay *replay, uint64_t counter);

/* After authentication: takes the counter in; false when it was seen already or is too old. */
bool sv_replay_update(struct sv_replay *replay, uint64_t counter);

#endif
