/* BLAKE2s gives the values of RFC 7693 and of the BLAKE2 authors' keyed test file; HMAC and HKDF follow from
 * their definitions. */
#include "tests/c/check.h"

#include <pthread.h>
#include <stdlib.h>

#include "crypto/hash.h"
#include "crypto/keys.h"

static void unhex(uint8_t *dst, const char *hex)
{
    for (; *hex; hex += 2) {
        char digits[3] = {hex[0], hex[1], 0};
        *dst++ = (uint8_t)strtoul(digits, NULL, 16);
    }
}

static void rfc7693_appendix_b(void)
{
    uint8_t want[SV_HASH], out[SV_HASH];
    unhex(want, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
    sv_hash(out, &(struct sv_piece){"abc", 3}, 1);
    CHECK_MEM(out, want, sizeof out);
}

static void empty_input(void)
{
    uint8_t want[SV_HASH], out[SV_HASH];
    unhex(want, "69217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9");
    sv_hash(out, NULL, 0);
    CHECK_MEM(out, want, sizeof out);
    sv_hash(out, &(struct sv_piece){NULL, 0}, 1);
    CHECK_MEM(out, want, sizeof out);
}

/* RFC 7693 appendix E: all lengths of digest, key and input at once, hashed into one value. */
static void selftest_sequence(uint8_t *dst, size_t len, uint32_t seed)
{
    uint32_t a = 0xDEAD4BADU * seed, b = 1;
    for (size_t i = 0; i < len; i++) {
        uint32_t t = a + b;
        a = b;
        b = t;
        dst[i] = (uint8_t)(t >> 24);
    }
}

static void rfc7693_appendix_e(void)
{
    static const size_t digest_lengths[] = {16, 20, 28, 32}, input_lengths[] = {0, 3, 64, 65, 255, 1024};
    uint8_t want[SV_HASH], in[1024], digest[SV_HASH], digest_key[SV_HASH], got[SV_HASH];
    static uint8_t trace[4 * 6 * 2 * SV_HASH];
    size_t used = 0;
    unhex(want, "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe");
    for (size_t i = 0; i < 4; i++) {
        size_t out_len = digest_lengths[i];
        selftest_sequence(digest_key, out_len, (uint32_t)out_len);
        for (size_t j = 0; j < 6; j++) {
            size_t len = input_lengths[j];
            selftest_sequence(in, len, (uint32_t)len);
            sv_hash_keyed(digest, out_len, NULL, 0, in, len);
            memcpy(trace + used, digest, out_len);
            used += out_len;
            sv_hash_keyed(digest, out_len, digest_key, out_len, in, len);
            memcpy(trace + used, digest, out_len);
            used += out_len;
        }
    }
    sv_hash(got, &(struct sv_piece){trace, used}, 1);
    CHECK_MEM(got, want, sizeof got);
}

/* blake2s-kat.txt: key 00..1f, inputs 00 01 02 … of the lengths given. */
static void keyed_kat(void)
{
    static const struct {
        size_t len;
        const char *digest;
    } kat[] = {
        {0, "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49"},
        {1, "40d15fee7c328830166ac3f918650f807e7e01e177258cdc0a39b11f598066f1"},
        {2, "6bb71300644cd3991b26ccd4d274acd1adeab8b1d7914546c1198bbe9fc9d803"},
        {64, "8975b0577fd35566d750b362b0897a26c399136df07bababbde6203ff2954ed4"},
        {255, "3fb735061abc519dfe979e54c1ee5bfad0a9d858b3315bad34bde999efd724dd"},
    };
    uint8_t key[32], in[255], want[SV_HASH], out[SV_HASH];
    for (size_t i = 0; i < sizeof in; i++) {
        in[i] = (uint8_t)i;
    }
    memcpy(key, in, sizeof key);
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        unhex(want, kat[i].digest);
        sv_hash_keyed(out, sizeof out, key, sizeof key, in, kat[i].len);
        CHECK_MEM(out, want, sizeof out);
    }
}

/* A short MAC is a digest of its own, not the head of a long one, and nothing is written behind it. */
static void short_mac(void)
{
    uint8_t key[32] = {1}, shorter[SV_HASH], longer[SV_HASH];
    memset(shorter, 0xa5, sizeof shorter);
    sv_hash_keyed(shorter, 16, key, sizeof key, "in", 2);
    sv_hash_keyed(longer, 32, key, sizeof key, "in", 2);
    CHECK(memcmp(shorter, longer, 16) != 0);
    for (size_t i = 16; i < sizeof shorter; i++) {
        CHECK_EQ(shorter[i], 0xa5);
    }
}

/* However an input is cut into pieces, its hash is one. */
static void pieces(void)
{
    uint8_t in[200], whole[SV_HASH], cut[SV_HASH], whole_mac[SV_HASH], cut_mac[SV_HASH];
    sv_random(in, sizeof in);
    for (size_t at = 0; at <= sizeof in; at++) {
        struct sv_piece one = {in, sizeof in}, two[] = {{in, at}, {in + at, sizeof in - at}};
        sv_hash(whole, &one, 1);
        sv_hash(cut, two, 2);
        CHECK_MEM(whole, cut, SV_HASH);
        sv_hmac(whole_mac, in, 32, &one, 1);
        sv_hmac(cut_mac, in, 32, two, 2);
        CHECK_MEM(whole_mac, cut_mac, SV_HASH);
    }
}

/* RFC 2104 written out: H(key ^ opad, H(key ^ ipad, text)), with a longer key hashed first. */
static void hmac_by_definition(void)
{
    static const size_t key_lengths[] = {0, 1, 31, 32, 63, 64, 65, 200};
    uint8_t key[200], text[300], want[SV_HASH], got[SV_HASH], inner[SV_HASH];
    sv_random(key, sizeof key);
    sv_random(text, sizeof text);
    for (size_t i = 0; i < sizeof key_lengths / sizeof *key_lengths; i++) {
        uint8_t block[64] = {0}, ipad[64], opad[64];
        size_t key_len = key_lengths[i];
        if (key_len > 64) {
            sv_hash(block, &(struct sv_piece){key, key_len}, 1);
        } else {
            memcpy(block, key, key_len);
        }
        for (size_t b = 0; b < 64; b++) {
            ipad[b] = block[b] ^ 0x36;
            opad[b] = block[b] ^ 0x5c;
        }
        sv_hash(inner, (struct sv_piece[]){{ipad, 64}, {text, sizeof text}}, 2);
        sv_hash(want, (struct sv_piece[]){{opad, 64}, {inner, sizeof inner}}, 2);
        sv_hmac(got, key, key_len, &(struct sv_piece){text, sizeof text}, 1);
        CHECK_MEM(got, want, SV_HASH);
    }
}

/* Values of Python's hmac and hashlib.blake2s. */
static void hmac_and_hkdf_values(void)
{
    uint8_t key[32], want[3][SV_HASH], got[3][SV_HASH];
    for (size_t i = 0; i < sizeof key; i++) {
        key[i] = (uint8_t)i;
    }
    unhex(want[0], "03f696e1a129dbfe9f72848f273d71d521751d1f393bc725d86fff089db07894");
    sv_hmac(got[0], key, sizeof key, &(struct sv_piece){"what do ya want", 15}, 1);
    CHECK_MEM(got[0], want[0], SV_HASH);
    unhex(want[0], "87b7f70b24183c6db5dc4f6d9f4c47cdb203321aa2a0bef714896adb3107a040");
    unhex(want[1], "538a02e1eb2e31b7e4d4b82476d1fe2acf50085d3fb584537279195f5d1f5824");
    unhex(want[2], "9ad858025593be88de0f9442a589cfe84a88dc19e4753d93684d1c5efc4837f9");
    sv_hkdf(key, "input", 5, got[0], got[1], got[2]);
    CHECK_MEM(got, want, sizeof got);
}

/* The outputs asked for do not depend on how many are, and the first may replace the chaining key. */
static void hkdf_outputs(void)
{
    uint8_t ck[SV_HASH] = {7}, in[32] = {9}, all[3][SV_HASH], two[2][SV_HASH], one[SV_HASH];
    sv_hkdf(ck, in, sizeof in, all[0], all[1], all[2]);
    sv_hkdf(ck, in, sizeof in, two[0], two[1], NULL);
    sv_hkdf(ck, in, sizeof in, one, NULL, NULL);
    CHECK_MEM(all, two, sizeof two);
    CHECK_MEM(all, one, sizeof one);
    sv_hkdf(ck, in, sizeof in, ck, two[1], NULL);
    CHECK_MEM(ck, all[0], SV_HASH);
    CHECK_MEM(two[1], all[1], SV_HASH);
    sv_hkdf(all[0], NULL, 0, one, NULL, NULL);
    sv_hkdf(all[0], "", 0, two[0], NULL, NULL);
    CHECK_MEM(one, two[0], SV_HASH);
}

static void *hash_many(void *wrong)
{
    uint8_t first[SV_HASH], again[SV_HASH], in[150] = {3};
    sv_hash_keyed(first, 32, in, 32, in, sizeof in);
    for (int i = 0; i < 2000; i++) {
        sv_hash_keyed(again, 32, in, 32, in, sizeof in);
        *(int *)wrong += memcmp(first, again, sizeof first) != 0;
    }
    return NULL;
}

static void threads(void)
{
    pthread_t ids[4];
    int wrong[4] = {0};
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(pthread_create(&ids[i], NULL, hash_many, &wrong[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(pthread_join(ids[i], NULL), 0);
        CHECK_EQ(wrong[i], 0);
    }
}

int main(void)
{
    if (sv_crypto_init() != 0) {
        return 1;
    }
    RUN(rfc7693_appendix_b);
    RUN(empty_input);
    RUN(rfc7693_appendix_e);
    RUN(keyed_kat);
    RUN(short_mac);
    RUN(pieces);
    RUN(hmac_by_definition);
    RUN(hmac_and_hkdf_values);
    RUN(hkdf_outputs);
    RUN(threads);
    return CHECK_DONE("crypto_hash");
}
