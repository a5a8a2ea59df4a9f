/* ChaCha20's keystream (RFC 8439, section 2.4) for many messages at once.
 *
 * A message is short for a wide processor: its last blocks, and the one that Poly1305's key is made of, leave lanes idle. Blocks of messages under
 * one key differ in nonce and number only, so those of a whole train of messages fill the lanes without a gap.
 */
#ifndef SV_CRYPTO_KEYSTREAM_H
#define SV_CRYPTO_KEYSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_KEYSTREAM_BLOCK = 64, /* bytes */
    SV_KEYSTREAM_LANES = 32, /* blocks that are made together */
};

/* The processor has AVX-512 (F and BW). Where not, nothing below may be called. */
bool sv_keystream_works(void);

/* `count` keystreams of `blocks` blocks each, one behind the other, for nonces of the counters from `counter` on (Noise section 12.3, WireGuard
 * 5.4.6), each from block 0 on. Writes SV_KEYSTREAM_BLOCK bytes for each block, their number rounded up to SV_KEYSTREAM_LANES. */
void sv_keystream_make(uint8_t *dst, const uint8_t key[32], uint64_t counter, uint32_t blocks,
                       uint32_t count);

/* dst = src XOR stream; dst == src or apart. */
void sv_keystream_xor(uint8_t *dst, const uint8_t *src, const uint8_t *stream, size_t len);

#endif
