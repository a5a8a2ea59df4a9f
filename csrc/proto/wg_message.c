#include "proto/wg_message.h"

#include <string.h>

#include <smartvpn/base.h>

#include "base/clock.h"
#include "crypto/hash.h"
#include "crypto/seal.h"

enum {
    MACS = 2 * SV_WG_MAC,
    COOKIE_NONCE_AT = 8,
    COOKIE_AT = COOKIE_NONCE_AT + SV_SEAL_NONCE,
};

#define COOKIE_LIFE_NS (120 * SV_NS_PER_S)
#define TAI64_EPOCH UINT64_C(0x400000000000000a)
#define NS_GRAIN UINT32_C(0xff000000)

enum sv_wg_type sv_wg_type(const uint8_t *message, size_t len)
{
    if (len < 4) {
        return SV_WG_NONE;
    }
    switch (sv_load32le(message)) {
    case SV_WG_INITIATION:
        return len == SV_WG_INITIATION_SIZE ? SV_WG_INITIATION : SV_WG_NONE;
    case SV_WG_RESPONSE:
        return len == SV_WG_RESPONSE_SIZE ? SV_WG_RESPONSE : SV_WG_NONE;
    case SV_WG_COOKIE:
        return len == SV_WG_COOKIE_SIZE ? SV_WG_COOKIE : SV_WG_NONE;
    case SV_WG_DATA:
        return len >= SV_WG_DATA_OVERHEAD ? SV_WG_DATA : SV_WG_NONE;
    default:
        return SV_WG_NONE;
    }
}

void sv_wg_timestamp(uint8_t dst[SV_WG_TIMESTAMP], uint64_t unix_ns)
{
    sv_store64be(dst, TAI64_EPOCH + unix_ns / SV_NS_PER_S);
    sv_store32be(dst + 8, (uint32_t)(unix_ns % SV_NS_PER_S) & NS_GRAIN);
}

/* ---- MACs ---- */

void sv_wg_mac_keys(struct sv_wg_mac_keys *keys, const uint8_t public_key[SV_KEY])
{
    sv_hash(keys->mac1, (const struct sv_piece[]){{"mac1----", 8}, {public_key, SV_KEY}}, 2);
    sv_hash(keys->cookie, (const struct sv_piece[]){{"cookie--", 8}, {public_key, SV_KEY}}, 2);
}

static void mac(uint8_t out[SV_WG_MAC], const uint8_t *key, size_t key_len, const void *bytes, size_t len)
{
    sv_hash_keyed(out, SV_WG_MAC, key, key_len, bytes, len);
}

void sv_wg_put_macs(uint8_t *message, size_t len, const struct sv_wg_mac_keys *receiver,
                    const uint8_t *cookie)
{
    uint8_t *mac1 = message + len - MACS, *mac2 = mac1 + SV_WG_MAC;

    mac(mac1, receiver->mac1, SV_KEY, message, len - MACS);
    if (cookie) {
        mac(mac2, cookie, SV_WG_MAC, message, len - SV_WG_MAC);
    } else {
        memset(mac2, 0, SV_WG_MAC);
    }
}

bool sv_wg_check_mac1(const uint8_t *message, size_t len, const struct sv_wg_mac_keys *own)
{
    uint8_t expected[SV_WG_MAC];

    mac(expected, own->mac1, SV_KEY, message, len - MACS);
    return sv_equal(expected, message + len - MACS, SV_WG_MAC);
}

/* ---- giving cookies out ---- */

void sv_wg_make_cookie(struct sv_wg_cookie_jar *jar, uint64_t now, const void *source, size_t source_len,
                       uint8_t cookie[SV_WG_MAC])
{
    if (jar->made_at == 0 || now - jar->made_at >= COOKIE_LIFE_NS) {
        sv_random(jar->secret, sizeof jar->secret);
        jar->made_at = now;
    }
    mac(cookie, jar->secret, sizeof jar->secret, source, source_len);
}

bool sv_wg_check_mac2(struct sv_wg_cookie_jar *jar, uint64_t now, const void *source, size_t source_len,
                      const uint8_t *message, size_t len)
{
    uint8_t cookie[SV_WG_MAC], expected[SV_WG_MAC];

    sv_wg_make_cookie(jar, now, source, source_len, cookie);
    mac(expected, cookie, sizeof cookie, message, len - SV_WG_MAC);
    return sv_equal(expected, message + len - SV_WG_MAC, SV_WG_MAC);
}

void sv_wg_write_cookie(uint8_t *dst, const uint8_t *message, size_t len, const struct sv_wg_mac_keys *own,
                        const uint8_t cookie[SV_WG_MAC])
{
    sv_store32le(dst, SV_WG_COOKIE);
    sv_store32le(dst + 4, sv_wg_sender(message));
    sv_random(dst + COOKIE_NONCE_AT, SV_SEAL_NONCE);
    sv_xaead_seal(dst + COOKIE_AT, own->cookie, dst + COOKIE_NONCE_AT, message + len - MACS, SV_WG_MAC,
                  cookie, SV_WG_MAC);
}

/* ---- getting them ---- */

int sv_wg_read_cookie(struct sv_wg_cookie *cookie, uint64_t now, const uint8_t *message,
                      const struct sv_wg_mac_keys *peer)
{
    uint8_t value[SV_WG_MAC];

    if (!cookie->asked || sv_xaead_open(value, peer->cookie, message + COOKIE_NONCE_AT, cookie->last_mac1,
                                        SV_WG_MAC, message + COOKIE_AT, SV_WG_MAC) != 0) {
        return SV_E_AUTH;
    }
    memcpy(cookie->value, value, sizeof value);
    cookie->until = now + COOKIE_LIFE_NS;
    cookie->asked = false;
    return 0;
}

void sv_wg_finish(struct sv_wg_cookie *cookie, uint64_t now, uint8_t *message, size_t len,
                  const struct sv_wg_mac_keys *peer)
{
    sv_wg_put_macs(message, len, peer, now < cookie->until ? cookie->value : NULL);
    memcpy(cookie->last_mac1, message + len - MACS, SV_WG_MAC);
    cookie->asked = true;
}
