/* WireGuard's messages have the bytes that section 5.4 of its paper says: expected values are of Python's hashlib and of libsodium's XChaCha20-Poly1305,
 * put together by the paper's formulas. */
#include "tests/c/check.h"

#include <smartvpn/base.h>

#include "base/clock.h"
#include "proto/wg_message.h"
#include "proto/wg_peer.h"

/* first, first + 1, … */
static void count_up(uint8_t *bytes, size_t len, uint8_t first)
{
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)(first + i);
    }
}

static void keys_of(struct sv_wg_mac_keys *keys)
{
    uint8_t public_key[SV_KEY];

    count_up(public_key, sizeof public_key, 0);
    sv_wg_mac_keys(keys, public_key);
}

/* HASH(LABEL-MAC1 ‖ S_pub), HASH(LABEL-COOKIE ‖ S_pub). */
static void mac_keys(void)
{
    static const uint8_t mac1[] = {0x4f, 0xb2, 0x52, 0x7a, 0xc9, 0x56, 0x00, 0x15, 0x53, 0xdc, 0x1a,
                                   0xd9, 0xb5, 0x51, 0x71, 0xb7, 0xd9, 0xda, 0xa3, 0xde, 0x1c, 0xdb,
                                   0xcd, 0x71, 0x45, 0x18, 0x30, 0x17, 0x0c, 0x7e, 0x6c, 0xac};
    static const uint8_t cookie[] = {0x3d, 0xd5, 0x86, 0x9c, 0x52, 0x02, 0xe4, 0x51, 0x46, 0x93, 0x6d,
                                     0x16, 0x44, 0xf7, 0x6f, 0xf6, 0x97, 0x06, 0x16, 0x61, 0xc1, 0x81,
                                     0xf3, 0xfd, 0x45, 0x0e, 0xae, 0x43, 0x93, 0x2e, 0xac, 0xec};
    struct sv_wg_mac_keys keys;

    keys_of(&keys);
    CHECK_MEM(keys.mac1, mac1, sizeof mac1);
    CHECK_MEM(keys.cookie, cookie, sizeof cookie);
}

/* mac1 of all before it; mac2, under the cookie, of all before that. */
static void macs(void)
{
    static const struct {
        size_t len;
        uint8_t mac1[SV_WG_MAC], mac2[SV_WG_MAC];
    } cases[] = {
        {SV_WG_INITIATION_SIZE,
         {0x3a, 0x7d, 0x1b, 0x86, 0x5f, 0x06, 0x2f, 0x4a, 0xf4, 0x67, 0x7f, 0x1d, 0x88, 0xd7, 0xea, 0x74},
         {0x0a, 0x83, 0xd0, 0x78, 0x47, 0xbc, 0x98, 0xd2, 0x9c, 0xdf, 0xc1, 0xa6, 0x23, 0x8a, 0x73, 0x7a}},
        {SV_WG_RESPONSE_SIZE,
         {0x80, 0x05, 0xf0, 0xec, 0x50, 0x9e, 0xde, 0x69, 0xd8, 0x1a, 0x48, 0xd2, 0xb1, 0xb6, 0x97, 0x7c},
         {0xd0, 0x7c, 0x87, 0xe6, 0xa1, 0xde, 0xd3, 0x5b, 0x27, 0xe8, 0x31, 0xdc, 0x0e, 0xd2, 0x13, 0xb7}},
    };
    static const uint8_t none[SV_WG_MAC];
    uint8_t message[SV_WG_HANDSHAKE_MAX], cookie[SV_WG_MAC];
    struct sv_wg_mac_keys keys;

    keys_of(&keys);
    count_up(cookie, sizeof cookie, 100);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len = cases[i].len;

        count_up(message, len, 0);
        sv_wg_put_macs(message, len, &keys, cookie);
        CHECK_MEM(message + len - 32, cases[i].mac1, SV_WG_MAC);
        CHECK_MEM(message + len - 16, cases[i].mac2, SV_WG_MAC);
        CHECK(sv_wg_check_mac1(message, len, &keys));
        sv_wg_put_macs(message, len, &keys, NULL);
        CHECK_MEM(message + len - 32, cases[i].mac1, SV_WG_MAC);
        CHECK_MEM(message + len - 16, none, SV_WG_MAC);
        for (size_t at = 0; at < len - 16; at++) {
            message[at] ^= 1;
            CHECK(!sv_wg_check_mac1(message, len, &keys));
            message[at] ^= 1;
        }
    }
}

/* MAC(R, address and port). */
static void cookie_of_a_source(void)
{
    static const uint8_t source[] = {0xca, 0x6c, 10, 0, 0, 1};
    static const uint8_t expected[] = {0x84, 0x8d, 0xf1, 0x1f, 0xaa, 0x12, 0xd0, 0xe2,
                                       0xbe, 0x4e, 0xd6, 0xfb, 0x0b, 0x4f, 0x44, 0x27};
    struct sv_wg_cookie_jar jar = {.made_at = SV_NS_PER_S};
    uint8_t cookie[SV_WG_MAC];

    count_up(jar.secret, sizeof jar.secret, 200);
    sv_wg_make_cookie(&jar, 121 * SV_NS_PER_S - 1, source, sizeof source, cookie);
    CHECK_MEM(cookie, expected, sizeof expected);
    sv_wg_make_cookie(&jar, 121 * SV_NS_PER_S, source, sizeof source,
                      cookie); /* two minutes: another secret */
    CHECK(memcmp(cookie, expected, sizeof expected) != 0);
}

/* XAEAD(HASH(LABEL-COOKIE ‖ S_pub), nonce, cookie, mac1 of what is answered). */
static void cookie_reply(void)
{
    static const uint8_t sealed[] = {0x36, 0x03, 0xae, 0x4e, 0x73, 0x27, 0x6c, 0xe5, 0x37, 0xa4, 0x7f,
                                     0x3e, 0x8f, 0xfa, 0x27, 0x0f, 0xdd, 0x79, 0xa9, 0x9b, 0xc2, 0xce,
                                     0x20, 0xe5, 0xf8, 0x2b, 0xd0, 0xe4, 0x84, 0xc6, 0xc5, 0x3e};
    uint8_t message[SV_WG_COOKIE_SIZE] = {SV_WG_COOKIE, 0, 0, 0, 1, 2, 3, 4}, value[SV_WG_MAC];
    struct sv_wg_cookie cookie = {.asked = true};
    struct sv_wg_mac_keys keys;

    keys_of(&keys);
    count_up(cookie.last_mac1, sizeof cookie.last_mac1, 0);
    count_up(message + 8, 24, 0);
    memcpy(message + 32, sealed, sizeof sealed);
    CHECK_EQ(sv_wg_receiver(message), 0x04030201);
    CHECK_EQ(sv_wg_read_cookie(&cookie, SV_NS_PER_S, message, &keys), 0);
    count_up(value, sizeof value, 50);
    CHECK_MEM(cookie.value, value, sizeof value);
    CHECK_EQ(cookie.until, 121 * SV_NS_PER_S);
}

/* TAI64N, with a grain of 2^24 ns. */
static void timestamps(void)
{
    static const struct {
        uint64_t unix_ns;
        uint8_t expected[SV_WG_TIMESTAMP];
    } cases[] = {
        {0, {0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x00, 0x00, 0x00, 0x00}},
        {UINT64_C(1700000000123456789),
         {0x40, 0x00, 0x00, 0x00, 0x65, 0x53, 0xf1, 0x0a, 0x07, 0x00, 0x00, 0x00}},
        {UINT64_C(1700000000999999999),
         {0x40, 0x00, 0x00, 0x00, 0x65, 0x53, 0xf1, 0x0a, 0x3b, 0x00, 0x00, 0x00}},
    };
    uint8_t timestamp[SV_WG_TIMESTAMP];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sv_wg_timestamp(timestamp, cases[i].unix_ns);
        CHECK_MEM(timestamp, cases[i].expected, sizeof timestamp);
    }
}

/* By the first four bytes and the length alone. */
static void types(void)
{
    static const size_t sizes[] = {[SV_WG_INITIATION] = 148, [SV_WG_RESPONSE] = 92, [SV_WG_COOKIE] = 64};
    uint8_t message[256] = {0};

    for (size_t len = 0; len < sizeof message; len++) {
        for (uint8_t type = 0; type < 8; type++) {
            bool right = type == SV_WG_DATA ? len >= 32 : type > 0 && type < SV_WG_DATA && len == sizes[type];

            message[0] = type;
            CHECK_EQ(sv_wg_type(message, len), right ? type : SV_WG_NONE);
            for (size_t i = 1; i < 4; i++) {
                message[i] = 1;
                CHECK_EQ(sv_wg_type(message, len), SV_WG_NONE);
                message[i] = 0;
            }
        }
    }
}

static void data_header(void)
{
    static const uint8_t expected[] = {4, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 8, 7, 6, 5, 4, 3, 2, 1};
    uint8_t header[SV_WG_DATA_HEADER];

    sv_wg_put_data_header(header, 0x11223344, UINT64_C(0x0102030405060708));
    CHECK_MEM(header, expected, sizeof expected);
    CHECK_EQ(sv_wg_receiver(header), 0x11223344);
    CHECK_EQ(sv_wg_counter(header), UINT64_C(0x0102030405060708));
}

/* Multiples of 16, but never over the MTU. */
static void padding(void)
{
    CHECK_EQ(sv_wg_padded(0, 1420), 0);
    CHECK_EQ(sv_wg_padded(1, 1420), 16);
    CHECK_EQ(sv_wg_padded(16, 1420), 16);
    CHECK_EQ(sv_wg_padded(1408, 1420), 1408);
    CHECK_EQ(sv_wg_padded(1409, 1420), 1420);
    CHECK_EQ(sv_wg_padded(1420, 1420), 1420);
    CHECK_EQ(sv_wg_padded(1500, 1420), 1500);
}

int main(void)
{
    sv_crypto_init();
    RUN(mac_keys);
    RUN(macs);
    RUN(cookie_of_a_source);
    RUN(cookie_reply);
    RUN(timestamps);
    RUN(types);
    RUN(data_header);
    RUN(padding);
    return CHECK_DONE("proto_wg_message");
}
