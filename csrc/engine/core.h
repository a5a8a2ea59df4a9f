/* The engine's own picture: one core shared by all workers, a worker per thread, connections on workers, clients and seats in the hub.
 *
 *     sv_engine ─┬─ workers[] ── conns (a link with its session), TUN queue, rings, deadlines
 *                ├─ wg: peers by key, keypairs by index, allowed IPs                                   (WireGuard)
 *                ├─ hub: clients by key and id, seats by session id, live connections by address      (server)
 *                └─ dialer: the one connection of a client, its races, retries and resumes           (client)
 *
 * Changes to the hub are serialised by one lock that the packet path never takes. What readers may still see is freed after a grace period.
 */
#ifndef SV_ENGINE_CORE_H
#define SV_ENGINE_CORE_H

#include <pthread.h>
#include <smartvpn/engine.h>
#include <stdatomic.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/map.h"
#include "base/rcu.h"
#include "base/ring.h"
#include "engine/keep.h"
#include "io/loop.h"
#include "io/tun.h"
#include "packet/gro.h"
#include "policy/classify.h"
#include "policy/policy.h"
#include "policy/pool.h"
#include "policy/queue.h"
#include "proto/session.h"
#include "transport/quic.h"
#include "transport/websocket.h"

enum {
    SV_MAX_WORKERS = 32,
    SV_DEFAULT_MTU = 1420,
    SV_EVENT_CAPACITY = 8192,
    SV_TUN_BATCH = 64,       /* packets read from a TUN queue before other fds have their turn */
    SV_HALF_OPEN_MAX = 1024, /* links per worker that are not live yet */
    SV_TX_FILL = 16 * 1024,  /* bytes of frames sent without waiting for the turn's end: one TLS record */
};

struct sv_engine;
struct sv_worker;
struct sv_hub;
struct sv_dialer;
struct sv_client;
struct sv_seat;
struct sv_wg;
struct sv_wg_worker;
struct sv_wg_control;
struct sv_cut;

/* Written by one thread, read by any. */
typedef _Atomic uint64_t sv_counter;

static inline void sv_count(sv_counter *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* Written by any thread. */
static inline void sv_count_shared(sv_counter *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline void sv_set(sv_counter *counter, uint64_t value)
{
    atomic_store_explicit(counter, value, memory_order_relaxed);
}

static inline uint64_t sv_counted(const sv_counter *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Of one connection, or of what a worker could give to none. */
struct sv_traffic {
    sv_counter bytes_in, bytes_out; /* IP bytes from and to the peer */
    sv_counter packets_in, packets_out;
    sv_counter drops[SV_VERDICT_COUNT]; /* packets, by cause */
    sv_counter bytes_dropped;
    sv_counter keepalives_in, keepalives_out;
    sv_counter too_big_sent;
};

static inline void sv_count_drop(struct sv_traffic *traffic, enum sv_verdict verdict, size_t bytes)
{
    sv_count(&traffic->drops[verdict], 1);
    sv_count(&traffic->bytes_dropped, bytes);
}

/* What other threads may ask of the session, refreshed when its connection is flushed. */
struct sv_published {
    sv_counter last_received, last_keepalive; /* ns of the monotonic clock */
    sv_counter srtt_ns, jitter_ns, min_rtt_ns, max_rtt_ns, loss_ppm;
    sv_counter timeouts, health, interval_secs, measured;
};

/* A link with its session: lives on one worker. Other workers read only `worker` and, under the hub's lock, `seat`. */
struct sv_conn {
    struct sv_rcu_head rcu; /* first */
    struct sv_worker *worker;
    struct sv_link *link; /* NULL once the transport has closed it */
    struct sv_session session;
    struct sv_frame_reader reader;
    struct sv_buf *tx;         /* sealed frames that wait for the turn's end, or NULL */
    struct sv_cut *cut;        /* what goes as datagrams; NULL: the link has none */
    struct sv_queue *queue;    /* packets that wait for the link or the limiter; NULL until first needed */
    struct sv_keep keep;       /* what inner connections sent while nothing came back */
    uint64_t asked_for;        /* the link's unacked_since that the peer was asked for; 0: none */
    struct sv_queue *up_queue; /* packets from the peer that wait for the limiter; NULL until first needed */
    struct sv_deadline deadline; /* in the worker's heap: the soonest of the session's and the limiter's */
    struct sv_conn *next_dirty;  /* in the worker's list of conns with something to flush */
    struct sv_conn *next_kicked; /* in the worker's list of those to be disconnected */
    struct sv_conn *prev, *next; /* in the worker's list of all */
    uint8_t kick_code;
    bool dirty, closing;
    bool half_open;               /* hub: not live yet, counted in the worker's half_open */
    bool bad_handshake;           /* counted already */
    bool super_tcp, super_udp;    /* super-packets the peer can take */
    uint16_t mtu;                 /* of the tunnel */
    uint8_t session_id[16];       /* of this handshake */
    uint64_t drain_at;            /* ns: when the limiter lets the next packet go, either way; SV_NEVER */
    int64_t share;                /* bytes of queued packets it may still send before others in this turn */
    uint8_t addr4[16], addr6[16]; /* the client's inner addresses, the zero address when absent */
    uint8_t gateway4[16], gateway6[16]; /* who answers into the TUN for packets that are too big */
    uint8_t remote[16];                 /* copies of the link's, for other threads */
    uint16_t remote_port;
    uint8_t transport;
    struct sv_client *client; /* hub: whose it is, once admitted to message 2; NULL in a client */
    struct sv_seat *seat;     /* hub: once live */
    uint32_t address_index;   /* hub: proposed in message 2 */
    bool resumed;
    uint8_t ended_code;       /* the Disconnect code that ended it */
    bool ended_by_disconnect; /* no resume after it */
    bool ended_by_us;         /* the link was closed by this end, once it is closed */
    struct sv_traffic traffic;
    struct sv_published published;
    uint64_t published_at, published_beats;
};

struct sv_worker {
    struct sv_engine *engine;
    size_t index;
    pthread_t thread;
    bool started;
    struct sv_loop loop;
    struct sv_buf_pool pool;
    struct sv_buf *rx; /* the TUN is read into this one; NULL only when memory is short */
    struct sv_heap deadlines;
    struct sv_timer *timer;
    uint64_t timer_at;
    struct sv_watch *tun_watch, *packet_watch, *poke_watch;
    int tun_queue;
    struct sv_ring packets;           /* chains of sv_buf from other workers' TUN queues */
    struct sv_ring pokes;             /* look at the next two; what is pushed means nothing */
    _Atomic(struct sv_conn *) kicked; /* to be disconnected, by next_kicked */
    atomic_bool stop_wanted;
    struct sv_buf *strays[SV_MAX_WORKERS]; /* for other workers, pushed at the turn's end */
    struct sv_buf **strays_last[SV_MAX_WORKERS];
    struct sv_gro *gro;
    struct sv_classifier *classifier;
    struct sv_ws_server *ws;
    struct sv_quic_server *quic;
    struct sv_buf *gathered; /* opened datagrams that wait in gro for the turn's end, or NULL */
    struct sv_wg_worker *wg; /* NULL: no WireGuard here */
    struct sv_conn *conns;
    struct sv_conn *dirty, **dirty_last; /* in the order in which they came */
    pthread_mutex_t conns_lock;          /* changes of the list conns, against readers of statistics */
    atomic_size_t half_open;
    atomic_size_t live_conns;
    bool stopping;
    uint64_t stop_at;
    struct sv_settings settings; /* scratch for message 2, too large for the stack */
    struct sv_traffic traffic;   /* drops without a connection, and sums of closed ones */
};

struct sv_engine {
    bool server;
    size_t worker_count;
    struct sv_worker *workers;
    struct sv_tun tun;
    struct sv_rcu rcu;
    struct sv_ring events;
    atomic_uint_fast64_t events_lost;
    uint8_t private_key[32], public_key[32];
    uint64_t opened_at;
    uint8_t secret[16]; /* keys hashes */
    struct sv_hub *hub;
    struct sv_dialer *dialer;
    struct sv_wg *wg;
    struct sv_wg_control *wg_control;
};

/* ---- events.c ---- */
int sv_events_init(struct sv_engine *engine);
void sv_events_clear(struct sv_engine *engine);
/* Copies *event into the ring; a full ring counts it as lost. Any thread. */
void sv_event_put(struct sv_engine *engine, const sv_event *event);

/* ---- worker.c ---- */
int sv_worker_open(struct sv_worker *worker, struct sv_engine *engine, size_t index);
int sv_worker_start(struct sv_worker *worker);
/* Any thread; none can fail. */
void sv_worker_stop(struct sv_worker *worker);
/* It looks at what was asked of it. */
void sv_worker_poke(struct sv_worker *worker);
/* Disconnects with the code. Under the hub's lock, with a connection that its seat still had: it outlives the worker's turn. */
void sv_worker_kick(struct sv_conn *conn, uint8_t code);
/* After the thread has ended. */
void sv_worker_close(struct sv_worker *worker);
void sv_worker_join(struct sv_worker *worker);
void sv_worker_mark_dirty(struct sv_conn *conn);
void sv_worker_unmark_dirty(struct sv_conn *conn);
/* Everything that was collected in the turn goes out. Connections with queued packets take turns by their shares; what exceeds the turn's bytes stays
 * for the next one, so that nobody waits long. */
void sv_worker_flush(struct sv_worker *worker);
/* Makes sure that the worker looks at the connection at `at` (ns) or before. */
void sv_worker_wake_at(struct sv_conn *conn, uint64_t at);

/* ---- conn.c ---- */
/* A connection on the link; its session is made by the caller afterwards. NULL when memory is short. */
struct sv_conn *sv_conn_new(struct sv_worker *worker, struct sv_link *link);
/* Sends what waits: the session's frames, then queued packets as its share of the turn allows; bytes of these. */
size_t sv_conn_flush(struct sv_conn *conn);
/* The limiter lets the next packet go at `at` (SV_NEVER: none waits). */
void sv_conn_drain_at(struct sv_conn *conn, uint64_t at);
/* Ends it: with a Disconnect (which is flushed), or silently. */
void sv_conn_disconnect(struct sv_conn *conn, unsigned code);
void sv_conn_abort(struct sv_conn *conn);
/* Ends it after the peer's Disconnect. */
void sv_conn_end(struct sv_conn *conn);
void sv_conn_on_deadline(struct sv_conn *conn);
void sv_conn_publish(struct sv_conn *conn);
/* For connections; and for a listener, whose links become connections when they open. */
extern const struct sv_link_sink sv_conn_sink, sv_accept_sink;

/* ---- outbound.c ---- */
/* The packet on the way to its connection, on whatever worker that lives; *slot as in sv_outbound_packet. */
void sv_outbound_route(struct sv_worker *worker, struct sv_buf **slot, const struct sv_ip *ip);
/* A buffer that may be queued: *slot itself (then *slot is NULL), or a small copy. NULL when memory is short. */
struct sv_buf *sv_outbound_keep(struct sv_worker *worker, struct sv_buf **slot);
void sv_outbound_tun_ready(struct sv_worker *worker);
/* A packet in buf (kind, segment_size set) for the peer of conn, from the TUN or from another client; *ip is its parse. Takes the packet out of
 * *slot when it keeps the buffer (then *slot is NULL or another buffer). */
void sv_outbound_packet(struct sv_conn *conn, struct sv_buf **slot, const struct sv_ip *ip);
/* Makes sure that n bytes fit behind conn->tx, sending what is there when they would not. false: no memory. */
bool sv_outbound_room(struct sv_conn *conn, size_t n);
/* One packet as a frame of the link's stream, past the queues. */
void sv_outbound_frame(struct sv_conn *conn, const uint8_t *packet, size_t len);
/* Sends the sealed bytes that wait. */
void sv_outbound_send(struct sv_conn *conn);
/* Seals as many queued packets as the link, the limiter and the connection's share of the turn allow; bytes. What the share alone kept back makes
 * the connection dirty again. */
size_t sv_outbound_drain(struct sv_conn *conn);
void sv_outbound_strays(struct sv_worker *worker);
void sv_outbound_push_strays(struct sv_worker *worker);

/* ---- cut.c: packets as datagrams, super-packets cut into segments ---- */
/* For a link that has datagrams. SV_E_NOMEM. */
int sv_cut_new(struct sv_conn *conn);
void sv_cut_free(struct sv_cut *cut);
/* Whether packets of the flow whose longest unit is that long go as datagrams, by what fits and by what the flow did lately. */
bool sv_cut_takes(struct sv_conn *conn, uint32_t flow, size_t unit);
/* The path's MTU may still prove larger: what does not fit yet goes by the stream, since a sender that is told remembers it for minutes. */
bool sv_cut_settling(const struct sv_conn *conn);
/* Datagrams cannot be sent now: the window is full, or a super-packet is in the middle of it. */
bool sv_cut_blocked(const struct sv_conn *conn);
/* Sends; when the window is full in the midst, it keeps the rest (and *slot is NULL then or another buffer). */
void sv_cut_send(struct sv_conn *conn, struct sv_buf **slot, const struct sv_ip *ip);
/* Goes on with what it kept. */
void sv_cut_resume(struct sv_conn *conn);

/* ---- inbound.c ---- */
/* One datagram from the link. */
void sv_inbound_datagram(struct sv_conn *conn, uint8_t *bytes, size_t len);
/* Writes what the turn has gathered. */
void sv_inbound_flush(struct sv_worker *worker);
/* Where merged packets go: the worker's TUN queue. */
void sv_inbound_write_tun(void *worker, const struct sv_vnet *vnet, struct iovec *iov, size_t count);
/* A packet for the kernel; it stays where it is until the turn's flush, or is a super-packet with its offload header. */
void sv_inbound_to_tun(struct sv_worker *worker, uint8_t *packet, size_t len, const struct sv_ip *ip,
                       const struct sv_vnet *super);
/* A packet that a client or peer may send: to the client it is for, or to the kernel. `super`: a super-packet's offload header, else NULL. */
void sv_inbound_forward(struct sv_worker *worker, uint8_t *packet, size_t len, uint8_t kind,
                        uint16_t segment_size, const struct sv_ip *ip, const struct sv_vnet *super);
/* Frames from the link. */
void sv_inbound_bytes(struct sv_conn *conn, uint8_t *bytes, size_t len);
void sv_inbound_drain(struct sv_conn *conn);

/* ---- stats.c ---- */
void sv_traffic_fill(sv_session_info *info, const struct sv_traffic *traffic);
void sv_quality_fill(sv_quality_info *info, const struct sv_published *published);

/* ---- hub_hello.c: who may come in; each takes the hub's lock itself ---- */
bool sv_hub_admit_source(void *worker, const uint8_t remote[16]);
/* The first frame of a connection: may its handshake be computed at all? */
bool sv_hub_admits_init(struct sv_conn *conn, const uint8_t *frame, size_t len);
void sv_hub_on_hello(struct sv_conn *conn);
/* What came ends the connection without an answer: counts and logs it. */
void sv_hub_on_fatal(struct sv_conn *conn, const char *why);

/* ---- hub_seat.c: sessions; each takes the hub's lock itself ---- */
/* false: the session was refused (a Disconnect waits). */
bool sv_hub_on_live(struct sv_conn *conn);
void sv_hub_on_closed(struct sv_conn *conn);
/* Another connection has taken its place: what it kept goes there. */
void sv_hub_pass_on(struct sv_conn *conn);
/* Frees the object after a grace period. */
void sv_hub_free_later(struct sv_engine *engine, struct sv_conn *conn);

/* ---- hub_route.c: on the packet path, without a lock ---- */
struct sv_conn *sv_hub_route(struct sv_engine *engine, const uint8_t dst[16]);
struct sv_limiter *sv_hub_limiter(const struct sv_client *client);
int sv_hub_priority(const struct sv_client *client);
/* `client` NULL: a WireGuard peer that is none, for which the rules hold that hold for all. */
enum sv_verdict sv_hub_check_destination(const struct sv_hub *hub, const struct sv_client *client,
                                         const struct sv_ip *ip);

/* ---- hub_path.c ---- */
/* The link's remote address is another one than other threads know. */
void sv_hub_note_remote(struct sv_conn *conn);
/* The peer speaks from another address: may it? */
bool sv_hub_admits_path(struct sv_conn *conn, const uint8_t remote[16], uint16_t port);

/* ---- dialer.c, dial_race.c, dial_names.c: the client's side ---- */
/* What other threads have told. */
void sv_dialer_obey(struct sv_engine *engine);
/* About once a second while something moves. */
void sv_dialer_on_beat(struct sv_conn *conn);
void sv_dialer_on_settings(struct sv_conn *conn, bool first);
void sv_dialer_on_suspect(struct sv_conn *conn);
void sv_dialer_on_disconnect(struct sv_conn *conn, unsigned code, const char *text);
void sv_dialer_on_closed(struct sv_conn *conn, int error, const char *text);
/* Quality for people, when the connection is the active one. */
void sv_dialer_publish(struct sv_conn *conn);
struct sv_conn *sv_dialer_active(struct sv_engine *engine);
/* What is kept while there is no connection. */
struct sv_keep *sv_dialer_keep(struct sv_engine *engine);

#endif
