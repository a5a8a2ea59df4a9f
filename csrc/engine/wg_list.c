/* Lists of members: those that may have counted something, and walks along all of them that hold nobody up. */
#include <time.h>

#include "base/clock.h"
#include "engine/wg.h"

enum { STEPS_AT_ONCE = 128 };

static const struct timespec PAUSE = {.tv_nsec = 50000}; /* long enough for one who waits to wake up */

/* ---- heard ---- */

static void put_first(struct sv_wg *wg, struct sv_wg_member *member)
{
    member->heard_prev = NULL;
    member->heard_next = wg->heard;
    *(wg->heard ? &wg->heard->heard_prev : &wg->heard_last) = member;
    wg->heard = member;
}

static void put_last(struct sv_wg *wg, struct sv_wg_member *member)
{
    member->heard_next = NULL;
    member->heard_prev = wg->heard_last;
    *(wg->heard_last ? &wg->heard_last->heard_next : &wg->heard) = member;
    wg->heard_last = member;
}

static void take_out(struct sv_wg *wg, struct sv_wg_member *member)
{
    *(member->heard_prev ? &member->heard_prev->heard_next : &wg->heard) = member->heard_next;
    *(member->heard_next ? &member->heard_next->heard_prev : &wg->heard_last) = member->heard_prev;
}

void sv_wg_list_heard(struct sv_wg_member *member)
{
    if (member->heard) {
        take_out(member->wg, member);
    }
    member->heard = true;
    (member->connected ? put_first : put_last)(member->wg, member);
}

/* ---- walks ---- */

void sv_wg_begin_walk(struct sv_wg *wg, struct sv_wg_walk *walk)
{
    *walk = (struct sv_wg_walk){.at = wg->members, .next = wg->walks};
    wg->walks = walk;
}

static void end_walk(struct sv_wg *wg, const struct sv_wg_walk *walk)
{
    struct sv_wg_walk **at = &wg->walks;

    while (*at != walk) {
        at = &(*at)->next;
    }
    *at = walk->next;
}

static void let_others_in(struct sv_wg *wg)
{
    sv_wg_unlock(wg);
    nanosleep(&PAUSE, NULL);
    sv_wg_lock(wg);
}

struct sv_wg_member *sv_wg_walk_on(struct sv_wg *wg, struct sv_wg_walk *walk)
{
    struct sv_wg_member *member;

    if (walk->at && ++walk->steps % STEPS_AT_ONCE == 0) {
        let_others_in(wg);
    }
    member = walk->at;
    if (member) {
        walk->at = member->next;
    } else {
        end_walk(wg, walk);
    }
    return member;
}

void sv_wg_unlist(struct sv_wg_member *member)
{
    for (struct sv_wg_walk *walk = member->wg->walks; walk; walk = walk->next) {
        if (walk->at == member) {
            walk->at = member->next;
        }
    }
    if (member->heard) {
        take_out(member->wg, member);
    }
}
