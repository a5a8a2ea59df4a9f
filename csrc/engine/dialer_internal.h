/* What the dialer's own files share: dialer.c (state, lifetime), dial_race.c (attempts), dial_publish.c (what other threads ask). */
#ifndef SV_ENGINE_DIALER_INTERNAL_H
#define SV_ENGINE_DIALER_INTERNAL_H

#include "engine/degrade.h"
#include "engine/dial_plan.h"
#include "engine/dialer.h"
#include "io/netwatch.h"

/* An attempt by one way. */
struct sv_dial_attempt {
    struct sv_dialer *dialer;
    struct sv_link *opening; /* a link on its way, no connection yet */
    struct sv_conn *pending; /* handshake under way */
    uint64_t started;        /* ns */
    int error;               /* how the last one ended; 0: well, or there was none */
    char why[SV_REASON_SIZE];
};

enum { SV_PATH_HUB, SV_PATH_ANY4, SV_PATH_ANY6, SV_PATHS };

/* Which way packets leave. */
struct sv_dial_path {
    uint8_t remote[16]; /* to there */
    uint8_t source[16]; /* our address */
    bool there;         /* there is a way */
};

struct sv_dialer {
    struct sv_worker *worker;
    /* The configuration, copied. */
    char *url, *quic_address; /* NULL: not by this way */
    uint8_t server_key[32], private_key[32], instance[16], cert_hash[32];
    bool has_cert_hash, cert_hash_strict;
    uint16_t mtu, keepalive_secs;
    uint64_t handshake_timeout;
    /* The worker's own. */
    struct sv_dial_plan plan;
    struct sv_dial_attempt attempts[SV_DIAL_WAYS];
    struct sv_conn *active; /* live: the TUN's packets go here */
    struct sv_keep keep;    /* while there is none: what the last one had, and what came since */
    struct sv_degrade degrade;
    struct sv_timer *timer; /* the plan's next step */
    struct sv_netwatch *netwatch;
    struct sv_dial_path paths[SV_PATHS];
    bool
        clamped; /* a WebSocket link died of silence: the next ones send small segments, in case large ones get lost */
    bool stopped, ever_connected, has_resume;
    uint64_t moved_at; /* ns: when a link of ours took another one's place */
    uint64_t began_at; /* of the race that leads to the next connection */
    int ended_code;    /* of the Disconnect that ended the last session; -1: none came */
    char ended_reason[SV_REASON_SIZE];
    uint8_t resume_id[16];
    /* What other threads ask. */
    pthread_mutex_t lock;
    sv_client_state state;
    bool has_settings;
    struct sv_client_settings settings;
    struct sv_published quality;
    enum sv_transport_kind kind; /* of the active link */
    bool remote_is6;             /* the outer path's address family */
    uint16_t path_mtu;           /* 0: not known */
};

static inline struct sv_dialer *sv_dialer_of(const struct sv_conn *conn)
{
    return conn->worker->engine->dialer;
}

/* dialer.c */
/* Notes where the hub is, and from which address it is reached now. */
void sv_dialer_note_path(struct sv_dialer *dialer, const uint8_t remote[16]);
void sv_dialer_set_state(struct sv_dialer *dialer, sv_client_state state, int code, int error,
                         const char *reason);
/* What is due by the plan is done, and the timer set for the next. */
void sv_dialer_run(struct sv_dialer *dialer);
void sv_dialer_tell_loss(struct sv_dialer *dialer, int error, const char *reason);

/* dial_race.c */
void sv_dial_start(struct sv_dialer *dialer, enum sv_dial_way way);
void sv_dial_abandon(struct sv_dial_attempt *attempt);
/* The attempt that the connection belongs to, NULL: none. */
struct sv_dial_attempt *sv_dial_attempt_of(struct sv_dialer *dialer, const struct sv_conn *conn);
/* The attempt has ended without a session. */
void sv_dial_on_failed(struct sv_dial_attempt *attempt, int error, const char *why);

/* dial_publish.c */
void sv_dial_publish_settings(struct sv_dialer *dialer, struct sv_conn *conn, bool fresh);

#endif
