/* Which way a client tries when: the race of QUIC and WebSocket, pauses after failures, the way back to QUIC. Time and chance are arguments; nothing is
 * opened here.
 *
 *     nothing ─connect→ race: QUIC at once, WebSocket 300 ms later ─won→ carried ─lost→ pause ─→ race …
 *     carried by WebSocket ─QUIC's pause is over→ QUIC beside it ─won→ carried by QUIC
 *     carried by QUIC ─degraded→ WebSocket beside it ─won→ carried by WebSocket, QUIC pauses
 */
#ifndef SV_ENGINE_DIAL_PLAN_H
#define SV_ENGINE_DIAL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

enum sv_dial_way { SV_DIAL_QUIC, SV_DIAL_WEBSOCKET, SV_DIAL_WAYS, SV_DIAL_NONE = SV_DIAL_WAYS };

enum sv_dial_act { SV_DIAL_NOTHING, SV_DIAL_START, SV_DIAL_ABANDON };

struct sv_dial_try {
    bool running;
    bool stale;          /* begun in another network, or knowing less: it begins anew, and has not failed */
    bool unwanted;       /* the other way has won: its end is no failure */
    uint64_t start_at;   /* SV_NEVER: not to be started */
    uint64_t give_up_at; /* while running; SV_NEVER: abandoned already */
};

struct sv_dial_plan {
    bool may[SV_DIAL_WAYS]; /* what the configuration allows */
    uint64_t timeout;       /* ns for one attempt */
    struct sv_dial_try tries[SV_DIAL_WAYS];
    enum sv_dial_way carrier; /* of the live link */
    bool suspect;             /* the live link looks dead: another one is wanted */
    bool moving;          /* the live link is of another network: another one is wanted until there is one */
    bool websocket_first; /* QUIC did not work here: WebSocket does not wait for it */
    bool stopped;
    uint64_t quic_pause, quic_from; /* ns: the last pause; when QUIC may be tried again */
    uint64_t quic_since;            /* when it won */
    uint64_t leave_from; /* not before this is a degraded QUIC left again, when WebSocket did not work */
    uint64_t again_at;   /* the next race; SV_NEVER */
    uint64_t live_since; /* ns: since when there has been a live link without a break */
    uint32_t backoff_ms;
};

/* websocket_first: WebSocket is what worked at this server the last time. */
void sv_dial_plan_init(struct sv_dial_plan *plan, bool quic, bool websocket, uint64_t timeout,
                       bool websocket_first);

/* A link is wanted: there is none, or it looks dead. A race that is under way goes on. */
void sv_dial_plan_connect(struct sv_dial_plan *plan, uint64_t now);
/* The same, because the live link belongs to another network: it is wanted whatever that link shows. */
void sv_dial_plan_move(struct sv_dial_plan *plan, uint64_t now);
/* The live link has shown that it is not dead. */
void sv_dial_plan_calm(struct sv_dial_plan *plan);
/* QUIC, which carries, has become bad: WebSocket is to take over. false: there is no other way now. */
bool sv_dial_plan_degraded(struct sv_dial_plan *plan, uint64_t now);
/* An attempt that is under way is to begin anew: its end is no failure. */
void sv_dial_plan_anew(struct sv_dial_plan *plan, enum sv_dial_way way, uint64_t now);
/* Another network: what was learned of the old one is forgotten, and nothing waits. */
void sv_dial_plan_network(struct sv_dial_plan *plan, uint64_t now);
/* No attempts any more. */
void sv_dial_plan_stop(struct sv_dial_plan *plan);

/* What is due; *way says for whom. After START the caller reports won or failed some time, after ABANDON failed. */
enum sv_dial_act sv_dial_plan_next(struct sv_dial_plan *plan, uint64_t now, enum sv_dial_way *way);
/* When to ask next again; SV_NEVER. */
uint64_t sv_dial_plan_deadline(const struct sv_dial_plan *plan);

/* An attempt's end. true: no other is left, and the next race comes after a pause. */
bool sv_dial_plan_failed(struct sv_dial_plan *plan, enum sv_dial_way way, uint64_t now, uint32_t random);
void sv_dial_plan_won(struct sv_dial_plan *plan, enum sv_dial_way way, uint64_t now);
/* The live link is gone. true: no attempt is under way, and the next race comes after a pause. */
bool sv_dial_plan_lost(struct sv_dial_plan *plan, uint64_t now, uint32_t random);
bool sv_dial_plan_busy(const struct sv_dial_plan *plan);

#endif
