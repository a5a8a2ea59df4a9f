#include "proto/wg_peer.h"

#include <stdlib.h>
#include <string.h>

#include <smartvpn/base.h>

static const char prologue[] = "WireGuard v1 zx2c4 Jason@zx2c4.com";
static const uint8_t no_psk[SV_KEY];

/* While keys are there any worker may note traffic, so deadlines are looked at this often. */
#define LOOK_NS SV_NS_PER_S

void sv_wg_identity_init(struct sv_wg_identity *own, const uint8_t private_key[SV_KEY])
{
    memcpy(own->private_key, private_key, SV_KEY);
    sv_x25519_public(own->public_key, private_key);
    sv_wg_mac_keys(&own->macs, own->public_key);
}

const uint8_t *sv_wg_psk(const struct sv_wg_peer *peer)
{
    return peer->psk ? peer->psk : no_psk;
}

void sv_wg_peer_init(struct sv_wg_peer *peer, struct sv_arena *arena, const uint8_t public_key[SV_KEY])
{
    memset(peer, 0, sizeof *peer);
    peer->arena = arena;
    memcpy(peer->public_key, public_key, SV_KEY);
    sv_wg_mac_keys(&peer->macs, public_key);
    peer->retry_at = SV_NEVER;
}

/* ---- slots ---- */

static void retire(struct sv_wg_peer *peer, struct sv_wg_keypair *keypair)
{
    if (keypair) {
        keypair->next_retired = peer->retired;
        peer->retired = keypair;
    }
}

static struct sv_wg_keypair *current_of(const struct sv_wg_peer *peer)
{
    return atomic_load_explicit(&peer->current, memory_order_relaxed);
}

static void set_current(struct sv_wg_peer *peer, struct sv_wg_keypair *keypair)
{
    atomic_store_explicit(&peer->current, keypair, memory_order_release);
}

static void retire_all(struct sv_wg_peer *peer)
{
    retire(peer, peer->previous);
    retire(peer, peer->next);
    retire(peer, current_of(peer));
    peer->previous = peer->next = NULL;
    set_current(peer, NULL);
}

static bool has_keys(const struct sv_wg_peer *peer)
{
    return current_of(peer) || peer->next || peer->previous;
}

uint32_t sv_wg_drop_attempt(struct sv_wg_peer *peer)
{
    uint32_t index = 0;

    if (peer->attempt) {
        index = peer->attempt->local;
        sv_wipe(peer->attempt, sizeof *peer->attempt);
        free(peer->attempt);
        peer->attempt = NULL;
    }
    peer->retry_at = SV_NEVER;
    return index;
}

static void clear_notes(struct sv_wg_peer *peer)
{
    atomic_store_explicit(&peer->data_sent, 0, memory_order_relaxed);
    atomic_store_explicit(&peer->data_received, 0, memory_order_relaxed);
    atomic_store_explicit(&peer->last_traffic, 0, memory_order_relaxed);
}

void sv_wg_peer_reset(struct sv_wg_peer *peer)
{
    sv_wg_drop_attempt(peer);
    retire_all(peer);
    clear_notes(peer);
    sv_wipe(&peer->cookie, sizeof peer->cookie);
    peer->attempt_began = peer->initiation_sent = 0;
}

bool sv_wg_peer_in_use(const struct sv_wg_peer *peer)
{
    return has_keys(peer) || peer->attempt;
}

void sv_wg_peer_slept(struct sv_wg_peer *peer, uint64_t ns)
{
    if (peer->handshake_at != 0) {
        peer->handshake_at = peer->handshake_at > ns ? peer->handshake_at - ns : 1;
    }
}

void sv_wg_keypair_free(struct sv_rcu_head *head)
{
    struct sv_wg_keypair *keypair = (struct sv_wg_keypair *)(void *)head;

    sv_arena_put(keypair->arena, keypair);
}

static void note_handshake(struct sv_wg_peer *peer, uint64_t now, uint64_t unix_ns)
{
    peer->handshake_at = now;
    peer->handshake_unix_ns = unix_ns;
    peer->attempt_began = 0;
}

static struct sv_wg_keypair *keypair_new(struct sv_wg_peer *peer, const struct sv_noise *noise, uint64_t now,
                                         uint32_t local, uint32_t remote)
{
    struct sv_wg_keypair *keypair = sv_arena_get(peer->arena);
    uint8_t hash[SV_HASH];

    if (!keypair) {
        return NULL;
    }
    keypair->arena = peer->arena;
    keypair->peer = peer;
    keypair->local = local;
    keypair->remote = remote;
    keypair->initiator = noise->initiator;
    keypair->made_at = now;
    sv_noise_finish(noise, keypair->send_key, keypair->receive_key, hash);
    atomic_init(&keypair->send_counter, 0);
    atomic_flag_clear(&keypair->receiving);
    sv_replay_init(&keypair->replay);
    return keypair;
}

/* ---- as initiator ---- */

static void begin(struct sv_noise *noise, const struct sv_wg_identity *own, const uint8_t *rs)
{
    sv_noise_init(noise,
                  &(struct sv_noise_config){
                      .initiator = rs != NULL,
                      .s_private = own->private_key,
                      .s_public = own->public_key,
                      .rs = rs,
                      .psk = no_psk, /* the real one follows before message 2, when both know who speaks */
                      .prologue = prologue,
                      .prologue_len = sizeof prologue - 1,
                  });
}

bool sv_wg_want_keys(struct sv_wg_peer *peer, uint64_t now)
{
    uint64_t at = peer->initiation_sent == 0 ? 0 : peer->initiation_sent + SV_WG_REKEY_TIMEOUT_NS;

    if (!sv_wg_is_trying(peer) && now >= at) {
        return true;
    }
    if (!sv_wg_is_trying(peer)) {
        peer->retry_at = at;
    }
    peer->attempt_began = now;
    return false;
}

static uint64_t jitter(void)
{
    uint32_t random;

    sv_random(&random, sizeof random);
    return random % SV_WG_JITTER_NS;
}

int sv_wg_write_initiation(struct sv_wg_peer *peer, const struct sv_wg_identity *own, uint64_t now,
                           uint64_t unix_ns, uint32_t local, bool again, uint8_t *dst, uint32_t *replaced)
{
    uint8_t timestamp[SV_WG_TIMESTAMP];
    struct sv_wg_attempt *attempt = peer->attempt ? peer->attempt : calloc(1, sizeof *attempt);
    int status;

    *replaced = peer->attempt ? attempt->local : 0;
    if (!attempt) {
        return SV_E_NOMEM;
    }
    peer->attempt = attempt;
    attempt->local = local;
    begin(&attempt->noise, own, peer->public_key);
    sv_store32le(dst, SV_WG_INITIATION);
    sv_store32le(dst + 4, local);
    sv_wg_timestamp(timestamp, unix_ns);
    status = sv_noise_write1(&attempt->noise, dst + SV_WG_NOISE_AT_INITIATION, timestamp, sizeof timestamp);
    if (status != 0) {
        return status;
    }
    sv_wg_finish(&peer->cookie, now, dst, SV_WG_INITIATION_SIZE, &peer->macs);
    if (!again || peer->attempt_began == 0) {
        peer->attempt_began = now;
    }
    peer->initiation_sent = now;
    sv_wg_note_sent(peer, now, false);
    peer->retry_at = now + SV_WG_REKEY_TIMEOUT_NS + jitter();
    return 0;
}

static void install_as_initiator(struct sv_wg_peer *peer, struct sv_wg_keypair *keypair)
{
    retire(peer, peer->previous);
    if (peer->next) {
        /* An answered handshake of the peer's crossed ours: it may still send under that one. */
        peer->previous = peer->next;
        peer->next = NULL;
        retire(peer, current_of(peer));
    } else {
        peer->previous = current_of(peer);
    }
    set_current(peer, keypair);
}

int sv_wg_read_response(struct sv_wg_peer *peer, uint64_t now, uint64_t unix_ns, const uint8_t *message,
                        struct sv_wg_keypair **made)
{
    struct sv_noise noise;
    struct sv_wg_keypair *keypair = NULL;
    uint8_t nothing[SV_AEAD_TAG];
    int status;

    if (!peer->attempt || peer->attempt->local != sv_wg_receiver(message)) {
        return SV_E_STATE;
    }
    noise = peer->attempt->noise; /* a forged answer must not spoil the real one */
    memcpy(noise.psk, sv_wg_psk(peer), SV_KEY);
    status = sv_noise_read2(&noise, nothing, message + SV_WG_NOISE_AT_RESPONSE, SV_NOISE_MESSAGE2);
    if (status == 0) {
        keypair = keypair_new(peer, &noise, now, peer->attempt->local, sv_wg_sender(message));
        status = keypair ? 0 : SV_E_NOMEM;
    }
    sv_noise_clear(&noise);
    if (status != 0) {
        return status;
    }
    sv_wg_drop_attempt(peer);
    install_as_initiator(peer, keypair);
    note_handshake(peer, now, unix_ns);
    sv_wg_note_received(peer, now, false);
    *made = keypair;
    return 0;
}

/* ---- as responder ---- */

int sv_wg_open_initiation(struct sv_wg_hello *hello, const struct sv_wg_identity *own, const uint8_t *message)
{
    begin(&hello->noise, own, NULL);
    hello->sender = sv_wg_sender(message);
    return sv_noise_read1(&hello->noise, hello->timestamp, message + SV_WG_NOISE_AT_INITIATION,
                          SV_NOISE_MESSAGE1 + SV_WG_TIMESTAMP);
}

int sv_wg_answer(struct sv_wg_peer *peer, struct sv_wg_hello *hello, uint64_t now, uint32_t local,
                 uint8_t *dst, struct sv_wg_keypair **made)
{
    struct sv_wg_keypair *keypair;
    int status;

    if (memcmp(hello->timestamp, peer->latest_timestamp, SV_WG_TIMESTAMP) <= 0 ||
        (peer->initiation_taken != 0 && now - peer->initiation_taken < SV_WG_INITIATION_GAP_NS)) {
        return SV_E_REPLAY;
    }
    memcpy(hello->noise.psk, sv_wg_psk(peer), SV_KEY);
    sv_store32le(dst, SV_WG_RESPONSE);
    sv_store32le(dst + 4, local);
    sv_store32le(dst + 8, hello->sender);
    status = sv_noise_write2(&hello->noise, dst + SV_WG_NOISE_AT_RESPONSE, NULL, 0);
    if (status != 0) {
        return status;
    }
    keypair = keypair_new(peer, &hello->noise, now, local, hello->sender);
    if (!keypair) {
        return SV_E_NOMEM;
    }
    memcpy(peer->latest_timestamp, hello->timestamp, SV_WG_TIMESTAMP);
    peer->initiation_taken = now;
    sv_wg_note_received(peer, now, false);
    sv_wg_note_sent(peer, now, false);
    sv_wg_finish(&peer->cookie, now, dst, SV_WG_RESPONSE_SIZE, &peer->macs);
    retire(peer, peer->next);
    retire(peer, peer->previous);
    peer->previous = NULL;
    peer->next = keypair;
    *made = keypair;
    return 0;
}

bool sv_wg_confirm(struct sv_wg_peer *peer, struct sv_wg_keypair *keypair, uint64_t now, uint64_t unix_ns)
{
    if (peer->next != keypair) {
        return false;
    }
    retire(peer, peer->previous);
    peer->previous = current_of(peer);
    peer->next = NULL;
    set_current(peer, keypair);
    note_handshake(peer, now, unix_ns);
    peer->retry_at = SV_NEVER; /* a late answer to our own initiation is still good */
    return true;
}

/* ---- data ---- */

static bool is_fresh(const struct sv_wg_keypair *keypair, uint64_t now)
{
    return now - keypair->made_at < SV_WG_REJECT_AFTER_NS;
}

struct sv_wg_keypair *sv_wg_sending(const struct sv_wg_peer *peer, uint64_t now)
{
    struct sv_wg_keypair *keypair = atomic_load_explicit(&peer->current, memory_order_acquire);
    bool good = keypair && is_fresh(keypair, now) &&
                atomic_load_explicit(&keypair->send_counter, memory_order_relaxed) <
                    SV_WG_REJECT_AFTER_MESSAGES;

    return good ? keypair : NULL;
}

bool sv_wg_wants_keys_on_send(const struct sv_wg_keypair *keypair, uint64_t now)
{
    return atomic_load_explicit(&keypair->send_counter, memory_order_relaxed) > SV_WG_REKEY_AFTER_MESSAGES ||
           (keypair->initiator && now - keypair->made_at > SV_WG_REKEY_AFTER_NS);
}

bool sv_wg_wants_keys_on_receive(const struct sv_wg_keypair *keypair, uint64_t now)
{
    return keypair->initiator && now - keypair->made_at > SV_WG_REJECT_AFTER_NS - SV_WG_KEEPALIVE_TIMEOUT_NS -
                                                              SV_WG_REKEY_TIMEOUT_NS;
}

int sv_wg_seal_data(const struct sv_wg_keypair *keypair, struct sv_aead_batch *batch, uint64_t counter,
                    uint8_t *dst, const uint8_t *plain, size_t len)
{
    uint8_t nonce[SV_AEAD_NONCE];

    sv_wg_put_data_header(dst, keypair->remote, counter);
    if (sv_aead_batch_covers(batch, keypair->send_key, counter, len)) {
        return sv_aead_batch_seal(batch, counter, dst + SV_WG_DATA_HEADER, plain, len);
    }
    sv_aead_nonce(sv_aead, nonce, counter);
    return sv_aead->seal(keypair->send_key, nonce, NULL, 0, dst + SV_WG_DATA_HEADER, plain, len);
}

static void lock_window(struct sv_wg_keypair *keypair)
{
    while (atomic_flag_test_and_set_explicit(&keypair->receiving, memory_order_acquire)) {
    }
}

static void unlock_window(struct sv_wg_keypair *keypair)
{
    atomic_flag_clear_explicit(&keypair->receiving, memory_order_release);
}

static int open_body(const struct sv_wg_keypair *keypair, struct sv_aead_batch *batch, uint64_t counter,
                     uint8_t *body, size_t len)
{
    uint8_t nonce[SV_AEAD_NONCE];

    if (sv_aead_batch_covers(batch, keypair->receive_key, counter, len)) {
        return sv_aead_batch_open(batch, counter, body, len);
    }
    sv_aead_nonce(sv_aead, nonce, counter);
    return sv_aead->open(keypair->receive_key, nonce, NULL, 0, body, body, len);
}

int sv_wg_open_data(struct sv_wg_keypair *keypair, struct sv_aead_batch *batch, uint64_t now,
                    uint8_t *message, size_t len)
{
    uint64_t counter = sv_wg_counter(message);
    bool fresh;
    int status;

    if (!is_fresh(keypair, now) || counter >= SV_WG_REJECT_AFTER_MESSAGES) {
        return SV_E_STATE;
    }
    status = open_body(keypair, batch, counter, message + SV_WG_DATA_HEADER, len - SV_WG_DATA_OVERHEAD);
    if (status != 0) {
        return status;
    }
    lock_window(keypair);
    fresh = sv_replay_update(&keypair->replay, counter);
    unlock_window(keypair);
    return fresh ? 0 : SV_E_REPLAY;
}

/* ---- time ---- */

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t noted(const atomic_uint_fast64_t *at)
{
    return atomic_load_explicit(at, memory_order_relaxed);
}

static uint64_t after(uint64_t at, uint64_t ns)
{
    return at == 0 ? SV_NEVER : at + ns;
}

static uint64_t persistent_at(const struct sv_wg_peer *peer)
{
    return peer->persistent_secs == 0 ? SV_NEVER
                                      : noted(&peer->last_traffic) + peer->persistent_secs * SV_NS_PER_S;
}

static uint64_t silence_at(const struct sv_wg_peer *peer)
{
    return sv_wg_is_trying(peer)
               ? SV_NEVER
               : after(noted(&peer->data_sent), SV_WG_KEEPALIVE_TIMEOUT_NS + SV_WG_REKEY_TIMEOUT_NS);
}

static uint64_t keepalive_at(const struct sv_wg_peer *peer)
{
    return current_of(peer) ? after(noted(&peer->data_received), SV_WG_KEEPALIVE_TIMEOUT_NS) : SV_NEVER;
}

static uint64_t forget_at(const struct sv_wg_peer *peer)
{
    uint64_t newest = peer->handshake_at > peer->initiation_taken ? peer->handshake_at
                                                                  : peer->initiation_taken;

    if (!has_keys(peer) && !peer->attempt) {
        return SV_NEVER;
    }
    return (newest > peer->initiation_sent ? newest : peer->initiation_sent) + SV_WG_FORGET_NS;
}

uint64_t sv_wg_peer_deadline(const struct sv_wg_peer *peer, uint64_t now)
{
    const struct sv_wg_keypair *current = current_of(peer);
    uint64_t at = sooner(sooner(peer->retry_at, persistent_at(peer)),
                         sooner(silence_at(peer), forget_at(peer)));

    at = sooner(at, keepalive_at(peer));
    return current && is_fresh(current, now) ? sooner(at, now + LOOK_NS) : at;
}

static unsigned retry(struct sv_wg_peer *peer, uint64_t now)
{
    if (now - peer->attempt_began < SV_WG_ATTEMPT_NS) {
        return SV_WG_DO_RETRY;
    }
    peer->retry_at = SV_NEVER;
    peer->attempt_began = 0;
    atomic_store_explicit(&peer->data_sent, 0, memory_order_relaxed);
    return SV_WG_DO_GIVE_UP;
}

unsigned sv_wg_peer_on_time(struct sv_wg_peer *peer, uint64_t now)
{
    unsigned todo = 0;

    if (now >= peer->retry_at) {
        todo |= retry(peer, now);
    }
    if (now >= silence_at(peer)) {
        atomic_store_explicit(&peer->data_sent, 0, memory_order_relaxed);
        todo |= SV_WG_DO_INITIATE;
    }
    if (now >= keepalive_at(peer)) {
        atomic_store_explicit(&peer->data_received, 0, memory_order_relaxed);
        todo |= SV_WG_DO_KEEPALIVE;
    }
    if (now >= persistent_at(peer)) {
        atomic_store_explicit(&peer->last_traffic, now, memory_order_relaxed);
        todo |= SV_WG_DO_KEEPALIVE;
    }
    if (now >= forget_at(peer)) {
        retire_all(peer);
        todo |= SV_WG_DO_FORGET;
    }
    return todo;
}
