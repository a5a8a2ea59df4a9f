/* What the dialer's own files share: dialer.c (state, lifetime), dial_race.c (attempts), dial_names.c (where the hub is), dial_ways.c (how it is reached),
 * dial_publish.c (what other threads ask). */
#ifndef SV_ENGINE_DIALER_INTERNAL_H
#define SV_ENGINE_DIALER_INTERNAL_H

#include "engine/degrade.h"
#include "engine/dial_plan.h"
#include "engine/dialer.h"
#include "io/lookup.h"
#include "io/netwatch.h"

enum {
    SV_DIAL_LOOKUPS = 2, /* at once: one may hang on name servers of the network before */
    SV_DIAL_KNOWN_MAX = SV_DIAL_WAYS * SV_ADDRESSES_MAX,
};

struct sv_dial_name;

struct sv_dial_lookup {
    struct sv_dial_name *name;
    struct sv_lookup *lookup; /* NULL: none under way */
    uint64_t begun;           /* ns */
};

/* A host that the hub is known by. */
struct sv_dial_name {
    struct sv_dialer *dialer;
    char host[SV_HOST_MAX];         /* "": not in use */
    bool numeric;                   /* nothing to ask */
    bool answered;                  /* since asked_at */
    bool again;                     /* asked while all lookups were under way */
    uint64_t asked_at, answered_at; /* ns; 0: never, or in another network */
    struct sv_addresses known;      /* by the newest answer; of an earlier asking until there is one */
    struct sv_address worked;       /* the last that carried a session */
    bool has_worked;
    struct sv_dial_lookup lookups[SV_DIAL_LOOKUPS];
    char why[SV_REASON_SIZE]; /* there is no answer */
};

enum sv_dial_knowledge { SV_DIAL_ASKS, SV_DIAL_KNOWS, SV_DIAL_FAILS };

/* An attempt by one way. */
struct sv_dial_attempt {
    struct sv_dialer *dialer;
    struct sv_dial_name *name;     /* may be the other way's as well */
    bool asking;                   /* where the hub is, or for ways there that do not lead into the tunnel */
    uint64_t ways_until;           /* ns: while it asks for ways; SV_NEVER */
    struct sv_addresses addresses; /* where it goes */
    struct sv_link *opening;       /* a link on its way, no connection yet */
    struct sv_conn *pending;       /* handshake under way */
    uint64_t started;              /* ns */
    int error;                     /* how the last one ended; 0: well, or there was none */
    char why[SV_REASON_SIZE];
};

enum { SV_PATH_HUB, SV_PATH_ANY4, SV_PATH_ANY6, SV_PATHS };

/* Which way packets leave. */
struct sv_dial_path {
    uint8_t remote[16]; /* to there */
    uint8_t source[16]; /* our address */
    bool there;         /* there is a way, outside of the tunnel */
    bool inside;        /* there is one, and it leads into the tunnel */
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
    struct sv_dial_name names[SV_DIAL_WAYS];
    struct sv_conn *active; /* live: the TUN's packets go here */
    struct sv_keep keep;    /* while there is none: what the last one had, and what came since */
    struct sv_degrade degrade;
    struct sv_timer *timer; /* the plan's next step */
    struct sv_netwatch *netwatch;
    unsigned tun_index;             /* our own interface, */
    uint8_t inner4[16], inner6[16]; /* and its addresses */
    struct sv_dial_path paths[SV_PATHS];
    struct sv_dial_path known[SV_DIAL_KNOWN_MAX]; /* to the names' addresses */
    size_t known_count;
    uint64_t gone_at; /* ns: when a link without a way is left, SV_NEVER: it has one */
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
    enum sv_transport_kind kind;              /* of the active link */
    bool remote_is6;                          /* the outer path's address family */
    uint16_t path_mtu;                        /* 0: not known */
    sv_hub_addresses outside;                 /* what has to stay outside of the tunnel */
    struct sv_addresses offers[SV_DIAL_WAYS]; /* for the names; count 0: none */
    atomic_bool offered;
};

static inline struct sv_dialer *sv_dialer_of(const struct sv_conn *conn)
{
    return conn->worker->engine->dialer;
}

/* dialer.c */
void sv_dialer_set_state(struct sv_dialer *dialer, sv_client_state state, int code, int error,
                         const char *reason);
/* What is due by the plan is done, and the timer set for the next. */
void sv_dialer_run(struct sv_dialer *dialer);
void sv_dialer_tell_loss(struct sv_dialer *dialer, int error, const char *reason);

/* dial_race.c */
void sv_dial_start(struct sv_dialer *dialer, enum sv_dial_way way);
void sv_dial_abandon(struct sv_dial_attempt *attempt);
/* Attempts that ask go on where they can now. When to look again: SV_NEVER. */
uint64_t sv_dial_go_on(struct sv_dialer *dialer);
/* More is known of the name: attempts that do not know it and have no link yet begin anew. */
void sv_dial_on_learned(const struct sv_dial_name *name);
/* The attempt that the connection belongs to, NULL: none. */
struct sv_dial_attempt *sv_dial_attempt_of(struct sv_dialer *dialer, const struct sv_conn *conn);
/* The attempt has ended without a session. */
void sv_dial_on_failed(struct sv_dial_attempt *attempt, int error, const char *why);

/* dial_names.c */
/* All zeros before. */
void sv_dial_name_init(struct sv_dial_name *name, struct sv_dialer *dialer, const char *host);
void sv_dial_name_clear(struct sv_dial_name *name);
/* Unless it was just asked: whoever wants an answer looks at sv_dial_name_knows until there is one. */
void sv_dial_name_ask(struct sv_dial_name *name, uint64_t now);
enum sv_dial_knowledge sv_dial_name_knows(const struct sv_dial_name *name, uint64_t now);
/* While it asks: when it will know by what it knew before; SV_NEVER. */
uint64_t sv_dial_name_deadline(const struct sv_dial_name *name);
void sv_dial_name_addresses(const struct sv_dial_name *name, struct sv_addresses *addresses);
/* A session is carried from there. */
void sv_dial_name_worked(struct sv_dial_name *name, const uint8_t ip[16]);
/* Another network: it may tell another answer. */
void sv_dial_name_outdate(struct sv_dial_name *name);

/* dial_ways.c */
void sv_dial_ways_init(struct sv_dialer *dialer);
/* Notes where the hub is, and from which address it is reached now. */
void sv_dial_ways_note(struct sv_dialer *dialer, const uint8_t remote[16]);
/* Looks at the ways to all addresses that are known now: whether one has come, or goes from another address of ours. */
bool sv_dial_ways_look(struct sv_dialer *dialer);
/* Whether the network has changed in a way that matters. */
bool sv_dial_ways_changed(struct sv_dialer *dialer);
bool sv_dial_way_inside(const struct sv_dialer *dialer, const uint8_t remote[16]);
/* Takes those out whose way leads into the tunnel; how many. */
size_t sv_dial_ways_inside(const struct sv_dialer *dialer, struct sv_addresses *addresses);
/* For other threads: what has to stay outside of the tunnel. `wanted`: some of it does not. */
void sv_dial_ways_publish(struct sv_dialer *dialer, bool wanted);

/* dial_publish.c */
void sv_dial_publish_settings(struct sv_dialer *dialer, struct sv_conn *conn, bool fresh);

#endif
