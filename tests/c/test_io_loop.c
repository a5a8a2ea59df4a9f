/* The loop: timers in their order, set anew and closed from anywhere; watches; the hooks of a turn. */
#include "io/loop.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/c/check.h"

enum { MANY = 100 };

static struct sv_loop loop;
static size_t order[MANY], fired;

static void open_loop(void)
{
    fired = 0;
    CHECK_EQ(sv_loop_init(&loop, NULL, NULL, NULL), 0);
}

/* Whatever else happens, the loop ends after 20 s. */
static bool ended_late;

static void on_late(void *ctx)
{
    (void)ctx;
    ended_late = true;
    sv_loop_stop(&loop);
}

static void run_loop(void)
{
    struct sv_timer *late = sv_timer_new(&loop, on_late, NULL);

    ended_late = false;
    sv_timer_set(late, sv_clock_now() + 20 * SV_NS_PER_S);
    sv_loop_run(&loop);
    CHECK(!ended_late);
    sv_timer_close(late);
}

struct numbered {
    struct sv_timer *timer;
    size_t number, last;
    uint64_t at;
};

static void on_numbered(void *ctx)
{
    struct numbered *one = ctx;

    CHECK(sv_clock_now() >= one->at);
    order[fired++] = one->number;
    if (one->number == one->last) {
        sv_loop_stop(&loop);
    }
}

/* Far enough apart that a loop that was kept waiting still sees one at a time. */
static void timers_fire_in_order_and_never_early(void)
{
    static const size_t when[] = {3, 1, 4, 0, 2};
    struct numbered timers[5];
    uint64_t now = sv_clock_now();

    open_loop();
    for (size_t i = 0; i < 5; i++) {
        timers[i] = (struct numbered){
            .number = when[i], .last = 4, .at = now + (when[i] + 1) * 100 * SV_NS_PER_MS};
        timers[i].timer = sv_timer_new(&loop, on_numbered, &timers[i]);
        sv_timer_set(timers[i].timer, timers[i].at);
    }
    run_loop();
    CHECK_EQ(fired, 5);
    for (size_t i = 0; i < 5; i++) {
        CHECK_EQ(order[i], i);
        sv_timer_close(timers[i].timer);
    }
    sv_loop_clear(&loop);
}

struct repeating {
    struct sv_timer *timer;
    unsigned count;
};

static void on_repeating(void *ctx)
{
    struct repeating *one = ctx;

    if (++one->count == 10) {
        sv_loop_stop(&loop);
    } else {
        sv_timer_set(one->timer, sv_clock_now());
    }
}

static void a_timer_may_set_itself_anew(void)
{
    struct repeating one = {0};

    open_loop();
    one.timer = sv_timer_new(&loop, on_repeating, &one);
    sv_timer_set(one.timer, 0);
    run_loop();
    CHECK_EQ(one.count, 10);
    sv_timer_close(one.timer);
    sv_loop_clear(&loop);
}

static void count_up(void *ctx)
{
    ++*(unsigned *)ctx;
}

static void stop_loop(void *ctx)
{
    (void)ctx;
    sv_loop_stop(&loop);
}

/* Once only; SV_NEVER stops it; a later time takes the place of an earlier one. */
static void a_timer_fires_once_and_can_be_stopped(void)
{
    unsigned once = 0, never = 0, moved = 0;
    struct sv_timer *timers[4];
    uint64_t now = sv_clock_now();

    open_loop();
    timers[0] = sv_timer_new(&loop, count_up, &once);
    timers[1] = sv_timer_new(&loop, count_up, &never);
    timers[2] = sv_timer_new(&loop, count_up, &moved);
    timers[3] = sv_timer_new(&loop, stop_loop, NULL);
    sv_timer_set(timers[0], now);
    sv_timer_set(timers[1], now);
    sv_timer_set(timers[1], SV_NEVER);
    sv_timer_set(timers[2], now);
    sv_timer_set(timers[2], now + 3600 * SV_NS_PER_S);
    sv_timer_set(timers[3], now + 50 * SV_NS_PER_MS);
    run_loop();
    CHECK_EQ(once, 1);
    CHECK_EQ(never, 0);
    CHECK_EQ(moved, 0);
    for (size_t i = 0; i < 4; i++) {
        sv_timer_close(timers[i]);
    }
    sv_loop_clear(&loop);
}

struct pair {
    struct sv_timer **mine, **others;
    unsigned *count;
};

/* The first of the two that fires closes both, its own timer too. */
static void close_both(void *ctx)
{
    struct pair *pair = ctx;

    ++*pair->count;
    sv_timer_close(*pair->mine);
    sv_timer_close(*pair->others);
}

static void closing_in_a_callback_silences_what_is_due(void)
{
    struct sv_timer *one, *other, *stop;
    unsigned count = 0;
    struct pair first = {&one, &other, &count}, second = {&other, &one, &count};

    open_loop();
    one = sv_timer_new(&loop, close_both, &first);
    other = sv_timer_new(&loop, close_both, &second);
    stop = sv_timer_new(&loop, stop_loop, NULL);
    sv_timer_set(one, 0);
    sv_timer_set(other, 0);
    sv_timer_set(stop, sv_clock_now() + 50 * SV_NS_PER_MS);
    run_loop();
    CHECK_EQ(count, 1);
    sv_timer_close(stop);
    sv_loop_clear(&loop);
}

struct watched {
    int fd;
    struct sv_watch *watch;
    unsigned readable, writable;
    bool close_at_once;
};

static void on_watched(void *ctx, int events)
{
    struct watched *one = ctx;
    char byte;

    if (events & SV_READABLE) {
        one->readable++;
        CHECK_EQ(read(one->fd, &byte, 1), 1);
    }
    if (events & SV_WRITABLE) {
        one->writable++;
        sv_watch_set(one->watch, SV_READABLE);
    }
    if (one->close_at_once) {
        sv_watch_close(one->watch);
        one->watch = NULL;
    }
}

static struct watched watch_pair(int fds[2])
{
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    return (struct watched){.fd = fds[0]};
}

static void turn(int times)
{
    for (int i = 0; i < times; i++) {
        uv_run(&loop.uv, UV_RUN_NOWAIT);
    }
}

/* Readiness is a level: what is not read is told again; 0 pauses; events that were not asked for are not told. */
static void a_watch_tells_what_was_asked(void)
{
    int fds[2];
    struct watched one = watch_pair(fds);

    open_loop();
    one.watch = sv_watch_new(&loop, one.fd, on_watched, &one);
    turn(3);
    CHECK_EQ(one.readable + one.writable, 0);
    CHECK_EQ(write(fds[1], "abc", 3), 3);
    turn(3);
    CHECK_EQ(one.readable, 0);
    sv_watch_set(one.watch, SV_READABLE);
    turn(2);
    CHECK_EQ(one.readable, 2);
    sv_watch_set(one.watch, 0);
    turn(3);
    CHECK_EQ(one.readable, 2);
    sv_watch_set(one.watch, SV_READABLE | SV_WRITABLE);
    turn(3);
    CHECK_EQ(one.readable, 3);
    CHECK_EQ(one.writable, 1);
    sv_watch_close(one.watch);
    sv_loop_clear(&loop);
    close(fds[0]);
    close(fds[1]);
}

static void a_watch_may_close_itself(void)
{
    int fds[2];
    struct watched one = watch_pair(fds);

    one.close_at_once = true;
    open_loop();
    one.watch = sv_watch_new(&loop, one.fd, on_watched, &one);
    sv_watch_set(one.watch, SV_READABLE);
    CHECK_EQ(write(fds[1], "abc", 3), 3);
    turn(5);
    CHECK_EQ(one.readable, 1);
    sv_loop_clear(&loop);
    close(fds[0]);
    close(fds[1]);
}

/* After close the fd may be watched again at once, as when a socket is handed to another owner. */
static void a_socket_changes_its_watch_at_once(void)
{
    int fds[2];
    struct watched first = watch_pair(fds), second = first;

    open_loop();
    first.watch = sv_watch_new(&loop, first.fd, on_watched, &first);
    sv_watch_set(first.watch, SV_READABLE);
    turn(1);
    sv_watch_close(first.watch);
    second.watch = sv_watch_new(&loop, second.fd, on_watched, &second);
    CHECK(second.watch != NULL);
    sv_watch_set(second.watch, SV_READABLE);
    CHECK_EQ(write(fds[1], "ab", 2), 2);
    turn(2);
    CHECK_EQ(first.readable, 0);
    CHECK_EQ(second.readable, 2);
    sv_watch_close(second.watch);
    sv_loop_clear(&loop);
    close(fds[0]);
    close(fds[1]);
}

static void the_fd_must_be_one(void)
{
    open_loop();
    CHECK(sv_watch_new(&loop, -1, on_watched, NULL) == NULL);
    sv_loop_clear(&loop);
}

static struct {
    unsigned wakes, sleeps;
    bool awake;
} turns;

static void on_wake(void *ctx)
{
    CHECK(ctx == &turns && !turns.awake);
    turns.wakes++;
    turns.awake = true;
}

static void on_sleep(void *ctx)
{
    CHECK(ctx == &turns && turns.awake);
    turns.sleeps++;
    turns.awake = false;
}

static void check_awake(void *ctx)
{
    CHECK(turns.awake);
    CHECK(loop.now <= sv_clock_now());
    sv_loop_wake(&loop);
    stop_loop(ctx);
}

/* Every callback runs between on_wake and on_sleep, and each on_wake has its on_sleep. */
static void callbacks_run_awake(void)
{
    struct sv_timer *timer;

    memset(&turns, 0, sizeof turns);
    CHECK_EQ(sv_loop_init(&loop, &turns, on_wake, on_sleep), 0);
    timer = sv_timer_new(&loop, check_awake, NULL);
    sv_timer_set(timer, sv_clock_now() + 10 * SV_NS_PER_MS);
    run_loop();
    CHECK(turns.wakes >= 2);
    CHECK_EQ(turns.wakes, turns.sleeps + turns.awake);
    sv_timer_close(timer);
    sv_loop_clear(&loop);
}

/* It looks once more after a turn, and then sleeps: 300 ms with three turns of work are nothing to the processor. */
static void a_loop_without_work_waits(void)
{
    struct sv_timer *timers[3];
    struct timespec used, before;
    unsigned worked = 0;
    uint64_t now = sv_clock_now();

    open_loop();
    for (size_t i = 0; i < 3; i++) {
        timers[i] = sv_timer_new(&loop, i == 2 ? stop_loop : count_up, &worked);
        sv_timer_set(timers[i], now + (i + 1) * 100 * SV_NS_PER_MS);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    run_loop();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    CHECK_EQ(worked, 2);
    CHECK((used.tv_sec - before.tv_sec) * 1000000000L + used.tv_nsec - before.tv_nsec < 50000000L);
    for (size_t i = 0; i < 3; i++) {
        sv_timer_close(timers[i]);
    }
    sv_loop_clear(&loop);
}

int main(void)
{
    RUN(timers_fire_in_order_and_never_early);
    RUN(a_timer_may_set_itself_anew);
    RUN(a_timer_fires_once_and_can_be_stopped);
    RUN(closing_in_a_callback_silences_what_is_due);
    RUN(a_watch_tells_what_was_asked);
    RUN(a_watch_may_close_itself);
    RUN(a_socket_changes_its_watch_at_once);
    RUN(the_fd_must_be_one);
    RUN(callbacks_run_awake);
    RUN(a_loop_without_work_waits);
    return CHECK_DONE("test_io_loop");
}
