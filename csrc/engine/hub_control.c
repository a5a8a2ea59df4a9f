/* The control thread: expiry, sessions that nobody resumed, and memory that no worker can see any more. */
#include <errno.h>
#include <time.h>

#include "base/error.h"
#include "engine/hub.h"

static const uint64_t RECLAIM_EVERY = 20 * SV_NS_PER_MS;

static void expire_clients(struct sv_hub *hub)
{
    uint64_t wall = sv_clock_wall();
    struct sv_deadline *due;

    while ((due = sv_heap_pop(&hub->expiries, wall))) {
        struct sv_client *client = SV_CONTAINER_OF(due, struct sv_client, expiry);

        while (client->seats) {
            sv_seat_end(hub, client->seats, SV_DISCONNECT_EXPIRED);
        }
        sv_hub_wg_remove(hub, client, SV_DISCONNECT_EXPIRED);
    }
}

static void drop_waiting_seats(struct sv_hub *hub, uint64_t now)
{
    struct sv_deadline *due;

    while ((due = sv_heap_pop(&hub->deadlines, now))) {
        sv_seat_free(hub, SV_CONTAINER_OF(due, struct sv_seat, gone));
    }
}

/* ns from now until something may be due; the wall clock may be set at any time, so expiries are looked at once a second. */
static uint64_t idle_time(struct sv_hub *hub, uint64_t now, size_t deferred)
{
    uint64_t wall = sv_clock_wall();
    uint64_t expiry = sv_heap_next(&hub->expiries), gone = sv_heap_next(&hub->deadlines);
    uint64_t wait = deferred ? RECLAIM_EVERY : SV_NEVER;

    if (gone != SV_NEVER) {
        wait = gone <= now ? 0 : gone - now < wait ? gone - now : wait;
    }
    if (expiry != SV_NEVER) {
        uint64_t until = expiry <= wall ? 0 : expiry - wall;

        until = until < SV_NS_PER_S ? until : SV_NS_PER_S;
        wait = until < wait ? until : wait;
    }
    return wait;
}

static void wait_for(struct sv_hub *hub, uint64_t now, uint64_t wait)
{
    struct timespec until;

    if (wait == SV_NEVER) {
        pthread_cond_wait(&hub->changed, &hub->lock);
        return;
    }
    until.tv_sec = (time_t)((now + wait) / SV_NS_PER_S);
    until.tv_nsec = (long)((now + wait) % SV_NS_PER_S);
    pthread_cond_timedwait(&hub->changed, &hub->lock, &until);
}

static void *run(void *ctx)
{
    struct sv_hub *hub = ctx;

    pthread_mutex_lock(&hub->lock);
    while (!hub->control_stopping) {
        uint64_t now = sv_clock_now();

        expire_clients(hub);
        drop_waiting_seats(hub, now);
        wait_for(hub, now, idle_time(hub, now, sv_rcu_reclaim(&hub->engine->rcu)));
    }
    pthread_mutex_unlock(&hub->lock);
    return NULL;
}

int sv_hub_start_control(struct sv_hub *hub)
{
    hub->control_started = pthread_create(&hub->control, NULL, run, hub) == 0;
    return hub->control_started ? 0 : sv_fail(SV_E_SYSTEM, "cannot start a thread");
}

void sv_hub_stop_control(struct sv_hub *hub)
{
    if (!hub->control_started) {
        return;
    }
    pthread_mutex_lock(&hub->lock);
    hub->control_stopping = true;
    pthread_cond_signal(&hub->changed);
    pthread_mutex_unlock(&hub->lock);
    pthread_join(hub->control, NULL);
    hub->control_started = false;
}
