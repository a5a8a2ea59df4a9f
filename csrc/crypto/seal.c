#include "crypto/seal.h"

#include <sodium.h>

#include <smartvpn/base.h>

#include "crypto/keys.h"

enum { TAG = SV_SEAL_OVERHEAD - SV_SEAL_NONCE };

void sv_seal(uint8_t *dst, const uint8_t key[32], const void *ad, size_t ad_len, const uint8_t *src,
             size_t len)
{
    sv_random(dst, SV_SEAL_NONCE);
    sv_xaead_seal(dst + SV_SEAL_NONCE, key, dst, ad, ad_len, src, len);
}

int sv_unseal(uint8_t *dst, const uint8_t key[32], const void *ad, size_t ad_len, const uint8_t *src,
              size_t sealed_len)
{
    if (sealed_len < SV_SEAL_OVERHEAD) {
        return SV_E_AUTH;
    }
    return sv_xaead_open(dst, key, src, ad, ad_len, src + SV_SEAL_NONCE, sealed_len - SV_SEAL_OVERHEAD);
}

void sv_xaead_seal(uint8_t *dst, const uint8_t key[32], const uint8_t nonce[SV_SEAL_NONCE], const void *ad,
                   size_t ad_len, const uint8_t *src, size_t len)
{
    crypto_aead_xchacha20poly1305_ietf_encrypt(dst, NULL, src, len, ad, ad_len, NULL, nonce, key);
}

int sv_xaead_open(uint8_t *dst, const uint8_t key[32], const uint8_t nonce[SV_SEAL_NONCE], const void *ad,
                  size_t ad_len, const uint8_t *src, size_t len)
{
    int status = crypto_aead_xchacha20poly1305_ietf_decrypt(dst, NULL, NULL, src, len + TAG, ad, ad_len,
                                                            nonce, key);
    return status == 0 ? 0 : SV_E_AUTH;
}
