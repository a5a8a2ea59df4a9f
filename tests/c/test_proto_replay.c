/* Each counter passes once; late ones pass up to the window's size; the window agrees with a plain list of
 * what was seen. */
#include "tests/c/check.h"

#include <stdlib.h>

#include "proto/replay.h"

static struct sv_replay replay;

static void in_order(void)
{
    sv_replay_init(&replay);
    for (uint64_t i = 0; i < 3 * SV_REPLAY_WINDOW; i++) {
        CHECK(sv_replay_check(&replay, i) && sv_replay_update(&replay, i));
        CHECK(!sv_replay_check(&replay, i) && !sv_replay_update(&replay, i));
    }
}

static void backwards_through_the_whole_window(void)
{
    sv_replay_init(&replay);
    uint64_t top = 5 * SV_REPLAY_WINDOW + 17;
    CHECK(sv_replay_update(&replay, top));
    for (uint64_t back = 1; back < SV_REPLAY_WINDOW; back++) {
        CHECK(sv_replay_update(&replay, top - back));
        CHECK(!sv_replay_update(&replay, top - back));
    }
    CHECK(!sv_replay_update(&replay, top - SV_REPLAY_WINDOW));
    CHECK(!sv_replay_check(&replay, top - SV_REPLAY_WINDOW));
    CHECK(!sv_replay_update(&replay, 0));
}

/* At every position inside a word: the oldest counter in reach passes, the one below does not. */
static void edges(void)
{
    for (uint64_t top = SV_REPLAY_WINDOW; top < SV_REPLAY_WINDOW + 130; top++) {
        sv_replay_init(&replay);
        CHECK(sv_replay_update(&replay, top));
        CHECK(!sv_replay_update(&replay, top - SV_REPLAY_WINDOW));
        CHECK(sv_replay_update(&replay, top - SV_REPLAY_WINDOW + 1));
        CHECK(!sv_replay_update(&replay, top - SV_REPLAY_WINDOW + 1));
    }
}

static void checking_changes_nothing(void)
{
    sv_replay_init(&replay);
    sv_replay_update(&replay, 100);
    struct sv_replay before = replay;
    CHECK(sv_replay_check(&replay, UINT64_C(1) << 60));
    CHECK(sv_replay_check(&replay, 5));
    CHECK(!sv_replay_check(&replay, 100));
    CHECK_MEM(&replay, &before, sizeof replay);
    CHECK(!sv_replay_update(&replay, 100));
    CHECK_MEM(&replay, &before, sizeof replay);
}

static void long_jumps_forget_the_old(void)
{
    static const uint64_t jumps[] = {63,
                                     64,
                                     65,
                                     SV_REPLAY_WINDOW - 1,
                                     SV_REPLAY_WINDOW,
                                     SV_REPLAY_WINDOW + 63,
                                     SV_REPLAY_WINDOW + 64,
                                     SV_REPLAY_WINDOW + 65,
                                     1000000,
                                     UINT64_C(1) << 40};
    for (size_t i = 0; i < sizeof jumps / sizeof *jumps; i++) {
        sv_replay_init(&replay);
        for (uint64_t c = 0; c < SV_REPLAY_WINDOW; c++) {
            sv_replay_update(&replay, c);
        }
        uint64_t top = SV_REPLAY_WINDOW - 1 + jumps[i];
        CHECK(sv_replay_update(&replay, top));
        uint64_t oldest = top + 1 - SV_REPLAY_WINDOW;
        for (uint64_t c = oldest; c < top; c++) {
            CHECK_EQ(sv_replay_update(&replay, c), c >= SV_REPLAY_WINDOW);
        }
    }
}

static void last_counters(void)
{
    sv_replay_init(&replay);
    CHECK(!sv_replay_update(&replay, UINT64_MAX));
    CHECK(sv_replay_update(&replay, UINT64_MAX - 1));
    CHECK(!sv_replay_update(&replay, UINT64_MAX - 1));
    CHECK(sv_replay_update(&replay, UINT64_MAX - 2));
    CHECK(!sv_replay_update(&replay, UINT64_MAX));
    CHECK(!sv_replay_update(&replay, 0));
}

/* A list of all counters seen decides, over a walk that jumps, stays, goes back and repeats. */
static void agrees_with_a_list(void)
{
    enum { SPAN = 200000, STEPS = 300000 };
    static unsigned char seen[SPAN];
    uint64_t next = 0;
    unsigned long passed = 0;
    srandom(7);
    sv_replay_init(&replay);
    for (int i = 0; i < STEPS; i++) {
        uint64_t reach = random() % 100 == 0  ? 3 * SV_REPLAY_WINDOW
                         : random() % 10 == 0 ? SV_REPLAY_WINDOW + 80
                                              : 70;
        uint64_t counter = next + random() % 3 + 1;
        uint64_t back = (uint64_t)random() % reach;
        counter = counter > back ? counter - back : 0;
        if (counter >= SPAN) {
            break;
        }
        bool fresh = !seen[counter] && counter + SV_REPLAY_WINDOW >= next;
        if (sv_replay_check(&replay, counter) != fresh || sv_replay_update(&replay, counter) != fresh) {
            CHECK_EQ(counter, -1);
            return;
        }
        passed += fresh;
        seen[counter] = 1;
        next = counter >= next ? counter + 1 : next;
    }
    CHECK(passed > 10000);
    CHECK(next > 2 * SV_REPLAY_WINDOW);
}

int main(void)
{
    RUN(in_order);
    RUN(backwards_through_the_whole_window);
    RUN(edges);
    RUN(checking_changes_nothing);
    RUN(long_jumps_forget_the_old);
    RUN(last_counters);
    RUN(agrees_with_a_list);
    return CHECK_DONE("proto_replay");
}
