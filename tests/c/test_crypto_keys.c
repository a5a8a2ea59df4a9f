/* X25519 gives the vectors' values, refuses shared secrets of all zeros, and the small tools do what they
 * say. */
#include "tests/c/check.h"

#include <smartvpn/base.h>
#include <smartvpn/keys.h>

#include "crypto/keys.h"
#include "x25519_vectors.h"

static const uint8_t zeros[SV_KEY];

static void wycheproof(void)
{
    size_t agreed = 0, refused = 0;
    for (size_t i = 0; i < sizeof x25519_vectors / sizeof *x25519_vectors; i++) {
        uint8_t shared[SV_KEY];
        const uint8_t *want = x25519_vectors[i].shared.p;
        memset(shared, 0xa5, sizeof shared);
        int status = sv_x25519(shared, x25519_vectors[i].private_key.p, x25519_vectors[i].public_key.p);
        bool zero = memcmp(want, zeros, sizeof zeros) == 0;
        CHECK_EQ(x25519_vectors[i].shared.len, SV_KEY);
        CHECK_EQ(status, zero ? SV_E_AUTH : 0);
        CHECK_MEM(shared, want, SV_KEY);
        zero ? refused++ : agreed++;
    }
    CHECK_EQ(agreed + refused, 518);
    CHECK(refused >= 12);
}

/* RFC 7748, section 6.1. */
static void rfc7748(void)
{
    static const uint8_t alice[SV_KEY] = {0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1,
                                          0x72, 0x51, 0xb2, 0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0,
                                          0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a};
    static const uint8_t alice_public[SV_KEY] = {
        0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a,
        0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a};
    uint8_t public_key[SV_KEY];
    sv_x25519_public(public_key, alice);
    CHECK_MEM(public_key, alice_public, SV_KEY);
}

static void generated_keys_agree(void)
{
    for (int i = 0; i < 50; i++) {
        uint8_t a[SV_KEY], a_public[SV_KEY], b[SV_KEY], b_public[SV_KEY], ab[SV_KEY], ba[SV_KEY];
        sv_x25519_generate(a, a_public);
        sv_x25519_generate(b, b_public);
        CHECK_EQ(a[0] & 7, 0);
        CHECK_EQ(a[31] & 0xc0, 0x40);
        CHECK(memcmp(a, b, SV_KEY) != 0);
        CHECK_EQ(sv_x25519(ab, a, b_public), 0);
        CHECK_EQ(sv_x25519(ba, b, a_public), 0);
        CHECK_MEM(ab, ba, SV_KEY);
        sv_x25519_public(ab, a);
        CHECK_MEM(ab, a_public, SV_KEY);
    }
}

/* Every single bit matters, at the length that has a path of its own and at others. */
static void equality(void)
{
    static const size_t lengths[] = {1, 15, 16, 17, 32, 33};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t a[33], b[33];
        sv_random(a, sizeof a);
        memcpy(b, a, sizeof b);
        CHECK(sv_equal(a, b, lengths[i]));
        for (size_t bit = 0; bit < lengths[i] * 8; bit++) {
            b[bit / 8] ^= (uint8_t)(1 << bit % 8);
            CHECK(!sv_equal(a, b, lengths[i]));
            b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
    CHECK(sv_equal("a", "b", 0));
}

static void wiping_stays_inside(void)
{
    uint8_t bytes[40];
    memset(bytes, 0xa5, sizeof bytes);
    sv_wipe(bytes + 4, SV_KEY);
    CHECK_MEM(bytes + 4, zeros, SV_KEY);
    CHECK_EQ(bytes[3], 0xa5);
    CHECK_EQ(bytes[36], 0xa5);
}

static void keys_as_text(void)
{
    uint8_t private_key[SV_KEY_SIZE], public_key[SV_KEY_SIZE], back[SV_KEY_SIZE];
    char text[SV_KEY_TEXT_SIZE];

    CHECK_EQ(sv_keypair_generate(private_key, public_key), 0);
    sv_key_format(text, public_key);
    CHECK_EQ(strlen(text), SV_KEY_TEXT_SIZE - 1);
    CHECK_EQ(sv_key_parse(back, text), 0);
    CHECK_MEM(back, public_key, SV_KEY_SIZE);
    CHECK_EQ(sv_keypair_public(back, private_key), 0);
    CHECK_MEM(back, public_key, SV_KEY_SIZE);
}

static void what_is_no_key(void)
{
    static const char *const wrong[] = {
        "",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= ",
        " AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "AAAAAAAAAAAAAAAAAAAAA-_AAAAAAAAAAAAAAAAAAAA=",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    };
    uint8_t key[SV_KEY_SIZE];

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK_EQ(sv_key_parse(key, wrong[i]), SV_E_INVALID);
    }
}

int main(void)
{
    CHECK_EQ(sv_crypto_init(), 0);
    CHECK_EQ(sv_crypto_init(), 0);
    RUN(wycheproof);
    RUN(rfc7748);
    RUN(generated_keys_agree);
    RUN(equality);
    RUN(wiping_stays_inside);
    RUN(keys_as_text);
    RUN(what_is_no_key);
    return CHECK_DONE("crypto_keys");
}
