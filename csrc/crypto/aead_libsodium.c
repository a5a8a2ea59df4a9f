#include "crypto/aead_impl.h"

#include <sodium.h>

#include <smartvpn/base.h>

static int probe(void)
{
    return sodium_init() < 0 ? SV_E_SYSTEM : 0;
}

static int seal(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    crypto_aead_chacha20poly1305_ietf_encrypt(dst, NULL, src, len, ad, ad_len, NULL, nonce, key);
    return 0;
}

static int open(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    int status = crypto_aead_chacha20poly1305_ietf_decrypt(dst, NULL, NULL, src, len + SV_AEAD_TAG, ad,
                                                           ad_len, nonce, key);
    return status == 0 ? 0 : SV_E_AUTH;
}

const struct sv_aead_impl sv_aead_libsodium = {
    .name = "libsodium",
    .probe = probe,
    .seal = seal,
    .open = open,
};
