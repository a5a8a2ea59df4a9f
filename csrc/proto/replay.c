#include "proto/replay.h"

#include <string.h>

enum { WORDS = SV_REPLAY_WINDOW / 64 + 1 };

void sv_replay_init(struct sv_replay *replay)
{
    memset(replay, 0, sizeof *replay);
}

/* The last counter of all has no room for `next` above it; no protocol here comes near it. */
static bool in_reach(const struct sv_replay *replay, uint64_t counter)
{
    return counter != UINT64_MAX && (counter >= replay->next || replay->next - counter <= SV_REPLAY_WINDOW);
}

bool sv_replay_check(const struct sv_replay *replay, uint64_t counter)
{
    if (!in_reach(replay, counter)) {
        return false;
    }
    return counter >= replay->next || !(replay->bits[counter / 64 % WORDS] >> counter % 64 & 1);
}

/* Clears the words that the window enters on its way to `counter`. */
static void slide(struct sv_replay *replay, uint64_t counter)
{
    uint64_t top = replay->next > 0 ? (replay->next - 1) / 64 : 0;
    uint64_t entered = counter / 64 - top;
    if (entered >= WORDS) {
        memset(replay->bits, 0, sizeof replay->bits);
    } else {
        for (uint64_t i = 1; i <= entered; i++) {
            replay->bits[(top + i) % WORDS] = 0;
        }
    }
    replay->next = counter + 1;
}

bool sv_replay_update(struct sv_replay *replay, uint64_t counter)
{
    if (!sv_replay_check(replay, counter)) {
        return false;
    }
    if (counter >= replay->next) {
        slide(replay, counter);
    }
    replay->bits[counter / 64 % WORDS] |= UINT64_C(1) << counter % 64;
    return true;
}
