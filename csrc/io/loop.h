/* A worker's loop on libuv: readiness of fds, timers to the nanosecond, and hooks around the time it waits. */
#ifndef SV_IO_LOOP_H
#define SV_IO_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct sv_loop {
    uv_loop_t uv;
    uv_prepare_t prepare;
    uv_idle_t look; /* active: the next poll does not wait */
    uint64_t now;   /* ns, read once per turn */
    bool awake;     /* between on_wake and on_sleep */
    bool open;
    void (*on_wake)(void *ctx);  /* top of a turn: may be NULL */
    void (*on_sleep)(void *ctx); /* end of a turn, before waiting: may be NULL */
    void *ctx;
};

int sv_loop_init(struct sv_loop *loop, void *ctx, void (*on_wake)(void *), void (*on_sleep)(void *));
/* Runs until sv_loop_stop is called on the loop's own thread. */
void sv_loop_run(struct sv_loop *loop);
void sv_loop_stop(struct sv_loop *loop);
/* Runs what is still closing and frees; watches and timers must have been closed. */
void sv_loop_clear(struct sv_loop *loop);

/* Begins the turn when it has not begun. Watches and timers do it themselves; whoever is called by another user of the uv loop
 * (libwebsockets) calls it first, since libuv has no hook between waiting and the first callback. */
void sv_loop_wake(struct sv_loop *loop);

enum { SV_READABLE = 1, SV_WRITABLE = 2 };

/* Heap objects of the loop, since libuv closes handles later: close returns at once and frees when libuv is done. No callback after close. */
struct sv_watch;
struct sv_timer;

/* NULL when memory is short. The fd stays the caller's, who closes it after the watch. */
struct sv_watch *sv_watch_new(struct sv_loop *loop, int fd, void (*on_ready)(void *ctx, int events),
                              void *ctx);
/* 0 pauses it. An error on the fd is told as readable and writable. */
void sv_watch_set(struct sv_watch *watch, int events);
void sv_watch_close(struct sv_watch *watch);

struct sv_timer *sv_timer_new(struct sv_loop *loop, void (*on_time)(void *ctx), void *ctx);
/* Once, at the ns of sv_clock_now; what lies in the past fires at once; SV_NEVER stops it. */
void sv_timer_set(struct sv_timer *timer, uint64_t at);
void sv_timer_close(struct sv_timer *timer);

#endif
