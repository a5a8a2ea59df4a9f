#include <stdlib.h>

#include "engine/core.h"

int sv_events_init(struct sv_engine *engine)
{
    int error = sv_ring_init(&engine->events, SV_EVENT_CAPACITY);

    atomic_init(&engine->events_lost, 0);
    if (!error) {
        sv_ring_sleep(
            &engine
                 ->events); /* the first event makes the fd readable, whether or not its owner looked before */
    }
    return error;
}

void sv_events_clear(struct sv_engine *engine)
{
    sv_event *event;

    if (!engine->events.cells) {
        return;
    }
    while ((event = sv_ring_pop(&engine->events))) {
        free(event);
    }
    sv_ring_clear(&engine->events);
}

void sv_event_put(struct sv_engine *engine, const sv_event *event)
{
    sv_event *copy = malloc(sizeof *copy);

    if (copy) {
        *copy = *event;
    }
    if (!copy || !sv_ring_push(&engine->events, copy)) {
        free(copy);
        atomic_fetch_add(&engine->events_lost, 1);
    }
}

int sv_engine_event_fd(const sv_engine *engine)
{
    return engine->events.fd;
}

static bool take_lost(sv_engine *engine, sv_event *event)
{
    uint64_t lost = atomic_exchange(&engine->events_lost, 0);

    if (!lost) {
        return false;
    }
    *event = (sv_event){.type = SV_EVENT_LOST, .count = lost, .code = -1};
    return true;
}

/* The reader sleeps on the fd whenever this has returned false, so the fd is armed before the last look. */
bool sv_engine_next_event(sv_engine *engine, sv_event *event)
{
    sv_event *next = sv_ring_pop(&engine->events);

    if (!next) {
        sv_ring_wake(&engine->events);
        if (take_lost(engine, event)) {
            return true;
        }
        if (sv_ring_sleep(&engine->events)) {
            return false;
        }
        next = sv_ring_pop(&engine->events);
        if (!next) {
            return false;
        }
    }
    *event = *next;
    free(next);
    return true;
}
