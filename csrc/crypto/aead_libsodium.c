#include "crypto/aead_impl.h"

#include <sodium.h>

#include <smartvpn/base.h>

static int probe_chacha(void)
{
    return sodium_init() < 0 ? SV_E_SYSTEM : 0;
}

static int seal_chacha(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                       size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    crypto_aead_chacha20poly1305_ietf_encrypt(dst, NULL, src, len, ad, ad_len, NULL, nonce, key);
    return 0;
}

static int open_chacha(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                       size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    int status = crypto_aead_chacha20poly1305_ietf_decrypt(dst, NULL, NULL, src, len + SV_AEAD_TAG, ad,
                                                           ad_len, nonce, key);
    return status == 0 ? 0 : SV_E_AUTH;
}

const struct sv_aead_impl sv_aead_libsodium = {
    .name = "libsodium",
    .probe = probe_chacha,
    .seal = seal_chacha,
    .open = open_chacha,
};

/* Only where the processor has instructions for it. */
static int probe_aes(void)
{
    return sodium_init() < 0 || !crypto_aead_aes256gcm_is_available() ? SV_E_UNSUPPORTED : 0;
}

static int seal_aes(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                    size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return crypto_aead_aes256gcm_encrypt(dst, NULL, src, len, ad, ad_len, NULL, nonce, key) == 0
               ? 0
               : SV_E_SYSTEM;
}

static int open_aes(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                    size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    int status = crypto_aead_aes256gcm_decrypt(dst, NULL, NULL, src, len + SV_AEAD_TAG, ad, ad_len, nonce,
                                               key);
    return status == 0 ? 0 : SV_E_AUTH;
}

const struct sv_aead_impl sv_aead_aes_libsodium = {
    .name = "libsodium",
    .big_endian = true,
    .probe = probe_aes,
    .seal = seal_aes,
    .open = open_aes,
};
