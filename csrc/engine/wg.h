/* The WireGuard device: who its peers are, what they may send, which keys are in use.
 *
 *     sv_wg ─┬─ members: a peer with its endpoint, its allowed IPs and what waits for its handshake
 *            ├─ by_key       public key → member
 *            ├─ keypairs     receiver index → keypair       (a data packet's way in)
 *            ├─ attempts     receiver index → member        (an answer's way in)
 *            └─ allowed      inner address → allowed IP     (a packet's way out, and the check on its way in)
 *
 * The tables, handshakes, endpoints and deadlines change under wg->lock, from any thread; the packet path takes no lock and reads what
 * is published: maps, trie, a peer's current keypair, its path. What it may still see is freed after a grace period.
 * One worker, the first, keeps the time of all peers.
 */
#ifndef SV_ENGINE_WG_H
#define SV_ENGINE_WG_H

#include "engine/core.h"
#include "engine/wg_load.h"
#include "io/udp.h"
#include "proto/wg_peer.h"

enum {
    SV_WG_STAGED_PACKETS = 128,            /* of one peer, while its handshake runs */
    SV_WG_STAGED_BYTES = 256 * 1024,       /* of one peer */
    SV_WG_STAGED_BYTES_ALL = 16 << 20,     /* of all peers */
    SV_WG_RECEIVES_PER_TURN = 4,           /* batches from a socket before other fds have their turn */
    SV_WG_OUT = SV_UDP_PAYLOAD_MAX + 1024, /* bytes of what one send collects */
};

struct sv_wg;
struct sv_wg_member;

/* Where a member is: replaced whole. */
struct sv_wg_path {
    struct sv_rcu_head rcu; /* first */
    struct sv_endpoint to;
};

/* One prefix that leads to a member, and that it may send from. */
struct sv_wg_allowed {
    struct sv_rcu_head rcu; /* first */
    struct sv_prefix prefix;
    struct sv_wg_member *member;
    struct sv_wg_allowed *prev, *next; /* of the member */
};

/* A packet that waits for its peer's handshake. */
struct sv_wg_staged {
    struct sv_wg_staged *next;
    uint32_t len;
    uint16_t segment_size;
    uint8_t kind;
    uint8_t packet[]; /* len bytes, and room for their padding */
};

struct sv_wg_member {
    struct sv_rcu_head rcu; /* first */
    struct sv_wg_peer peer;
    struct sv_wg *wg;
    struct sv_wg_member *prev, *next; /* in the order in which they came */
    struct sv_wg_member *heard_prev, *heard_next;
    bool heard;                      /* it had a key once, and may have counted something: in wg->heard */
    struct sv_wg_path *_Atomic path; /* NULL: not known yet */
    struct sv_wg_allowed *allowed, *allowed_last;
    struct sv_wg_staged *staged, **staged_last;
    uint32_t staged_count, staged_bytes;
    bool keepalive_wanted; /* at its deadline, whatever its timers say */
    struct sv_deadline deadline;
    atomic_uint_fast64_t bytes_in, bytes_out; /* of UDP payload, handshakes and padding included */
    struct sv_traffic traffic;                /* of IP packets, written by all workers */
    struct sv_client *client;                 /* of a hub; NULL: a peer that is none */
    bool connected;                           /* its last handshake is younger than 180 s */
    uint64_t connected_wall;                  /* ns since 1970 */

    /* Where the kernel carries the packets (wg_kernel.h). */
    bool unsaid;                    /* its last change did not reach the interface */
    uint64_t seen_at;               /* when the interface last had it */
    uint64_t kernel_in, kernel_out; /* bytes that the interface had counted then */
};

/* What the device is to others; replaced whole. */
struct sv_wg_self {
    struct sv_rcu_head rcu;   /* first */
    struct sv_arena *secrets; /* where it lives */
    struct sv_wg_identity identity;
};

/* A worker's part: its sockets, what it is about to send, what it has just looked up. */
struct sv_wg_worker {
    struct sv_udp udp;
    struct sv_watch *watch4, *watch6;
    struct sv_udp_batch *batch;
    struct sv_aead_batch *aead; /* of the super-packet that is sealed or opened now; NULL: one by one */
    struct sv_udp next;         /* sockets to take over at the next poke; under the lock */
    bool swap;                  /* `next` is one; under the lock */
    atomic_bool swap_wanted;
    struct sv_timer *timer; /* the timekeeper's */

    /* Sealed messages that go out in one send. */
    struct sv_wg_member *to;
    struct sv_wg_keypair *with;
    struct sv_endpoint endpoint;
    size_t out_len, out_segment, out_room;
    size_t out_packets, out_bytes; /* IP packets in it, and their bytes */
    bool out_ended;                /* a shorter message came last: nothing may follow */
    uint8_t *out;

    /* The keypair that the last data message was for. */
    struct sv_wg_keypair *from;
    uint32_t from_index;

    /* Packets that wait for their client's limiter. */
    struct sv_map lanes; /* by public key; this worker's alone */
    struct sv_heap lane_deadlines;
    struct sv_timer *lane_timer;
    uint64_t lane_timer_at;
};

/* A walk along all members that gives the lock back on its way. */
struct sv_wg_walk {
    struct sv_wg_member *at; /* the next one; another takes its place when it is removed */
    size_t steps;
    struct sv_wg_walk *next;
};

struct sv_wg {
    struct sv_engine *engine;
    pthread_mutex_t lock;
    struct sv_wg_self *_Atomic self; /* NULL: no private key yet */
    struct sv_map by_key, keypairs, attempts;
    struct sv_trie allowed;
    struct sv_arena *arena;   /* keypairs: the secrets of the moment */
    struct sv_arena *secrets; /* and those that stay: our identity, preshared keys */
    struct sv_wg_member *members, *members_last;
    struct sv_wg_member *heard,
        *heard_last; /* of these, those with whom keys were agreed; the connected ones first */
    struct sv_wg_walk *walks;
    struct sv_heap deadlines;
    uint64_t timer_at;   /* what the timekeeper's timer is set to, or was asked to be */
    uint64_t reclaim_at; /* ns: memory waits to be freed */
    atomic_bool timer_wanted;
    bool up;
    bool follows;             /* SV_EVENT_NETWORK and SV_EVENT_LOOKUP are wanted */
    bool kernel, kernel_lost; /* an interface of the kernel's carries the packets; it could not be read */
    uint64_t kernel_at;       /* ns: when it is read next */
    uint16_t port;            /* wanted, or in use; 0: any */
    uint32_t mark;
    atomic_uint_fast32_t mtu;
    atomic_uint_fast64_t staged_bytes;
    struct sv_wg_cookie_jar jar;
    struct sv_wg_load load;
    struct sv_traffic gone;                              /* of members that were removed */
    sv_counter handshakes, bad_handshakes, cookies_sent; /* under the lock */
    atomic_uint_fast64_t strangers;                      /* datagrams that were nothing of ours */
};

/* ---- wg_device.c: the tables and the sockets ---- */

int sv_wg_new(struct sv_wg **wg, struct sv_engine *engine);
/* After all workers have been closed. free(NULL) is fine. */
void sv_wg_free(struct sv_wg *wg);

int sv_wg_worker_open(struct sv_worker *worker);
void sv_wg_worker_close(struct sv_worker *worker);
/* What other threads asked for: new sockets, another deadline. */
void sv_wg_obey(struct sv_worker *worker);

void sv_wg_lock(struct sv_wg *wg);
/* The end of every change: the timekeeper learns of a sooner deadline. */
void sv_wg_unlock(struct sv_wg *wg);

/* All below, but for those on the packet path: under the lock. */

/* Freed when no worker can see it any more. */
void sv_wg_free_later(struct sv_wg *wg, struct sv_rcu_head *head, void (*free_fn)(struct sv_rcu_head *));

/* All zeros: there is no identity any more. A peer with the same key goes. */
int sv_wg_set_private_key(struct sv_wg *wg, const uint8_t private_key[SV_KEY]);
/* Opens new sockets before the old ones are given up. SV_E_IN_USE and others change nothing. */
int sv_wg_set_port(struct sv_wg *wg, uint16_t port);
int sv_wg_set_mark(struct sv_wg *wg, uint32_t mark);
/* The interface was brought up or down: down, nothing is sent or answered, and keys are forgotten. */
int sv_wg_set_up(struct sv_wg *wg, bool up);

struct sv_wg_member *sv_wg_find(struct sv_wg *wg, const uint8_t public_key[SV_KEY]);
struct sv_wg_member *sv_wg_add(struct sv_wg *wg, const uint8_t public_key[SV_KEY]);
void sv_wg_remove(struct sv_wg *wg, struct sv_wg_member *member);
/* All zeros: none. SV_E_NOMEM. */
int sv_wg_set_psk(struct sv_wg_member *member, const uint8_t psk[SV_KEY]);
int sv_wg_set_endpoint(struct sv_wg_member *member, const struct sv_endpoint *to);
/* A keepalive as soon as may be, or the handshake that it needs. */
void sv_wg_speak(struct sv_wg_member *member);
void sv_wg_set_persistent(struct sv_wg_member *member, uint16_t secs);
/* ---- wg_allowed.c ---- */

/* Takes the prefix away from whoever had it. */
int sv_wg_allow(struct sv_wg_member *member, const struct sv_prefix *prefix);
void sv_wg_disallow(struct sv_wg_member *member, const struct sv_prefix *prefix);
void sv_wg_disallow_all(struct sv_wg_member *member);

/* ---- wg_device.c ---- */

/* "1.2.3.4:5", "[::1]:5", "[fe80::1%eth0]:5": numeric, since nobody looks names up here. SV_E_INVALID. */
int sv_wg_parse_endpoint(struct sv_endpoint *endpoint, const char *text);
/* Its handshakes, keys and waiting packets are forgotten, as if it had never been spoken to. */
void sv_wg_forget_keys(struct sv_wg_member *member);

/* The worker's new sockets, when some wait: it may have something to send before it comes to look for them. */
void sv_wg_adopt_sockets(struct sv_worker *worker);

/* Takes retired keypairs out of the table; freed later. */
void sv_wg_reap(struct sv_wg_member *member);
/* An index that nothing has, and what it leads to from now on. */
uint32_t sv_wg_new_index(struct sv_wg *wg);
int sv_wg_install(struct sv_wg_member *member, struct sv_wg_keypair *keypair);
/* Looks at the peer's deadline anew. */
void sv_wg_schedule(struct sv_wg_member *member, uint64_t now);
void sv_wg_schedule_at(struct sv_wg_member *member, uint64_t at);

/* ---- wg_list.c ---- */

/* It may count something from now on; or whether it is connected has changed. */
void sv_wg_list_heard(struct sv_wg_member *member);
/* It is about to be removed. */
void sv_wg_unlist(struct sv_wg_member *member);
void sv_wg_begin_walk(struct sv_wg *wg, struct sv_wg_walk *walk);
/* The next member, or NULL, which is the walk's end. Now and then others have the lock meanwhile: what was seen before may be gone. */
struct sv_wg_member *sv_wg_walk_on(struct sv_wg *wg, struct sv_wg_walk *walk);

/* ---- wg_session.c: members that are a hub's clients; under the lock ---- */

/* A handshake was completed; it is too old now; or ended by the hub, with the Disconnect code that other transports would say. */
void sv_wg_note_connected(struct sv_wg_member *member);
void sv_wg_note_age(struct sv_wg_member *member, uint64_t now);
void sv_wg_forget(struct sv_wg_member *member, unsigned code);
void sv_wg_session_id(const struct sv_wg_member *member, uint8_t id[SV_SESSION_ID_SIZE]);
/* May it come from where it is, or from there? No lock is needed. */
bool sv_wg_source_allowed(const struct sv_wg_member *member);
bool sv_wg_source_allows(const struct sv_wg_member *member, const struct sv_endpoint *from);

/* ---- wg_handshake.c: each takes the lock itself ---- */

/* A message that is not data. */
void sv_wg_on_handshake(struct sv_worker *worker, const struct sv_endpoint *from, uint8_t *message,
                        size_t len);
/* The first data under a keypair that is not current. */
void sv_wg_on_first_data(struct sv_worker *worker, struct sv_wg_keypair *keypair);
/* An authentic message came from another place than the last. */
void sv_wg_on_roam(struct sv_wg_member *member, const struct sv_endpoint *from);
/* Fresh keys are wanted. */
void sv_wg_want_handshake(struct sv_worker *worker, struct sv_wg_member *member);
/* The packet waits, and a handshake begins. */
void sv_wg_stage(struct sv_worker *worker, struct sv_wg_member *member, const struct sv_buf *buf);
void sv_wg_drop_staged(struct sv_wg_member *member);
/* Peers whose time has come. */
void sv_wg_on_timer(struct sv_worker *timekeeper);

/* ---- wg_outbound.c, wg_inbound.c: the packet path ---- */

/* Whose the destination is: NULL when nobody's, or when its native connection was heard of last. */
struct sv_wg_member *sv_wg_route(const struct sv_wg *wg, const uint8_t dst[16], const struct sv_conn *conn);
bool sv_wg_has(const struct sv_wg *wg, const uint8_t dst[16]);
/* The packet (its bytes are used up) to the member; *slot as in sv_outbound_packet. */
void sv_wg_outbound(struct sv_worker *worker, struct sv_wg_member *member, struct sv_buf **slot,
                    const struct sv_ip *ip);
/* The same, past the limiter. */
void sv_wg_transmit(struct sv_worker *worker, struct sv_wg_member *member, struct sv_buf *buf,
                    const struct sv_ip *ip);
/* An ordinary packet of a client to another that WireGuard leads to, from where it lies; up to 15 bytes behind it are zero for a moment.
 * false: it must go the long way. */
bool sv_wg_pass_on(struct sv_worker *worker, uint8_t *packet, size_t len, const struct sv_ip *ip);
/* Sends what was collected. */
void sv_wg_flush(struct sv_worker *worker);
/* Everything that waited for the handshake; without anything and `confirm`: a keepalive. */
void sv_wg_send_staged(struct sv_worker *worker, struct sv_wg_member *member, struct sv_wg_staged *staged,
                       bool confirm);
void sv_wg_send_keepalive(struct sv_worker *worker, struct sv_wg_member *member);
/* An answer into the TUN: there is nobody, or nowhere, to send the packet to. */
void sv_wg_unreachable(struct sv_worker *worker, const uint8_t *packet, const struct sv_ip *ip);

/* A packet that came from the member and passed all checks. */
void sv_wg_deliver(struct sv_worker *worker, struct sv_wg_member *member, uint8_t *packet, size_t len,
                   const struct sv_ip *ip);

/* ---- wg_limit.c: a client's limiter holds packets back, here as on other transports ---- */

int sv_wg_lanes_open(struct sv_worker *worker);
void sv_wg_lanes_close(struct sv_worker *worker);
/* To the member: sent, or held back. */
void sv_wg_limit_down(struct sv_worker *worker, struct sv_wg_member *member, struct sv_limiter *limiter,
                      struct sv_buf **slot, const struct sv_ip *ip);
/* From the member: delivered, or held back (copied). */
void sv_wg_limit_up(struct sv_worker *worker, struct sv_wg_member *member, struct sv_limiter *limiter,
                    uint8_t *packet, size_t len, const struct sv_ip *ip);

/* A socket is readable. */
void sv_wg_on_udp4(void *worker, int events);
void sv_wg_on_udp6(void *worker, int events);

#endif
