/* Lists of WireGuard peers: a walk misses nobody who stays, whoever goes meanwhile; the connected ones come first. */
#include "tests/c/check.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "engine/wg.h"

enum { MANY = 1000 };

static struct sv_wg_member members[MANY];

static struct sv_wg *made(size_t count)
{
    static struct sv_wg wg;

    memset(&wg, 0, sizeof wg);
    memset(members, 0, sizeof members);
    pthread_mutex_init(&wg.lock, NULL);
    wg.kernel_at = wg.reclaim_at = SV_NEVER;
    wg.timer_at = SV_NEVER;
    for (size_t i = 0; i < count; i++) {
        members[i].wg = &wg;
        members[i].prev = i ? &members[i - 1] : NULL;
        members[i].next = i + 1 < count ? &members[i + 1] : NULL;
    }
    wg.members = members;
    wg.members_last = &members[count - 1];
    return &wg;
}

static void removed(struct sv_wg *wg, struct sv_wg_member *member)
{
    sv_wg_unlist(member);
    *(member->prev ? &member->prev->next : &wg->members) = member->next;
    *(member->next ? &member->next->prev : &wg->members_last) = member->prev;
    memset(member, 0xFF, sizeof *member);
}

static void walks_pass_over_what_goes(void)
{
    struct sv_wg *wg = made(MANY);
    struct sv_wg_walk walk, other;
    size_t seen = 0;

    sv_wg_lock(wg);
    sv_wg_begin_walk(wg, &other);
    sv_wg_begin_walk(wg, &walk);
    for (size_t i = 0; i < MANY; i += 2, seen++) {
        CHECK(sv_wg_walk_on(wg, &walk) == &members[i]);
        removed(wg, &members[i + 1]); /* the next one */
        removed(wg, &members[i]);     /* the one that was seen */
    }
    CHECK(sv_wg_walk_on(wg, &walk) == NULL);
    CHECK(sv_wg_walk_on(wg, &other) == NULL);
    CHECK_EQ(seen, MANY / 2);
    CHECK(wg->walks == NULL);
    CHECK_EQ(pthread_mutex_trylock(&wg->lock), EBUSY);
    sv_wg_unlock(wg);
}

static void *ask_for_the_lock(void *ctx)
{
    struct sv_wg *wg = ctx;

    sv_wg_lock(wg);
    if (wg->members == members) {
        removed(wg, &members[MANY - 1]);
    }
    sv_wg_unlock(wg);
    return NULL;
}

/* Whoever wants the lock does not wait for the end. */
static void walks_let_others_in(void)
{
    struct sv_wg *wg = made(MANY);
    struct sv_wg_walk walk;
    size_t seen = 0;
    pthread_t thread;

    sv_wg_lock(wg);
    pthread_create(&thread, NULL, ask_for_the_lock, wg);
    sv_wg_begin_walk(wg, &walk);
    for (; wg->members_last == &members[MANY - 1] || seen == 0; seen++) {
        if (!sv_wg_walk_on(wg, &walk)) {
            sv_wg_begin_walk(wg, &walk); /* the thread is not there yet: once more */
        }
    }
    while (sv_wg_walk_on(wg, &walk)) {
        seen++;
    }
    sv_wg_unlock(wg);
    pthread_join(thread, NULL);
    CHECK(seen >= MANY - 1);
}

static void check_heard(const struct sv_wg *wg, const char *expected)
{
    const struct sv_wg_member *member = wg->heard, *last = NULL;
    char actual[16] = "";
    size_t count = 0;

    for (; member; last = member, member = member->heard_next) {
        CHECK(member->heard_prev == last);
        actual[count++] = (char)('a' + (member - members));
    }
    CHECK(wg->heard_last == last);
    CHECK_STR(actual, expected);
}

static void the_connected_ones_come_first(void)
{
    struct sv_wg *wg = made(4);

    check_heard(wg, "");
    sv_wg_list_heard(&members[0]);
    sv_wg_list_heard(&members[1]);
    check_heard(wg, "ab");
    members[1].connected = members[2].connected = true;
    sv_wg_list_heard(&members[1]);
    sv_wg_list_heard(&members[2]);
    check_heard(wg, "cba");
    members[2].connected = false;
    sv_wg_list_heard(&members[2]);
    check_heard(wg, "bac");
    sv_wg_list_heard(&members[1]);
    check_heard(wg, "bac");
    removed(wg, &members[0]);
    check_heard(wg, "bc");
    removed(wg, &members[3]); /* never heard of */
    removed(wg, &members[2]);
    removed(wg, &members[1]);
    check_heard(wg, "");
}

int main(void)
{
    RUN(walks_pass_over_what_goes);
    RUN(walks_let_others_in);
    RUN(the_connected_ones_come_first);
    return CHECK_DONE("engine_wg_list");
}
