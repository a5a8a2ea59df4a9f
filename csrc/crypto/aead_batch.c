#include "crypto/aead_batch.h"

#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include <smartvpn/base.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "crypto/aead_impl.h"
#include "crypto/keys.h"
#include "crypto/keystream.h"

enum {
    PAGE = 4096,
    MAC_BLOCK = 16,
    WORTH_BLOCKS = 16, /* fewer are faster one by one */
};

struct sv_aead_batch {
    _Alignas(SV_KEYSTREAM_BLOCK) uint8_t streams[SV_AEAD_BATCH_BLOCKS * SV_KEYSTREAM_BLOCK];
    const uint8_t *key;    /* NULL: nothing is to come */
    uint64_t next, end;    /* counters that are to come and have no keystream yet */
    uint64_t first;        /* the counter of the first keystream there is */
    uint32_t made, blocks; /* keystreams, blocks of each */
};

_Static_assert(SV_AEAD_BATCH_BLOCKS % SV_KEYSTREAM_LANES == 0, "what is made is rounded up to the lanes");

static bool chosen;

static struct sv_aead_batch *make_batch(void)
{
    struct sv_aead_batch *batch = aligned_alloc(PAGE, (sizeof *batch + PAGE - 1) / PAGE * PAGE);

    if (batch) {
        memset(batch, 0, sizeof *batch);
        sodium_mlock(batch, sizeof *batch);
    }
    return batch;
}

struct sv_aead_batch *sv_aead_batch_new(void)
{
    return chosen ? make_batch() : NULL;
}

void sv_aead_batch_free(struct sv_aead_batch *batch)
{
    if (batch) {
        sodium_munlock(batch, sizeof *batch); /* which wipes */
        free(batch);
    }
}

/* ---- what is to come ---- */

/* Block 0 makes the key of Poly1305 (RFC 8439, section 2.6). */
static size_t blocks_of(size_t len)
{
    return 1 + (len + SV_KEYSTREAM_BLOCK - 1) / SV_KEYSTREAM_BLOCK;
}

void sv_aead_batch_begin(struct sv_aead_batch *batch, const uint8_t key[SV_AEAD_KEY], uint64_t counter,
                         size_t count, size_t len)
{
    size_t blocks = blocks_of(len);

    if (batch) {
        batch->key = blocks <= SV_AEAD_BATCH_BLOCKS && blocks * count >= WORTH_BLOCKS ? key : NULL;
        batch->next = batch->first = counter;
        batch->end = counter + count;
        batch->blocks = (uint32_t)blocks;
        batch->made = 0;
    }
}

void sv_aead_batch_end(struct sv_aead_batch *batch)
{
    if (batch && batch->key) {
        batch->key = NULL;
        sv_wipe(batch->streams, (size_t)batch->made * batch->blocks * SV_KEYSTREAM_BLOCK);
        batch->made = 0;
    }
}

static void make(struct sv_aead_batch *batch, uint64_t counter)
{
    uint64_t left = batch->end - counter, most = SV_AEAD_BATCH_BLOCKS / batch->blocks;

    batch->first = counter;
    batch->made = (uint32_t)(left < most ? left : most);
    batch->next = counter + batch->made;
    sv_keystream_make(batch->streams, batch->key, counter, batch->blocks, batch->made);
}

bool sv_aead_batch_covers(struct sv_aead_batch *batch, const uint8_t key[SV_AEAD_KEY], uint64_t counter,
                          size_t len)
{
    if (!batch || batch->key != key || blocks_of(len) > batch->blocks) {
        return false;
    }
    if (counter >= batch->next && counter < batch->end) {
        make(batch, counter);
    }
    return counter - batch->first < batch->made;
}

static const uint8_t *stream_of(const struct sv_aead_batch *batch, uint64_t counter)
{
    return batch->streams + (counter - batch->first) * batch->blocks * SV_KEYSTREAM_BLOCK;
}

/* ---- one message ---- */

/* The tag of len bytes of ciphertext. What it is taken of (RFC 8439, section 2.8: zeros up to a multiple of 16, then both lengths) is written behind
 * them. */
static int take_tag(uint8_t tag[SV_AEAD_TAG], const uint8_t *stream, uint8_t *bytes, size_t len)
{
    size_t padded = (len + MAC_BLOCK - 1) / MAC_BLOCK * MAC_BLOCK;

    memset(bytes + len, 0, padded - len + 8);
    sv_store64le(bytes + padded + 8, len);
    return sv_ipsec_mb_poly1305(stream, bytes, padded + MAC_BLOCK, tag);
}

int sv_aead_batch_seal(struct sv_aead_batch *batch, uint64_t counter, uint8_t *dst, const uint8_t *src,
                       size_t len)
{
    const uint8_t *stream = stream_of(batch, counter);
    uint8_t tag[SV_AEAD_TAG] = {0};
    int status;

    sv_keystream_xor(dst, src, stream + SV_KEYSTREAM_BLOCK, len);
    status = take_tag(tag, stream, dst, len);
    memcpy(dst + len, tag, SV_AEAD_TAG);
    return status;
}

int sv_aead_batch_open(struct sv_aead_batch *batch, uint64_t counter, uint8_t *bytes, size_t len)
{
    const uint8_t *stream = stream_of(batch, counter);
    uint8_t tag[SV_AEAD_TAG], behind[SV_AEAD_TAG + SV_AEAD_BATCH_BEHIND];
    size_t kept = (len + MAC_BLOCK - 1) / MAC_BLOCK * MAC_BLOCK + SV_AEAD_TAG - len;
    int status;

    memcpy(behind, bytes + len, kept);
    status = take_tag(tag, stream, bytes, len);
    memcpy(bytes + len, behind, kept);
    if (status == 0 && !sv_equal(tag, behind, SV_AEAD_TAG)) {
        status = SV_E_AUTH;
    }
    sv_wipe(tag, sizeof tag); /* of a forged message it is the one that would pass */
    if (status == 0) {
        sv_keystream_xor(bytes, bytes, stream + SV_KEYSTREAM_BLOCK, len);
    }
    return status;
}

/* ---- the choice ---- */

enum { TRIED = 44, TRIED_LEN = 1420, ROUNDS = 12 };

/* A super-packet's segments, sealed and opened in either way. */
struct trial {
    struct sv_aead_batch *batch;
    const struct sv_aead_impl *one;
    uint8_t key[SV_AEAD_KEY];
    uint8_t plain[TRIED_LEN];
    uint8_t sealed[TRIED_LEN + SV_AEAD_TAG + SV_AEAD_BATCH_BEHIND], known[TRIED_LEN + SV_AEAD_TAG];
};

/* Across the end of the counter's lower word. */
static const uint64_t tried_from = UINT32_MAX - TRIED / 2;

static bool agrees(struct trial *t, uint64_t counter)
{
    uint8_t nonce[SV_AEAD_NONCE];

    sv_aead_nonce(t->one, nonce, counter);
    if (t->one->seal(t->key, nonce, NULL, 0, t->known, t->plain, TRIED_LEN) != 0 ||
        !sv_aead_batch_covers(t->batch, t->key, counter, TRIED_LEN) ||
        sv_aead_batch_seal(t->batch, counter, t->sealed, t->plain, TRIED_LEN) != 0 ||
        memcmp(t->sealed, t->known, sizeof t->known) != 0) {
        return false;
    }
    t->sealed[counter % sizeof t->known] ^= 1;
    if (sv_aead_batch_open(t->batch, counter, t->sealed, TRIED_LEN) != SV_E_AUTH) {
        return false;
    }
    t->sealed[counter % sizeof t->known] ^= 1;
    return sv_aead_batch_open(t->batch, counter, t->sealed, TRIED_LEN) == 0 &&
           memcmp(t->sealed, t->plain, TRIED_LEN) == 0;
}

static bool passes_self_test(struct trial *t)
{
    bool passes = true;

    sv_random(t->plain, sizeof t->plain);
    sv_random(t->key, sizeof t->key);
    sv_aead_batch_begin(t->batch, t->key, tried_from, TRIED, TRIED_LEN);
    for (uint64_t i = 0; i < TRIED && passes; i++) {
        passes = agrees(t, tried_from + i);
    }
    return passes;
}

static uint64_t time_batch(struct trial *t)
{
    uint64_t start = sv_clock_now();

    sv_aead_batch_begin(t->batch, t->key, 0, TRIED, TRIED_LEN);
    for (uint64_t i = 0; i < TRIED; i++) {
        sv_aead_batch_covers(t->batch, t->key, i, TRIED_LEN);
        sv_aead_batch_seal(t->batch, i, t->sealed, t->plain, TRIED_LEN);
    }
    return sv_clock_now() - start;
}

static uint64_t time_one_by_one(struct trial *t)
{
    uint8_t nonce[SV_AEAD_NONCE];
    uint64_t start = sv_clock_now();

    for (uint64_t i = 0; i < TRIED; i++) {
        sv_aead_nonce(t->one, nonce, i);
        t->one->seal(t->key, nonce, NULL, 0, t->sealed, t->plain, TRIED_LEN);
    }
    return sv_clock_now() - start;
}

static bool is_faster(struct trial *t)
{
    uint64_t best = SV_NEVER, best_one = SV_NEVER;

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t ns = time_batch(t), one = time_one_by_one(t);

        best = ns < best ? ns : best;
        best_one = one < best_one ? one : best_one;
    }
    return best < best_one;
}

bool sv_aead_batch_choose(const struct sv_aead_impl *one, bool at_any_speed)
{
    struct trial t = {.one = one};

    if (sv_keystream_works() && (t.batch = make_batch())) {
        if (sv_ipsec_mb_poly1305(t.key, t.plain, 0, t.sealed) == SV_E_UNSUPPORTED) {
            chosen = false;
        } else if (!passes_self_test(&t)) {
            sv_log(SV_LOG_ERROR, "ChaCha20-Poly1305 in batches fails its self-test and is not used");
        } else {
            chosen = at_any_speed || is_faster(&t);
        }
        sv_aead_batch_free(t.batch);
    }
    return chosen;
}
