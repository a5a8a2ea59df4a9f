#include "crypto/keys.h"

#include <pthread.h>

#include <sodium.h>

#include <smartvpn/base.h>

#include "crypto/hash.h"

/* libb2 stores its choice of code at the first call of each function, without a lock: let that happen before
 * threads do. */
static void choose_hash_code(void)
{
    static const uint8_t key[1];
    uint8_t out[SV_HASH];
    sv_hash(out, &(struct sv_piece){key, sizeof key}, 1);
    sv_hash_keyed(out, sizeof out, key, sizeof key, key, sizeof key);
}

int sv_crypto_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (sodium_init() < 0) {
        return SV_E_SYSTEM;
    }
    pthread_once(&once, choose_hash_code);
    return 0;
}

void sv_random(void *dst, size_t len)
{
    randombytes_buf(dst, len);
}

void sv_wipe(void *bytes, size_t len)
{
    sodium_memzero(bytes, len);
}

bool sv_equal(const void *a, const void *b, size_t len)
{
    /* The one size of the packet path; sodium_memcmp goes byte by byte. */
    if (len == crypto_verify_16_BYTES) {
        return crypto_verify_16(a, b) == 0;
    }
    return sodium_memcmp(a, b, len) == 0;
}

void sv_x25519_generate(uint8_t private_key[SV_KEY], uint8_t public_key[SV_KEY])
{
    sv_random(private_key, SV_KEY);
    private_key[0] &= 248;
    private_key[31] &= 127;
    private_key[31] |= 64;
    sv_x25519_public(public_key, private_key);
}

void sv_x25519_public(uint8_t public_key[SV_KEY], const uint8_t private_key[SV_KEY])
{
    crypto_scalarmult_curve25519_base(public_key, private_key);
}

int sv_x25519(uint8_t shared[SV_KEY], const uint8_t private_key[SV_KEY], const uint8_t public_key[SV_KEY])
{
    if (crypto_scalarmult_curve25519(shared, private_key, public_key) != 0) {
        sv_wipe(shared, SV_KEY);
        return SV_E_AUTH;
    }
    return 0;
}
