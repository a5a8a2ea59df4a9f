/* The hub: who may come in, which sessions exist, whose an address is.
 *
 *     client   an entry: key, address, rules. Found by key and by id.
 *     seat     a session as the hub sees it: survives its connection for the resume lifetime. Found by session id.
 *     route    inner address → live connection, read by every worker without a lock.
 *
 * Everything here changes under hub->lock; the packet path reads routes, policies and limiters only.
 */
#ifndef SV_ENGINE_HUB_H
#define SV_ENGINE_HUB_H

#include <pthread.h>

#include "engine/admission.h"
#include "engine/core.h"

/* Sessions without a link that one client may leave behind, besides those it may have live. */
enum { SV_HUB_SPARE_SEATS = 4 };

struct sv_client {
    struct sv_rcu_head rcu;
    char id[SV_CLIENT_ID_SIZE];
    uint8_t id_hash[32]; /* its place in clients_by_id */
    uint8_t key[32];
    uint32_t address_index; /* its own address */
    bool disabled, removed;
    int64_t expires_at;               /* seconds since 1970; 0: never */
    uint64_t entry_rate, entry_burst; /* as the entry had them */
    uint32_t max_sessions;
    size_t live, conns;                 /* live sessions; connections that point here */
    struct sv_policy *_Atomic policy;   /* never NULL */
    struct sv_limiter *_Atomic limiter; /* NULL: unlimited */
    struct sv_seat *seats;              /* newest first */
    struct sv_deadline expiry;          /* in hub->expiries, wall clock ns */
    uint8_t wg_key[32];                 /* all zeros: none */
    struct sv_wg_member *wg;            /* while it may come in by WireGuard; NULL */
    atomic_bool on_wg;                  /* its last authentic packet came by WireGuard */
    struct sv_traffic *ended;           /* sums over its connections that are closed; NULL before the first */
    struct sv_client *untold_prev, *untold_next;
    bool untold;      /* it is in hub->untold */
    uint64_t wg_told; /* hub_totals.c: activity of `wg` when it was last told */
};

struct sv_seat {
    uint8_t session_id[16];
    uint8_t instance[16];
    struct sv_client *client;
    struct sv_conn *conn; /* NULL while it waits to be resumed */
    uint32_t address_index;
    bool holds_address;          /* the index is taken in the pool for this seat, not the client's own */
    uint64_t started_wall;       /* ns since 1970 */
    struct sv_keep keep;         /* of the connection that it had, while it waits */
    struct sv_deadline gone;     /* in hub->deadlines while it waits */
    struct sv_seat *prev, *next; /* of the client */
    char software[SV_SOFTWARE_MAX + 1]; /* printable */
};

struct sv_hub {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* wakes the control thread */
    pthread_t control;
    bool control_started, control_stopping;
    struct sv_engine *engine;
    struct sv_map clients_by_key, clients_by_id, seats_by_id;
    struct sv_client *untold; /* hub_totals.c: those that may have counted something, but by WireGuard */
    struct sv_map routes;     /* inner address → struct sv_conn *; read without the lock */
    struct sv_pool *pool;
    struct sv_heap deadlines, expiries;
    struct sv_admission admission;
    struct sv_settings settings; /* what is the same for all clients */
    struct sv_prefix *proxies;
    size_t proxy_count;
    uint8_t gateway4[16], gateway6[16];
    bool has6, deny_host_access;
    uint8_t subnet4_bits, subnet6_bits;
    uint64_t default_rate, default_burst;
    uint64_t resume_lifetime; /* ns */
    sv_counter sessions_total, handshakes, bad_handshakes;
    atomic_size_t active;
};

static inline struct sv_hub *sv_hub_of(const struct sv_conn *conn)
{
    return conn->worker->engine->hub;
}

int sv_hub_new(struct sv_hub **hub, struct sv_engine *engine, const sv_server_config *config);
int sv_hub_start_control(struct sv_hub *hub);
void sv_hub_stop_control(struct sv_hub *hub);
/* After all workers have ended. */
void sv_hub_free(struct sv_hub *hub);

/* All below: under the lock. */

struct sv_client *sv_hub_find_client(struct sv_hub *hub, const char *id);

/* ---- hub_seat.c ---- */

/* The seat that the connection's hello resumes, the one that its instance had; NULL: none. */
struct sv_seat *sv_seat_resumable(struct sv_hub *hub, const struct sv_conn *conn,
                                  const struct sv_client *client);
struct sv_seat *sv_seat_same_instance(const struct sv_client *client, const struct sv_conn *conn);
/* Has a live session of the client this address? */
bool sv_seat_index_in_use(const struct sv_client *client, uint32_t index);
/* Takes the seat away and its address back; the route as well, if it still leads to this seat's connection. */
void sv_seat_free(struct sv_hub *hub, struct sv_seat *seat);
/* Tells the worker to end the seat's connection; a seat without one is freed. */
void sv_seat_end(struct sv_hub *hub, struct sv_seat *seat, unsigned code);

/* ---- hub_totals.c ---- */

/* What a connection of the client counted, when it is closed. */
void sv_hub_keep_traffic(struct sv_hub *hub, struct sv_client *client, const struct sv_traffic *traffic);

/* It has a session, or had one end: the next listing of counters has it. */
void sv_hub_list_untold(struct sv_hub *hub, struct sv_client *client);
void sv_hub_unlist_untold(struct sv_hub *hub, struct sv_client *client);

/* ---- hub_address.c ---- */

/* The address of the entry, the client's own or taken for it; client NULL: it is new. A further session that has it on loan ends. SV_E_EXISTS, SV_E_FULL,
 * SV_E_INVALID. */
int sv_hub_claim_address(struct sv_hub *hub, const struct sv_client *client, const sv_client_entry *entry,
                         uint32_t *index);
/* As it was before the claim. */
void sv_hub_unclaim_address(struct sv_hub *hub, const struct sv_client *client, const sv_client_entry *entry,
                            uint32_t index);
/* It is held from now on, if it was free. */
void sv_hub_keep_address(struct sv_hub *hub, const char *address);

/* ---- hub_wg.c ---- */

/* The entry's WireGuard key may be its: SV_E_EXISTS. `client` is NULL for a new one. */
int sv_hub_wg_check(struct sv_hub *hub, const struct sv_client *client, const sv_client_entry *entry);
/* Whether the client may come in by WireGuard has changed, or with which key, from which address. SV_E_NOMEM. */
int sv_hub_wg_sync(struct sv_hub *hub, struct sv_client *client, const uint8_t wg_key[32]);
/* It may not any more. */
void sv_hub_wg_remove(struct sv_hub *hub, struct sv_client *client, unsigned code);
/* Its keys are forgotten; it may come back. false: it was not connected, or has another session id. */
bool sv_hub_wg_disconnect(struct sv_hub *hub, struct sv_client *client, const uint8_t *session_id,
                          unsigned code);
/* Under the device's lock too, of a client with a peer; false: it is not connected by WireGuard. */
bool sv_hub_wg_session(const struct sv_hub *hub, const struct sv_client *client, sv_session_info *info);

/* The client, when its connections are gone as well. */
void sv_client_free_if_unused(struct sv_hub *hub, struct sv_client *client);
/* May the client have a session from this source now? 0 or a Disconnect code. */
unsigned sv_client_refusal(const struct sv_client *client, const uint8_t source[16], int64_t wall_secs);

#endif
