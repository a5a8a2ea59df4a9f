/* Batches seal to the bytes that libsodium makes, one message at a time, and open what it sealed; nothing forged, at any length, counter and place. */
#include "tests/c/check.h"
#include "tests/c/page_end.h"

#include <stdlib.h>
#include <unistd.h>

#include <sodium.h>

#include <smartvpn/base.h>

#include "crypto/aead_batch.h"
#include "crypto/keys.h"
#include "crypto/keystream.h"

enum { LONGEST = (SV_AEAD_BATCH_BLOCKS - 1) * SV_KEYSTREAM_BLOCK, GUARD = 0xa5, ROOM = SV_AEAD_TAG + 16 };

static struct sv_aead_batch *batch;
static uint8_t key[SV_AEAD_KEY], text[LONGEST + 1];
static uint8_t known[LONGEST + SV_AEAD_TAG], out[LONGEST + ROOM];

static void seal_known(uint64_t counter, size_t len)
{
    uint8_t nonce[SV_AEAD_NONCE];
    unsigned long long n;

    sv_aead_nonce(sv_aead, nonce, counter);
    crypto_aead_chacha20poly1305_ietf_encrypt(known, &n, text, len, NULL, 0, NULL, nonce, key);
}

static bool seals(uint64_t counter, size_t len)
{
    seal_known(counter, len);
    return sv_aead_batch_covers(batch, key, counter, len) &&
           sv_aead_batch_seal(batch, counter, out, text, len) == 0 &&
           memcmp(out, known, len + SV_AEAD_TAG) == 0;
}

/* `known` is what is to be opened; what stands behind it stays. */
static bool opens(uint64_t counter, size_t len)
{
    memset(out, GUARD, sizeof out);
    memcpy(out, known, len + SV_AEAD_TAG);
    if (!sv_aead_batch_covers(batch, key, counter, len) ||
        sv_aead_batch_open(batch, counter, out, len) != 0 || memcmp(out, text, len) != 0) {
        return false;
    }
    for (size_t i = len + SV_AEAD_TAG; i < len + ROOM; i++) {
        if (out[i] != GUARD) {
            return false;
        }
    }
    return true;
}

/* One bit changed: refused, and left as it was. */
static bool refuses(uint64_t counter, size_t len, size_t bit)
{
    static uint8_t before[sizeof out];

    memset(out, GUARD, sizeof out);
    memcpy(out, known, len + SV_AEAD_TAG);
    out[bit / 8 % (len + SV_AEAD_TAG)] ^= (uint8_t)(1 << bit % 8);
    memcpy(before, out, sizeof out);
    return sv_aead_batch_open(batch, counter, out, len) == SV_E_AUTH && memcmp(out, before, sizeof out) == 0;
}

/* Trains of as many messages as make one, two and more fillings of the batch. */
static void every_length(void)
{
    for (size_t len = 0; len <= LONGEST; len += len < 1600 ? 1 : 397) {
        size_t blocks = 2 + len / SV_KEYSTREAM_BLOCK, count = len % 3 * SV_AEAD_BATCH_BLOCKS / blocks + 17;
        uint64_t first = len % 2 ? UINT32_MAX - count / 2 : (uint64_t)len << 33;
        bool good = true;

        sv_random(key, sizeof key);
        sv_aead_batch_begin(batch, key, first, count, len);
        for (size_t i = 0; i < count && good; i += 1 + i / 8) {
            size_t n = i + 1 == count ? len / 2 : len; /* the last one may be shorter */

            good = seals(first + i, n) && opens(first + i, n) && refuses(first + i, n, i * 37 + len);
        }
        CHECK(good);
        sv_aead_batch_end(batch);
    }
}

static void every_bit(void)
{
    enum { LEN = 100 };
    size_t refused = 0;

    sv_aead_batch_begin(batch, key, 7, 40, LEN);
    CHECK(seals(8, LEN));
    for (size_t bit = 0; bit < (LEN + SV_AEAD_TAG) * 8; bit++) {
        refused += refuses(8, LEN, bit);
    }
    CHECK_EQ(refused, (LEN + SV_AEAD_TAG) * 8);
    CHECK(opens(8, LEN));
    /* The message of another counter. */
    memcpy(out, known, LEN + SV_AEAD_TAG);
    CHECK(sv_aead_batch_covers(batch, key, 9, LEN));
    CHECK_EQ(sv_aead_batch_open(batch, 9, out, LEN), SV_E_AUTH);
    sv_aead_batch_end(batch);
}

static void in_place(void)
{
    enum { LEN = 1420 };

    sv_aead_batch_begin(batch, key, 1000, 20, LEN);
    for (uint64_t i = 1000; i < 1020; i++) {
        seal_known(i, LEN);
        memcpy(out, text, LEN);
        CHECK(sv_aead_batch_covers(batch, key, i, LEN));
        CHECK_EQ(sv_aead_batch_seal(batch, i, out, out, LEN), 0);
        CHECK_MEM(out, known, LEN + SV_AEAD_TAG);
    }
    sv_aead_batch_end(batch);
}

static void what_is_covered(void)
{
    uint8_t other[SV_AEAD_KEY];

    memcpy(other, key, sizeof other);
    sv_aead_batch_begin(batch, key, 50, 100, 1420);
    CHECK(!sv_aead_batch_covers(batch, key, 49, 1420));
    CHECK(sv_aead_batch_covers(batch, key, 50, 1420));
    CHECK(!sv_aead_batch_covers(batch, key, 50, 1420 + 64));
    CHECK(!sv_aead_batch_covers(batch, other, 50, 1420)); /* it is told by its place */
    CHECK(sv_aead_batch_covers(batch, key, 149, 1420));
    CHECK(!sv_aead_batch_covers(batch, key, 150, 1420));
    CHECK(!sv_aead_batch_covers(batch, key, 50, 1420)); /* passed by */
    sv_aead_batch_end(batch);
    CHECK(!sv_aead_batch_covers(batch, key, 149, 1420));

    sv_aead_batch_begin(batch, key, 0, 2, 64); /* too few to be worth it */
    CHECK(!sv_aead_batch_covers(batch, key, 0, 64));
    sv_aead_batch_begin(batch, key, 0, 10, LONGEST + 1); /* too long */
    CHECK(!sv_aead_batch_covers(batch, key, 0, 64));
    CHECK(!sv_aead_batch_covers(NULL, key, 0, 64));
    sv_aead_batch_begin(NULL, key, 0, 10, 1420);
    sv_aead_batch_end(NULL);
}

/* Vector code that reads past a source, or writes further than was said, dies here. */
static void nothing_past_the_end(void)
{
    uint8_t *src = page_end(), *dst = page_end();

    for (size_t len = 0; len <= 1500; len += 1 + len / 50) {
        uint8_t *sealed = dst - len - SV_AEAD_TAG - (len % 16 ? 16 - len % 16 : 0);

        memcpy(src - len, text, len);
        sv_aead_batch_begin(batch, key, len, 30, len);
        CHECK(sv_aead_batch_covers(batch, key, len, len));
        CHECK_EQ(sv_aead_batch_seal(batch, len, sealed, src - len, len), 0);
        CHECK_EQ(sv_aead_batch_open(batch, len, sealed, len), 0);
        CHECK_MEM(sealed, text, len);
        sv_aead_batch_end(batch);
    }
}

int main(void)
{
    bool works = sv_keystream_works();

    unsetenv("SMARTVPN_CIPHER");
#ifdef SV_HAVE_IPSEC_MB
    setenv("SMARTVPN_AEAD", "ipsec-mb",
           1); /* whether they are faster or not: under a sanitizer they are not */
#else
    works = false;
#endif
    if (sv_crypto_init() != 0) {
        return 1;
    }
    sv_random(text, sizeof text);
    CHECK(sv_aead_batch_new() == NULL); /* before the choice */
    CHECK_EQ(sv_aead_init(), 0);
    batch = sv_aead_batch_new();
    CHECK_EQ(batch != NULL, works);
    if (batch) {
        RUN(every_length);
        RUN(every_bit);
        RUN(in_place);
        RUN(what_is_covered);
        RUN(nothing_past_the_end);
    } else {
        fprintf(stderr,
                "  -- batches are not tested: this processor has no AVX-512, or ipsec-mb was left out\n");
    }
    sv_aead_batch_free(batch);
    return CHECK_DONE("crypto_aead_batch");
}
