/* Noise IK and IKpsk2 over 25519, ChaChaPoly and BLAKE2s (Noise revision 34, sections 5 and 7), on one symmetric state.
 *
 *     IK:      <- s    -> e es s ss    <- e ee se
 *     IKpsk2:  <- s    -> e es s ss    <- e ee se psk
 */
#ifndef SV_PROTO_NOISE_H
#define SV_PROTO_NOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/aead.h"
#include "crypto/hash.h"
#include "crypto/keys.h"

enum {
    SV_NOISE_MESSAGE1 = 32 + 48 + 16, /* e, encrypted s, tag of the payload */
    SV_NOISE_MESSAGE2 = 32 + 16,      /* e, tag of the payload */
};

/* Noise section 5.2. */
struct sv_symmetric {
    uint8_t ck[SV_HASH], h[SV_HASH], k[SV_AEAD_KEY];
    uint64_t n;
    bool has_key;
};

void sv_symmetric_init(struct sv_symmetric *s, const char *protocol_name);
void sv_symmetric_mix_hash(struct sv_symmetric *s, const void *bytes, size_t len);
void sv_symmetric_mix_key(struct sv_symmetric *s, const void *input, size_t len);
void sv_symmetric_mix_key_and_hash(struct sv_symmetric *s, const uint8_t psk[SV_KEY]);
/* dst gets len (+ 16 once a key exists). */
int sv_symmetric_encrypt_and_hash(struct sv_symmetric *s, uint8_t *dst, const uint8_t *src, size_t len);
/* src has len bytes, the tag included once a key exists. SV_E_AUTH leaves h as it was. */
int sv_symmetric_decrypt_and_hash(struct sv_symmetric *s, uint8_t *dst, const uint8_t *src, size_t len);
void sv_symmetric_split(const struct sv_symmetric *s, uint8_t c1[SV_AEAD_KEY], uint8_t c2[SV_AEAD_KEY]);

struct sv_noise {
    struct sv_symmetric symmetric;
    uint8_t s_private[SV_KEY], s_public[SV_KEY];
    uint8_t e_private[SV_KEY], e_public[SV_KEY];
    uint8_t rs[SV_KEY], re[SV_KEY]; /* the peer's, as far as known */
    uint8_t psk[SV_KEY];
    bool initiator, has_psk;
    bool fixed_ephemeral; /* tests only: e was set by sv_noise_fix_ephemeral */
};

struct sv_noise_config {
    bool initiator;
    const uint8_t *s_private; /* own static key, 32 bytes */
    const uint8_t *s_public;  /* its public half; NULL: computed, which costs a multiplication */
    const uint8_t *rs;        /* responder's static key: given to the initiator, NULL for the responder */
    const uint8_t *psk;       /* NULL: IK; else IKpsk2 */
    const void *prologue;
    size_t prologue_len;
};

void sv_noise_init(struct sv_noise *noise, const struct sv_noise_config *config);
void sv_noise_fix_ephemeral(struct sv_noise *noise, const uint8_t e_private[SV_KEY]);

/* Initiator: message 1, payload_len + SV_NOISE_MESSAGE1 bytes to dst. */
int sv_noise_write1(struct sv_noise *noise, uint8_t *dst, const void *payload, size_t payload_len);
/* Responder: opens message 1; payload gets len - SV_NOISE_MESSAGE1 bytes; rs is known afterwards. SV_E_MALFORMED, SV_E_AUTH. */
int sv_noise_read1(struct sv_noise *noise, uint8_t *payload, const uint8_t *message, size_t len);
/* Responder: message 2, payload_len + SV_NOISE_MESSAGE2 bytes to dst. */
int sv_noise_write2(struct sv_noise *noise, uint8_t *dst, const void *payload, size_t payload_len);
/* Initiator: payload gets len - SV_NOISE_MESSAGE2 bytes. */
int sv_noise_read2(struct sv_noise *noise, uint8_t *payload, const uint8_t *message, size_t len);

/* After message 2: the two transport keys by direction and the handshake hash. Then call clear. */
void sv_noise_finish(const struct sv_noise *noise, uint8_t send_key[SV_AEAD_KEY],
                     uint8_t receive_key[SV_AEAD_KEY], uint8_t hash[SV_HASH]);

/* Wipes everything. */
void sv_noise_clear(struct sv_noise *noise);

#endif
