/* Secrets at rest: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) as nonce:24 ciphertext tag:16. */
#ifndef SV_CRYPTO_SEAL_H
#define SV_CRYPTO_SEAL_H

#include <stddef.h>
#include <stdint.h>

enum { SV_SEAL_NONCE = 24, SV_SEAL_OVERHEAD = 40 };

/* dst gets len + SV_SEAL_OVERHEAD bytes; the nonce is random. */
void sv_seal(uint8_t *dst, const uint8_t key[32], const void *ad, size_t ad_len, const uint8_t *src,
             size_t len);

/* src has sealed_len bytes; dst gets sealed_len - SV_SEAL_OVERHEAD. SV_E_AUTH, also when it is too short. */
int sv_unseal(uint8_t *dst, const uint8_t key[32], const void *ad, size_t ad_len, const uint8_t *src,
              size_t sealed_len);

/* XChaCha20-Poly1305 itself (also WireGuard's cookies); dst gets len + 16. */
void sv_xaead_seal(uint8_t *dst, const uint8_t key[32], const uint8_t nonce[SV_SEAL_NONCE], const void *ad,
                   size_t ad_len, const uint8_t *src, size_t len);
int sv_xaead_open(uint8_t *dst, const uint8_t key[32], const uint8_t nonce[SV_SEAL_NONCE], const void *ad,
                  size_t ad_len, const uint8_t *src, size_t len);

#endif
