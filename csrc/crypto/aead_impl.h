/* The candidates that crypto/aead.c chooses from. */
#ifndef SV_CRYPTO_AEAD_IMPL_H
#define SV_CRYPTO_AEAD_IMPL_H

#include "crypto/aead.h"

#ifdef SV_HAVE_IPSEC_MB
extern const struct sv_aead_impl sv_aead_ipsec_mb, sv_aead_aes_ipsec_mb;
#endif

/* Poly1305 alone (RFC 8439, section 2.5), for crypto/aead_batch.c. SV_E_UNSUPPORTED where the library was left out. */
int sv_ipsec_mb_poly1305(const uint8_t key[32], const uint8_t *bytes, size_t len, uint8_t tag[SV_AEAD_TAG]);

extern const struct sv_aead_impl sv_aead_boringssl; /* its AES-256-GCM is slower than the others' */
extern const struct sv_aead_impl sv_aead_openssl, sv_aead_aes_openssl;
extern const struct sv_aead_impl sv_aead_libsodium, sv_aead_aes_libsodium;

#endif
