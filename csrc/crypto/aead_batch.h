/* ChaCha20-Poly1305 (RFC 8439) for messages whose counters follow one another under one key, without associated data, as the segments of a
 * super-packet have them: a third faster than one by one where the processor has AVX-512.
 *
 * The keystreams of as many as fit are made together (crypto/keystream.h); Poly1305 is Intel ipsec-mb's. One batch serves one thread.
 */
#ifndef SV_CRYPTO_AEAD_BATCH_H
#define SV_CRYPTO_AEAD_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/aead.h"

enum {
    SV_AEAD_BATCH_BLOCKS = 256, /* of keystream, made at once: 16 KB stay in the first cache */
    SV_AEAD_BATCH_BEHIND =
        15, /* bytes behind a tag that must be there, in case its message is no multiple of 16 long */
};

struct sv_aead_batch;

/* Whether batches are used in this process: they work here, and are faster than `one`, the chosen implementation. For sv_aead_init. */
bool sv_aead_batch_choose(const struct sv_aead_impl *one, bool at_any_speed);

/* NULL: no memory, or sv_aead_init found that it does not work here or is no faster. A NULL batch covers nothing. */
struct sv_aead_batch *sv_aead_batch_new(void);
void sv_aead_batch_free(struct sv_aead_batch *batch);

/* From here until sv_aead_batch_end, `count` messages of up to `len` bytes are to come under the key, which stays where it is. */
void sv_aead_batch_begin(struct sv_aead_batch *batch, const uint8_t key[SV_AEAD_KEY], uint64_t counter,
                         size_t count, size_t len);
void sv_aead_batch_end(struct sv_aead_batch *batch);

/* Whether the message is one of those, and the batch worth it; then its keystream is ready. */
bool sv_aead_batch_covers(struct sv_aead_batch *batch, const uint8_t key[SV_AEAD_KEY], uint64_t counter,
                          size_t len);

/* For covered messages. dst gets len + SV_AEAD_TAG bytes, dst == src or apart; the SV_AEAD_BATCH_BEHIND bytes behind them are undefined. */
int sv_aead_batch_seal(struct sv_aead_batch *batch, uint64_t counter, uint8_t *dst, const uint8_t *src,
                       size_t len);
/* In place: len bytes of ciphertext, then the tag. What is behind it stays as it is. SV_E_AUTH: the bytes are as they were. */
int sv_aead_batch_open(struct sv_aead_batch *batch, uint64_t counter, uint8_t *bytes, size_t len);

#endif
