#include "io/loop.h"

#include <errno.h>
#include <sched.h>
#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"

void sv_loop_wake(struct sv_loop *loop)
{
    if (!loop->awake) {
        loop->awake = true;
        loop->now = sv_clock_now();
        if (loop->on_wake) {
            loop->on_wake(loop->ctx);
        }
    }
}

/* After a turn with work the loop looks once more before it waits: the idle handle makes that poll return at once. Where it found
 * nothing the processor is offered to others, then the loop waits. An answer that comes within these few microseconds finds the thread
 * awake, and the wake-up of whoever was just written to does not meet a processor on its way to sleep: a ping through hub and client is
 * 40 µs faster. Yielding after every turn would cost a tenth of a busy flow; looking more often gains nothing. */
static void on_look(uv_idle_t *look)
{
    struct sv_loop *loop = look->data;

    if (!loop->awake) {
        sched_yield();
    }
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct sv_loop *loop = prepare->data;

    if (loop->awake) {
        uv_idle_start(&loop->look, on_look);
    } else {
        uv_idle_stop(&loop->look);
    }
    sv_loop_wake(loop);
    if (loop->on_sleep) {
        loop->on_sleep(loop->ctx);
    }
    loop->awake = false;
}

int sv_loop_init(struct sv_loop *loop, void *ctx, void (*on_wake)(void *), void (*on_sleep)(void *))
{
    memset(loop, 0, sizeof *loop);
    if (uv_loop_init(&loop->uv)) {
        return SV_E_SYSTEM;
    }
    loop->ctx = ctx;
    loop->on_wake = on_wake;
    loop->on_sleep = on_sleep;
    loop->now = sv_clock_now();
    uv_prepare_init(&loop->uv, &loop->prepare);
    loop->prepare.data = loop;
    uv_prepare_start(&loop->prepare, on_prepare);
    uv_idle_init(&loop->uv, &loop->look);
    loop->look.data = loop;
    loop->open = true;
    return 0;
}

void sv_loop_run(struct sv_loop *loop)
{
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void sv_loop_stop(struct sv_loop *loop)
{
    uv_stop(&loop->uv);
}

void sv_loop_clear(struct sv_loop *loop)
{
    if (!loop->open) {
        return;
    }
    loop->open = false;
    uv_close((uv_handle_t *)&loop->prepare, NULL);
    uv_close((uv_handle_t *)&loop->look, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    uv_loop_close(&loop->uv);
}

/* ---- watches ---- */

struct sv_watch {
    uv_poll_t poll;
    struct sv_loop *loop;
    void (*on_ready)(void *ctx, int events);
    void *ctx;
    int events; /* as set */
    int armed;  /* as the loop knows; WRITABLE may linger */
};

static int to_uv(int events)
{
    return (events & SV_READABLE ? UV_READABLE : 0) | (events & SV_WRITABLE ? UV_WRITABLE : 0);
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void arm(struct sv_watch *watch, int events)
{
    watch->armed = events;
    if (events) {
        uv_poll_start(&watch->poll, to_uv(events), on_poll);
    } else {
        uv_poll_stop(&watch->poll);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct sv_watch *watch = poll->data;
    int ready = status < 0 ? SV_READABLE | SV_WRITABLE : 0;

    ready |= events & UV_READABLE ? SV_READABLE : 0;
    ready |= events & UV_WRITABLE ? SV_WRITABLE : 0;
    if (ready & ~watch->events) {
        arm(watch, watch->events);
        ready &= watch->events;
    }
    if (ready) {
        sv_loop_wake(watch->loop);
        watch->on_ready(watch->ctx, ready);
    }
}

struct sv_watch *sv_watch_new(struct sv_loop *loop, int fd, void (*on_ready)(void *ctx, int events),
                              void *ctx)
{
    struct sv_watch *watch = calloc(1, sizeof *watch);

    if (!watch || uv_poll_init(&loop->uv, &watch->poll, fd)) {
        free(watch);
        return NULL;
    }
    watch->poll.data = watch;
    watch->loop = loop;
    watch->on_ready = on_ready;
    watch->ctx = ctx;
    return watch;
}

/* A busy link is writable, full, writable, full: each change would cost system calls. So WRITABLE stays armed until it is told unwanted. */
void sv_watch_set(struct sv_watch *watch, int events)
{
    watch->events = events;
    if (events != watch->armed && (!events || watch->armed != (events | SV_WRITABLE))) {
        arm(watch, events);
    }
}

static void free_watch(uv_handle_t *handle)
{
    free(handle->data);
}

void sv_watch_close(struct sv_watch *watch)
{
    uv_close((uv_handle_t *)&watch->poll, free_watch);
}

/* ---- timers: libuv's own have a grain of 1 ms, too coarse for a rate limiter ---- */

struct sv_timer {
    struct sv_watch *watch;
    int fd;
    void (*on_time)(void *ctx);
    void *ctx;
};

static void on_timer(void *ctx, int events)
{
    struct sv_timer *timer = ctx;
    uint64_t count;

    (void)events;
    if (read(timer->fd, &count, sizeof count) == sizeof count) {
        timer->on_time(timer->ctx);
    }
}

struct sv_timer *sv_timer_new(struct sv_loop *loop, void (*on_time)(void *ctx), void *ctx)
{
    struct sv_timer *timer = calloc(1, sizeof *timer);

    if (!timer) {
        return NULL;
    }
    timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    timer->watch = timer->fd < 0 ? NULL : sv_watch_new(loop, timer->fd, on_timer, timer);
    if (!timer->watch) {
        if (timer->fd >= 0) {
            close(timer->fd);
        }
        free(timer);
        return NULL;
    }
    timer->on_time = on_time;
    timer->ctx = ctx;
    sv_watch_set(timer->watch, SV_READABLE);
    return timer;
}

void sv_timer_set(struct sv_timer *timer, uint64_t at)
{
    struct itimerspec when = {{0, 0}, {0, 0}};

    if (at != SV_NEVER) {
        at = sv_clock_monotonic(at);
        at = at ? at : 1; /* all zeros would stop it */
        when.it_value.tv_sec = (time_t)(at / SV_NS_PER_S);
        when.it_value.tv_nsec = (long)(at % SV_NS_PER_S);
    }
    timerfd_settime(timer->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void sv_timer_close(struct sv_timer *timer)
{
    sv_watch_close(timer->watch);
    close(timer->fd);
    free(timer);
}
