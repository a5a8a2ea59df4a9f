#include "engine/dial_plan.h"

#include "base/clock.h"

enum {
    WEBSOCKET_AFTER_MS = 300,
    QUIC_PATIENCE_MS = 3000, /* where WebSocket is there as well */
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 30000,
    LIVE_PROVEN_S = 5,   /* a session that ends sooner is a failure: the next pause is a longer one */
    FAILED_PAUSE_S = 10, /* where nothing came back: a few packets each time */
    BAD_PAUSE_S = 60,    /* where the session went over to it and had to leave */
    QUIC_PAUSE_MAX_S = 3600,
    QUIC_PROVEN_S = 600, /* carried for so long, QUIC's next pause is a first one again */
    LEAVE_AGAIN_S = 60,
};

void sv_dial_plan_init(struct sv_dial_plan *plan, bool quic, bool websocket, uint64_t timeout,
                       bool websocket_first)
{
    *plan = (struct sv_dial_plan){
        .may = {[SV_DIAL_QUIC] = quic, [SV_DIAL_WEBSOCKET] = websocket},
        .timeout = timeout,
        .carrier = SV_DIAL_NONE,
        .websocket_first = websocket_first,
        .again_at = SV_NEVER,
    };
    for (int way = 0; way < SV_DIAL_WAYS; way++) {
        plan->tries[way].start_at = plan->tries[way].give_up_at = SV_NEVER;
    }
}

static bool both(const struct sv_dial_plan *plan)
{
    return plan->may[SV_DIAL_QUIC] && plan->may[SV_DIAL_WEBSOCKET];
}

static bool in_race(const struct sv_dial_try *try)
{
    return try->running || try->start_at != SV_NEVER;
}

bool sv_dial_plan_busy(const struct sv_dial_plan *plan)
{
    return in_race(&plan->tries[SV_DIAL_QUIC]) || in_race(&plan->tries[SV_DIAL_WEBSOCKET]);
}

static void schedule(struct sv_dial_plan *plan, enum sv_dial_way way, uint64_t at)
{
    if (plan->may[way] && !in_race(&plan->tries[way])) {
        plan->tries[way].start_at = at;
    }
}

/* ---- what is wanted ---- */

static bool wants_link(const struct sv_dial_plan *plan)
{
    return plan->carrier == SV_DIAL_NONE || plan->suspect || plan->moving;
}

static void race(struct sv_dial_plan *plan, uint64_t now)
{
    bool quic = plan->may[SV_DIAL_QUIC] && (!both(plan) || now >= plan->quic_from);
    bool waits = quic && !plan->websocket_first && plan->carrier != SV_DIAL_QUIC;

    plan->again_at = SV_NEVER;
    if (quic) {
        schedule(plan, SV_DIAL_QUIC, now);
    }
    schedule(plan, SV_DIAL_WEBSOCKET, waits ? now + WEBSOCKET_AFTER_MS * SV_NS_PER_MS : now);
}

/* An attempt beside a link that was well was in no hurry; now one is needed, and the other way joins in. */
void sv_dial_plan_connect(struct sv_dial_plan *plan, uint64_t now)
{
    plan->suspect = plan->carrier != SV_DIAL_NONE;
    if (!plan->stopped) {
        race(plan, now);
    }
}

void sv_dial_plan_move(struct sv_dial_plan *plan, uint64_t now)
{
    plan->moving = plan->carrier != SV_DIAL_NONE;
    if (!plan->stopped) {
        race(plan, now);
    }
}

void sv_dial_plan_calm(struct sv_dial_plan *plan)
{
    plan->suspect = false;
}

static uint64_t within(uint64_t value, uint64_t least, uint64_t most)
{
    return value < least ? least : value < most ? value : most;
}

static void shun_quic(struct sv_dial_plan *plan, uint64_t now, uint64_t least_secs)
{
    plan->quic_pause = within(plan->quic_pause * 2, least_secs * SV_NS_PER_S, QUIC_PAUSE_MAX_S * SV_NS_PER_S);
    plan->quic_from = now + plan->quic_pause;
    plan->websocket_first = true;
}

/* QUIC does not carry any more. */
static void leave_quic(struct sv_dial_plan *plan, uint64_t now)
{
    if (plan->carrier == SV_DIAL_QUIC && now - plan->quic_since >= QUIC_PROVEN_S * SV_NS_PER_S) {
        plan->quic_pause = 0;
    }
}

bool sv_dial_plan_degraded(struct sv_dial_plan *plan, uint64_t now)
{
    if (plan->stopped || plan->carrier != SV_DIAL_QUIC || !both(plan) || sv_dial_plan_busy(plan) ||
        now < plan->leave_from) {
        return false;
    }
    leave_quic(plan, now);
    shun_quic(plan, now, BAD_PAUSE_S);
    schedule(plan, SV_DIAL_WEBSOCKET, now);
    return true;
}

void sv_dial_plan_anew(struct sv_dial_plan *plan, enum sv_dial_way way, uint64_t now)
{
    struct sv_dial_try *try = &plan->tries[way];

    if (try->running && try->give_up_at != SV_NEVER) {
        try->stale = true;
        try->give_up_at = now;
    }
}

void sv_dial_plan_network(struct sv_dial_plan *plan, uint64_t now)
{
    plan->backoff_ms = 0;
    plan->quic_pause = plan->quic_from = plan->leave_from = 0;
    plan->websocket_first = false;
    if (plan->again_at != SV_NEVER) {
        plan->again_at = now;
    }
    for (int way = 0; way < SV_DIAL_WAYS; way++) {
        sv_dial_plan_anew(plan, (enum sv_dial_way)way, now);
    }
}

void sv_dial_plan_stop(struct sv_dial_plan *plan)
{
    plan->stopped = true;
    plan->again_at = SV_NEVER;
    for (int way = 0; way < SV_DIAL_WAYS; way++) {
        plan->tries[way].start_at = SV_NEVER;
    }
}

/* ---- what is due ---- */

static enum sv_dial_act due(struct sv_dial_plan *plan, enum sv_dial_way way, uint64_t now)
{
    struct sv_dial_try *try = &plan->tries[way];
    uint64_t patience = way == SV_DIAL_QUIC && both(plan) ? QUIC_PATIENCE_MS * SV_NS_PER_MS : plan->timeout;

    if (try->running && now >= try->give_up_at) {
        try->give_up_at = SV_NEVER;
        return SV_DIAL_ABANDON;
    }
    if (!try->running && now >= try->start_at) {
        try->running = true;
        try->unwanted = try->stale = false;
        try->start_at = SV_NEVER;
        try->give_up_at = now + patience;
        return SV_DIAL_START;
    }
    return SV_DIAL_NOTHING;
}

/* Beside WebSocket, which carries, QUIC is tried as soon as its pause is over; with the next race, if one is to come. */
static bool wants_quic(const struct sv_dial_plan *plan)
{
    return plan->carrier == SV_DIAL_WEBSOCKET && both(plan) && !sv_dial_plan_busy(plan) && !plan->stopped &&
           plan->again_at == SV_NEVER;
}

enum sv_dial_act sv_dial_plan_next(struct sv_dial_plan *plan, uint64_t now, enum sv_dial_way *way)
{
    if (now >= plan->again_at) {
        plan->again_at = SV_NEVER;
        if (wants_link(plan)) {
            race(plan, now);
        }
    }
    if (wants_quic(plan) && now >= plan->quic_from) {
        schedule(plan, SV_DIAL_QUIC, now);
    }
    for (int i = 0; i < SV_DIAL_WAYS; i++) {
        enum sv_dial_act act = due(plan, (enum sv_dial_way)i, now);

        if (act != SV_DIAL_NOTHING) {
            *way = (enum sv_dial_way)i;
            return act;
        }
    }
    return SV_DIAL_NOTHING;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t sv_dial_plan_deadline(const struct sv_dial_plan *plan)
{
    uint64_t at = sooner(plan->again_at, wants_quic(plan) ? plan->quic_from : SV_NEVER);

    for (int way = 0; way < SV_DIAL_WAYS; way++) {
        const struct sv_dial_try *try = &plan->tries[way];

        at = sooner(at, try->running ? try->give_up_at : try->start_at);
    }
    return at;
}

/* ---- how it went ---- */

/* 100 ms, doubled up to 30 s, each time somewhere between the half and the whole. */
static void pause_before_next(struct sv_dial_plan *plan, uint64_t now, uint32_t random)
{
    plan->backoff_ms = plan->backoff_ms ? plan->backoff_ms * 2 : BACKOFF_FIRST_MS;
    if (plan->backoff_ms > BACKOFF_MAX_MS) {
        plan->backoff_ms = BACKOFF_MAX_MS;
    }
    plan->again_at = now + (plan->backoff_ms / 2 + random % (plan->backoff_ms / 2 + 1)) * SV_NS_PER_MS;
}

/* Nothing works: then QUIC is no worse than WebSocket. */
static void nothing_works(struct sv_dial_plan *plan, uint64_t now, uint32_t random)
{
    plan->quic_from = plan->quic_pause = 0;
    pause_before_next(plan, now, random);
}

bool sv_dial_plan_failed(struct sv_dial_plan *plan, enum sv_dial_way way, uint64_t now, uint32_t random)
{
    struct sv_dial_try *other = &plan->tries[!way];

    plan->tries[way].running = false;
    plan->tries[way].give_up_at = SV_NEVER;
    if (plan->tries[way].stale && !plan->tries[way].unwanted && !plan->stopped) {
        plan->tries[way].start_at = now;
        return false;
    }
    if (way == SV_DIAL_QUIC && both(plan) && plan->carrier != SV_DIAL_QUIC) {
        shun_quic(plan, now, FAILED_PAUSE_S);
    }
    if (way == SV_DIAL_WEBSOCKET && plan->carrier == SV_DIAL_QUIC && !plan->tries[way].unwanted) {
        plan->leave_from = now + LEAVE_AGAIN_S * SV_NS_PER_S;
    }
    if (other->start_at != SV_NEVER && other->start_at > now) {
        other->start_at = now;
    }
    if (plan->stopped || in_race(other) || !wants_link(plan)) {
        return false;
    }
    nothing_works(plan, now, random);
    return true;
}

static void forgive(struct sv_dial_plan *plan, uint64_t now)
{
    if (now - plan->live_since >= LIVE_PROVEN_S * SV_NS_PER_S) {
        plan->backoff_ms = 0;
    }
}

/* WebSocket that was first does not end QUIC's attempt: QUIC is preferred if it completes within its time. */
void sv_dial_plan_won(struct sv_dial_plan *plan, enum sv_dial_way way, uint64_t now)
{
    struct sv_dial_try *other = &plan->tries[!way];

    plan->tries[way].running = false;
    plan->tries[way].give_up_at = SV_NEVER;
    if (plan->carrier == SV_DIAL_NONE) {
        plan->live_since = now;
    }
    forgive(plan, now);
    plan->carrier = way;
    plan->suspect = plan->moving = false;
    plan->again_at = SV_NEVER;
    other->start_at = SV_NEVER;
    if (way == SV_DIAL_QUIC) {
        plan->quic_since = now;
        plan->quic_from = 0;
        plan->websocket_first = false;
        if (other->running) {
            other->unwanted = true;
            other->give_up_at = now;
        }
    }
}

bool sv_dial_plan_lost(struct sv_dial_plan *plan, uint64_t now, uint32_t random)
{
    forgive(plan, now);
    leave_quic(plan, now);
    plan->carrier = SV_DIAL_NONE;
    plan->suspect = plan->moving = false;
    if (plan->stopped || plan->again_at != SV_NEVER) {
        return false;
    }
    if (sv_dial_plan_busy(plan)) {
        race(plan, now); /* an attempt beside the link is now one of a race */
        return false;
    }
    pause_before_next(plan, now, random);
    return true;
}
