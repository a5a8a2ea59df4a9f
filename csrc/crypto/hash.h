/* BLAKE2s (RFC 7693), HMAC and HKDF over it as Noise section 4.3 has them. */
#ifndef SV_CRYPTO_HASH_H
#define SV_CRYPTO_HASH_H

#include <stddef.h>
#include <stdint.h>

enum { SV_HASH = 32 };

/* One piece of the input of a hash. */
struct sv_piece {
    const void *bytes;
    size_t len;
};

void sv_hash(uint8_t out[SV_HASH], const struct sv_piece *pieces, size_t count);

/* Keyed BLAKE2s with out_len 1..32 bytes (WireGuard's MAC has 16); key_len 0..32, 0 being unkeyed. */
void sv_hash_keyed(uint8_t *out, size_t out_len, const void *key, size_t key_len, const void *in, size_t len);

/* HMAC-BLAKE2s (RFC 2104, block length 64). */
void sv_hmac(uint8_t out[SV_HASH], const uint8_t *key, size_t key_len, const struct sv_piece *pieces,
             size_t count);

/* HKDF(chaining key, input) → one to three outputs; out2 and out3 may be NULL from the right. */
void sv_hkdf(const uint8_t ck[SV_HASH], const void *input, size_t len, uint8_t out1[SV_HASH], uint8_t *out2,
             uint8_t *out3);

#endif
