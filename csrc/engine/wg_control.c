#include "engine/wg_control.h"

#include <net/if.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "io/iface.h"
#include "io/netwatch.h"

struct sv_wg_control {
    struct sv_wg *wg;
    struct sv_loop loop;
    struct sv_iface *iface;
    struct sv_netwatch *netwatch;
    uint64_t slept; /* ns, when last looked */
    struct sv_wg_socket *socket;
    struct sv_watch *stop_watch;
    int stop_fd;
    pthread_t thread;
    bool started;
};

static void say_gone(struct sv_wg_control *control, const char *what)
{
    sv_event event = {.type = SV_EVENT_GONE, .code = -1};

    strncpy(event.reason, what, sizeof event.reason - 1);
    sv_event_put(control->wg->engine, &event);
}

static void on_socket_gone(void *ctx)
{
    say_gone(ctx, "the configuration socket was removed");
}

static void on_iface(void *ctx, const struct sv_iface_state *state)
{
    struct sv_wg_control *control = ctx;
    struct sv_wg *wg = control->wg;
    int error;

    if (state->gone) {
        say_gone(control, "the interface was deleted");
        return;
    }
    atomic_store_explicit(&wg->mtu, state->mtu, memory_order_relaxed);
    sv_wg_lock(wg);
    error = sv_wg_set_up(wg, state->up);
    sv_wg_unlock(wg);
    if (error) {
        sv_log(SV_LOG_ERROR, "the interface is up, but the device is not: %s", sv_error_detail());
    }
}

/* Keys may be too old by clocks that go on in sleep, as the other side's, though not by ours: they are made anew, as Linux does it. */
static void make_keys_anew(struct sv_wg *wg, uint64_t slept_ns)
{
    sv_wg_lock(wg);
    for (struct sv_wg_member *member = wg->members; member; member = member->next) {
        bool in_use = sv_wg_peer_in_use(&member->peer);

        sv_wg_peer_slept(&member->peer, slept_ns);
        sv_wg_forget_keys(member);
        if (in_use) {
            sv_wg_speak(member);
        }
    }
    sv_wg_unlock(wg);
}

static void on_network(void *ctx, bool slept)
{
    struct sv_wg_control *control = ctx;
    sv_event event = {.type = SV_EVENT_NETWORK, .code = -1, .count = slept};

    if (slept) {
        uint64_t before = control->slept;

        control->slept = sv_clock_slept();
        sv_log(SV_LOG_INFO, "the machine has slept: keys are made anew");
        make_keys_anew(control->wg, control->slept - before);
    }
    if (control->wg->follows) {
        sv_event_put(control->wg->engine, &event);
    }
}

static void on_stop(void *ctx, int events)
{
    struct sv_wg_control *control = ctx;

    (void)events;
    sv_loop_stop(&control->loop);
}

static int watch_system(struct sv_wg_control *control, const sv_wg_config *config)
{
    const struct sv_tun *tun = &control->wg->engine->tun;

    control->slept = sv_clock_slept();
    control->wg->follows = config->follow;
    control->netwatch = sv_netwatch_new(&control->loop, if_nametoindex(tun->name), on_network, control);
    if (!control->netwatch) {
        return SV_E_SYSTEM;
    }
    control->iface = sv_iface_watch(&control->loop, tun->queues[0], on_iface, control);
    return control->iface ? 0 : SV_E_SYSTEM;
}

int sv_wg_control_new(struct sv_wg_control **out, struct sv_wg *wg, const sv_wg_config *config)
{
    struct sv_wg_control *control = calloc(1, sizeof *control);
    int error;

    *out = control;
    if (!control) {
        return SV_E_NOMEM;
    }
    control->wg = wg;
    control->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    error = control->stop_fd < 0 ? sv_fail(SV_E_SYSTEM, "cannot make an eventfd")
                                 : sv_loop_init(&control->loop, control, NULL, NULL);
    if (error) {
        return error;
    }
    control->stop_watch = sv_watch_new(&control->loop, control->stop_fd, on_stop, control);
    if (!control->stop_watch) {
        return SV_E_NOMEM;
    }
    sv_watch_set(control->stop_watch, SV_READABLE);
    if (config->serve || config->has_socket) {
        error = sv_wg_socket_open(&control->socket, &control->loop, wg->engine, wg->engine->tun.name,
                                  config->has_socket ? config->socket_fd : -1, on_socket_gone, control);
    }
    return error ? error : watch_system(control, config);
}

static void *run(void *ctx)
{
    struct sv_wg_control *control = ctx;

    sv_loop_run(&control->loop);
    return NULL;
}

int sv_wg_control_start(struct sv_wg_control *control)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&control->thread, NULL, run, control);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    control->started = error == 0;
    return error ? sv_fail(SV_E_SYSTEM, "cannot start a thread: %s", strerror(error)) : 0;
}

void sv_wg_control_free(struct sv_wg_control *control)
{
    const uint64_t one = 1;

    if (!control) {
        return;
    }
    if (control->started && write(control->stop_fd, &one, sizeof one) == sizeof one) {
        pthread_join(control->thread, NULL);
    }
    if (control->iface) {
        sv_iface_close(control->iface);
    }
    sv_netwatch_close(control->netwatch);
    if (control->socket) {
        sv_wg_socket_close(control->socket);
    }
    if (control->stop_watch) {
        sv_watch_close(control->stop_watch);
    }
    if (control->loop.open) {
        sv_loop_clear(&control->loop);
    }
    if (control->stop_fd >= 0) {
        close(control->stop_fd);
    }
    free(control);
}
