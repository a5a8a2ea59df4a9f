/* The other end of a session, made by hand from Noise and AEAD alone: it follows protocol.md as far as a test
 * wants and breaks it where the test wants. */
#ifndef SV_TESTS_RAW_PEER_H
#define SV_TESTS_RAW_PEER_H

#include <string.h>

#include "base/bytes.h"
#include "crypto/aead.h"
#include "crypto/keys.h"
#include "proto/noise.h"

enum { RAW_FRAME = 80 * 1024 };

/* What is sealed under the keys of Split(): AES-256-GCM with its counters big-endian, or ChaCha20-Poly1305. */
static bool raw_aes;

static inline const struct sv_aead_impl *raw_aead(void)
{
    return raw_aes ? sv_aead_aes : sv_aead;
}

static inline void raw_nonce(uint8_t nonce[12], uint64_t counter)
{
    memset(nonce, 0, 4);
    (raw_aes ? sv_store64be : sv_store64le)(nonce + 4, counter);
}

struct raw_keypair {
    uint8_t private_key[32], public_key[32];
};

struct raw_peer {
    struct sv_noise noise;
    uint8_t send_key[32], receive_key[32], hash[32];
    uint64_t send_counter, receive_counter;
};

static inline struct raw_keypair raw_keypair(uint8_t seed)
{
    struct raw_keypair pair;
    memset(pair.private_key, seed, sizeof pair.private_key);
    sv_x25519_public(pair.public_key, pair.private_key);
    return pair;
}

static inline size_t raw_header(uint8_t *frame, uint8_t type, size_t payload_len)
{
    frame[0] = type;
    sv_store32be(frame + 1, (uint32_t)payload_len);
    return 5 + payload_len;
}

static inline void raw_begin(struct raw_peer *peer, bool initiator, const struct raw_keypair *own,
                             const uint8_t *rs, const void *prologue, size_t prologue_len)
{
    sv_noise_init(&peer->noise, &(struct sv_noise_config){
                                    .initiator = initiator,
                                    .s_private = own->private_key,
                                    .s_public = own->public_key,
                                    .rs = rs,
                                    .prologue = prologue,
                                    .prologue_len = prologue_len,
                                });
}

static inline void raw_begin_rekey(struct raw_peer *peer, bool initiator, const struct raw_keypair *own,
                                   const uint8_t *rs)
{
    uint8_t prologue[48] = "smartvpn/1 rekey";
    memcpy(prologue + 16, peer->hash, 32);
    raw_begin(peer, initiator, own, rs, prologue, sizeof prologue);
}

/* Message 1 as a plaintext frame. */
static inline size_t raw_init_frame(struct raw_peer *peer, uint8_t *frame, uint8_t type,
                                    const struct raw_keypair *own, const uint8_t *rs, const uint8_t *hello,
                                    size_t len)
{
    memset(peer, 0, sizeof *peer);
    raw_begin(peer, true, own, rs, "smartvpn/1", 10);
    if (sv_noise_write1(&peer->noise, frame + 5, hello, len) != 0) {
        return 0;
    }
    return raw_header(frame, type, len + 96);
}

/* Takes the keys that Noise has now; both counters start anew. */
static inline void raw_take_keys(struct raw_peer *peer)
{
    sv_noise_finish(&peer->noise, peer->send_key, peer->receive_key, peer->hash);
    peer->send_counter = peer->receive_counter = 0;
}

static inline size_t raw_seal(struct raw_peer *peer, uint8_t *frame, uint8_t type, const void *plain,
                              size_t len)
{
    static const uint8_t nothing[1];
    uint8_t nonce[12];
    raw_nonce(nonce, peer->send_counter++);
    size_t total = raw_header(frame, type, len + 16);
    raw_aead()->seal(peer->send_key, nonce, frame, 5, frame + 5, len > 0 ? plain : nothing, len);
    return total;
}

/* Plaintext's length, or -1. */
static inline long raw_open(struct raw_peer *peer, const uint8_t *frame, size_t len, uint8_t *plain)
{
    uint8_t nonce[12];
    if (len < 21 || sv_load32be(frame + 1) != len - 5) {
        return -1;
    }
    raw_nonce(nonce, peer->receive_counter);
    if (raw_aead()->open(peer->receive_key, nonce, frame, 5, plain, frame + 5, len - 21) != 0) {
        return -1;
    }
    peer->receive_counter++;
    return (long)(len - 21);
}

#endif
