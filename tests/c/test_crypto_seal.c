/* XChaCha20-Poly1305 gives the vectors' bytes; what is sealed opens only whole, unchanged and under the same
 * key and data. */
#include "tests/c/check.h"

#include <smartvpn/base.h>

#include "crypto/keys.h"
#include "crypto/seal.h"
#include "xchacha20_vectors.h"

enum { TAG = SV_SEAL_OVERHEAD - SV_SEAL_NONCE };

static void check_vector(size_t i)
{
    uint8_t out[1024];
    struct vector_bytes sealed = xchacha20_vectors[i].sealed, text = xchacha20_vectors[i].text;
    struct vector_bytes ad = xchacha20_vectors[i].ad;
    const uint8_t *key = xchacha20_vectors[i].key.p, *nonce = xchacha20_vectors[i].nonce.p;
    int status = sv_xaead_open(out, key, nonce, ad.p, ad.len, sealed.p, sealed.len - TAG);
    CHECK_EQ(status, xchacha20_vectors[i].valid ? 0 : SV_E_AUTH);
    if (xchacha20_vectors[i].valid) {
        CHECK_MEM(out, text.p, text.len);
        sv_xaead_seal(out, key, nonce, ad.p, ad.len, text.p, text.len);
        CHECK_MEM(out, sealed.p, sealed.len);
    }
}

/* The interface takes nonces of 24 bytes only: what has another size cannot be passed, and the file says it
 * is invalid. */
static void wycheproof(void)
{
    size_t by_size = 0, valid = 0, invalid = 0;
    for (size_t i = 0; i < sizeof xchacha20_vectors / sizeof *xchacha20_vectors; i++) {
        if (xchacha20_vectors[i].nonce.len != SV_SEAL_NONCE) {
            CHECK(!xchacha20_vectors[i].valid);
            by_size++;
            continue;
        }
        check_vector(i);
        xchacha20_vectors[i].valid ? valid++ : invalid++;
    }
    CHECK_EQ(valid, 246);
    CHECK_EQ(invalid, 60);
    CHECK_EQ(by_size, 9);
}

static void sealed_layout_and_fresh_nonces(void)
{
    uint8_t key[32] = {1}, one[SV_SEAL_OVERHEAD + 6], two[sizeof one], out[6];
    sv_seal(one, key, "ad", 2, (const uint8_t *)"secret", 6);
    sv_seal(two, key, "ad", 2, (const uint8_t *)"secret", 6);
    CHECK(memcmp(one, two, SV_SEAL_NONCE) != 0);
    CHECK_EQ(sv_xaead_open(out, key, one, "ad", 2, one + SV_SEAL_NONCE, 6), 0);
    CHECK_MEM(out, "secret", 6);
    CHECK_EQ(sv_unseal(out, key, "ad", 2, two, sizeof two), 0);
    CHECK_MEM(out, "secret", 6);
}

static void empty_secret(void)
{
    uint8_t key[32] = {1}, sealed[SV_SEAL_OVERHEAD], out[1] = {0xa5};
    sv_seal(sealed, key, NULL, 0, out, 0);
    CHECK_EQ(sv_unseal(out, key, NULL, 0, sealed, sizeof sealed), 0);
    CHECK_EQ(out[0], 0xa5);
}

static void changes_are_refused(void)
{
    uint8_t key[32] = {1}, other[32] = {2}, sealed[SV_SEAL_OVERHEAD + 32], secret[32], out[32];
    sv_random(secret, sizeof secret);
    sv_seal(sealed, key, "hub", 3, secret, sizeof secret);
    for (size_t bit = 0; bit < sizeof sealed * 8; bit++) {
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK_EQ(sv_unseal(out, key, "hub", 3, sealed, sizeof sealed), SV_E_AUTH);
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t len = 0; len < sizeof sealed; len++) {
        CHECK_EQ(sv_unseal(out, key, "hub", 3, sealed, len), SV_E_AUTH);
    }
    CHECK_EQ(sv_unseal(out, other, "hub", 3, sealed, sizeof sealed), SV_E_AUTH);
    CHECK_EQ(sv_unseal(out, key, "psk", 3, sealed, sizeof sealed), SV_E_AUTH);
    CHECK_EQ(sv_unseal(out, key, "hub", 3, sealed, sizeof sealed), 0);
    CHECK_MEM(out, secret, sizeof secret);
}

int main(void)
{
    CHECK_EQ(sv_crypto_init(), 0);
    RUN(wycheproof);
    RUN(sealed_layout_and_fresh_nonces);
    RUN(empty_secret);
    RUN(changes_are_refused);
    return CHECK_DONE("crypto_seal");
}
