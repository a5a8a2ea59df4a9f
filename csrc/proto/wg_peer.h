/* One WireGuard peer: its handshakes, its keypairs and its timers (WireGuard paper, sections 5 and 6).
 *
 * Handshakes, keypair slots and deadlines belong to whoever holds the device's lock. The packet path takes no lock: it reads
 * `current`, which is published by a release store and freed after a grace period, and notes traffic in the peer's relaxed atomics.
 */
#ifndef SV_PROTO_WG_PEER_H
#define SV_PROTO_WG_PEER_H

#include <stdatomic.h>

#include "base/clock.h"
#include "base/rcu.h"
#include "crypto/aead_batch.h"
#include "proto/noise.h"
#include "proto/replay.h"
#include "proto/wg_message.h"

/* The constants of section 6.1, and what follows from them. */
#define SV_WG_REKEY_AFTER_MESSAGES (UINT64_C(1) << 60)
#define SV_WG_REJECT_AFTER_MESSAGES (UINT64_MAX - (1 << 13) - 1)
#define SV_WG_REKEY_AFTER_NS (120 * SV_NS_PER_S)
#define SV_WG_REJECT_AFTER_NS (180 * SV_NS_PER_S)
#define SV_WG_ATTEMPT_NS (90 * SV_NS_PER_S)
#define SV_WG_REKEY_TIMEOUT_NS (5 * SV_NS_PER_S)
#define SV_WG_KEEPALIVE_TIMEOUT_NS (10 * SV_NS_PER_S)
#define SV_WG_FORGET_NS (3 * SV_WG_REJECT_AFTER_NS)
#define SV_WG_JITTER_NS (333 * SV_NS_PER_MS) /* of a retransmission, at most */
#define SV_WG_INITIATION_GAP_NS \
    (20 * SV_NS_PER_MS) /* between a peer's initiations: more is a flood or a replay */

struct sv_wg_peer;

struct sv_wg_keypair {
    struct sv_rcu_head rcu; /* first */
    struct sv_arena *arena; /* where it lives */
    struct sv_wg_peer *peer;
    struct sv_wg_keypair *next_retired;
    uint32_t local, remote; /* the receiver indices of what comes, of what goes */
    bool initiator;         /* our side began the handshake */
    uint64_t made_at;       /* ns */
    uint8_t send_key[SV_AEAD_KEY], receive_key[SV_AEAD_KEY];
    atomic_uint_fast64_t send_counter; /* the next one */
    atomic_flag receiving;             /* held while the window below is looked at or moved */
    struct sv_replay replay;
};

/* The handshake we began and that has no answer yet. */
struct sv_wg_attempt {
    struct sv_noise noise;
    uint32_t local; /* our sender index */
};

struct sv_wg_peer {
    struct sv_arena *arena; /* of keypairs: slots of sizeof(struct sv_wg_keypair) */
    uint8_t public_key[SV_KEY];
    const uint8_t *psk; /* the owner's SV_KEY bytes; NULL: none */
    struct sv_wg_mac_keys macs;
    struct sv_wg_cookie cookie;

    /* Handshakes. */
    struct sv_wg_attempt *attempt;             /* the last that has no answer, or NULL */
    uint64_t attempt_began, initiation_sent;   /* ns; 0: never */
    uint64_t retry_at;                         /* ns; SV_NEVER: nothing is tried now */
    uint8_t latest_timestamp[SV_WG_TIMESTAMP]; /* the greatest of its initiations */
    uint64_t initiation_taken;                 /* ns */
    uint64_t handshake_at, handshake_unix_ns;  /* the last that was completed; 0: none */

    /* Keypairs. */
    struct sv_wg_keypair *_Atomic current; /* what is sent with */
    struct sv_wg_keypair *previous;        /* what may still come */
    struct sv_wg_keypair *next;            /* answered, but not yet used by the peer */
    struct sv_wg_keypair
        *retired; /* taken out of the slots: the owner takes them out of its table and frees them */

    /* Noted by the packet path; ns, 0: none. */
    atomic_uint_fast64_t data_sent;     /* first data sent since anything came */
    atomic_uint_fast64_t data_received; /* first data that came since anything was sent */
    atomic_uint_fast64_t last_traffic;  /* last authentic packet either way */

    uint16_t persistent_secs; /* keepalive whatever happens; 0: none */
};

/* What must be done now; sv_wg_peer_on_time gives any of them. */
enum {
    SV_WG_DO_INITIATE = 1,  /* fresh keys are wanted: sv_wg_want_keys */
    SV_WG_DO_RETRY = 2,     /* the initiation once more: sv_wg_write_initiation */
    SV_WG_DO_KEEPALIVE = 4, /* an empty packet; without keys it begins a handshake */
    SV_WG_DO_GIVE_UP = 8,   /* nobody answers: sv_wg_drop_attempt, and what waits for the handshake */
    SV_WG_DO_FORGET = 16,   /* sv_wg_drop_attempt: no secret outlives its use */
};

/* Who we are, on all handshakes of a device. */
struct sv_wg_identity {
    uint8_t private_key[SV_KEY], public_key[SV_KEY];
    struct sv_wg_mac_keys macs;
};

void sv_wg_identity_init(struct sv_wg_identity *own, const uint8_t private_key[SV_KEY]);

void sv_wg_peer_init(struct sv_wg_peer *peer, struct sv_arena *arena, const uint8_t public_key[SV_KEY]);
/* Zeros where there is none. */
const uint8_t *sv_wg_psk(const struct sv_wg_peer *peer);
/* As if it had never been spoken to, but for the greatest timestamp: all keypairs are retired. sv_wg_drop_attempt comes first. */
void sv_wg_peer_reset(struct sv_wg_peer *peer);
/* There are keys, or they are asked for. */
bool sv_wg_peer_in_use(const struct sv_wg_peer *peer);
/* The machine was asleep, which the clock of `now` does not count: the last handshake is that much older. */
void sv_wg_peer_slept(struct sv_wg_peer *peer, uint64_t ns);

/* For sv_rcu_defer: wipes the keypair and gives it back to its arena. */
void sv_wg_keypair_free(struct sv_rcu_head *head);

/* ---- as initiator ---- */

/* Fresh keys are wanted, by a packet or by a timer. true: an initiation is to be written now; else one is on its way, or will be: 5 s
 * after the last. Whatever is wanted gives the attempt its whole time again. */
bool sv_wg_want_keys(struct sv_wg_peer *peer, uint64_t now);
/* A new initiation, 148 bytes, under a fresh index. `again`: a retransmission of the same attempt. *replaced is the index that is no
 * longer waited for (0: none). SV_E_NOMEM, SV_E_AUTH (the peer's key is no good). */
int sv_wg_write_initiation(struct sv_wg_peer *peer, const struct sv_wg_identity *own, uint64_t now,
                           uint64_t unix_ns, uint32_t local, bool again, uint8_t *dst, uint32_t *replaced);
/* The answer: a keypair under the attempt's index, which is current at once. SV_E_AUTH and SV_E_STATE change nothing. */
int sv_wg_read_response(struct sv_wg_peer *peer, uint64_t now, uint64_t unix_ns, const uint8_t *message,
                        struct sv_wg_keypair **made);
/* Wipes the attempt; the index that is no longer waited for, 0: there was none. */
uint32_t sv_wg_drop_attempt(struct sv_wg_peer *peer);
/* Whether an initiation waits for its answer or its repetition. */
static inline bool sv_wg_is_trying(const struct sv_wg_peer *peer)
{
    return peer->retry_at != SV_NEVER;
}

/* ---- as responder ---- */

/* An initiation that was opened, before anything is known of its sender but its key. */
struct sv_wg_hello {
    struct sv_noise noise;
    uint32_t sender;
    uint8_t timestamp[SV_WG_TIMESTAMP];
};

/* mac1 has been checked. hello->noise.rs is the sender's static key. SV_E_AUTH. The caller wipes hello. */
int sv_wg_open_initiation(struct sv_wg_hello *hello, const struct sv_wg_identity *own,
                          const uint8_t *message);
/* Answers it: 92 bytes at dst, and a keypair that becomes current once the peer has used it. SV_E_REPLAY: an old timestamp, or too soon. */
int sv_wg_answer(struct sv_wg_peer *peer, struct sv_wg_hello *hello, uint64_t now, uint32_t local,
                 uint8_t *dst, struct sv_wg_keypair **made);

/* ---- data ---- */

/* The keypair to send with, or NULL: a handshake is needed first. */
struct sv_wg_keypair *sv_wg_sending(const struct sv_wg_peer *peer, uint64_t now);
/* Whether it is time for fresh keys, asked after sending and after receiving under the keypair. */
bool sv_wg_wants_keys_on_send(const struct sv_wg_keypair *keypair, uint64_t now);
bool sv_wg_wants_keys_on_receive(const struct sv_wg_keypair *keypair, uint64_t now);

/* Takes n counters in a row. SV_WG_REJECT_AFTER_MESSAGES or more: the keypair is used up. */
static inline uint64_t sv_wg_take_counters(struct sv_wg_keypair *keypair, uint64_t n)
{
    return atomic_fetch_add_explicit(&keypair->send_counter, n, memory_order_relaxed);
}

/* Bytes of the message for len bytes of packet, padding and all, within the MTU. */
static inline size_t sv_wg_padded(size_t len, size_t mtu)
{
    size_t padded = (len + SV_WG_PADDING - 1) & ~(size_t)(SV_WG_PADDING - 1);

    return len > mtu ? len : padded > mtu ? mtu : padded;
}

/* Messages that follow one another are sealed, and opened, faster with a batch that has been begun for them with the keypair's key. Any batch may be
 * NULL. With one, SV_AEAD_BATCH_BEHIND bytes behind each message must be there. */

/* A message of the len bytes at plain (padded already) to dst, SV_WG_DATA_OVERHEAD longer; plain may lie at its place in dst. 0, SV_E_*. */
int sv_wg_seal_data(const struct sv_wg_keypair *keypair, struct sv_aead_batch *batch, uint64_t counter,
                    uint8_t *dst, const uint8_t *plain, size_t len);
/* Opens a data message in place: the plaintext stands at message + SV_WG_DATA_HEADER. SV_E_STATE (too old), SV_E_REPLAY, SV_E_AUTH. */
int sv_wg_open_data(struct sv_wg_keypair *keypair, struct sv_aead_batch *batch, uint64_t now,
                    uint8_t *message, size_t len);

static inline void sv_wg_note_sent(struct sv_wg_peer *peer, uint64_t now, bool data)
{
    if (data && atomic_load_explicit(&peer->data_sent, memory_order_relaxed) == 0) {
        atomic_store_explicit(&peer->data_sent, now, memory_order_relaxed);
    }
    if (atomic_load_explicit(&peer->data_received, memory_order_relaxed) != 0) {
        atomic_store_explicit(&peer->data_received, 0, memory_order_relaxed);
    }
    atomic_store_explicit(&peer->last_traffic, now, memory_order_relaxed);
}

static inline void sv_wg_note_received(struct sv_wg_peer *peer, uint64_t now, bool data)
{
    if (atomic_load_explicit(&peer->data_sent, memory_order_relaxed) != 0) {
        atomic_store_explicit(&peer->data_sent, 0, memory_order_relaxed);
    }
    if (data && atomic_load_explicit(&peer->data_received, memory_order_relaxed) == 0) {
        atomic_store_explicit(&peer->data_received, now, memory_order_relaxed);
    }
    atomic_store_explicit(&peer->last_traffic, now, memory_order_relaxed);
}

/* The first message under `next` makes it current. true: it was so. Under the lock. */
bool sv_wg_confirm(struct sv_wg_peer *peer, struct sv_wg_keypair *keypair, uint64_t now, uint64_t unix_ns);

/* ---- time ---- */

/* When sv_wg_peer_on_time wants to be called next; SV_NEVER. Other threads' notes may move it by up to a second. */
uint64_t sv_wg_peer_deadline(const struct sv_wg_peer *peer, uint64_t now);
/* SV_WG_DO_*. Keypairs past their time are retired. */
unsigned sv_wg_peer_on_time(struct sv_wg_peer *peer, uint64_t now);

#endif
