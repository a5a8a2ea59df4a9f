/* The candidates that crypto/aead.c chooses from. */
#ifndef SV_CRYPTO_AEAD_IMPL_H
#define SV_CRYPTO_AEAD_IMPL_H

#include "crypto/aead.h"

#ifdef SV_HAVE_IPSEC_MB
extern const struct sv_aead_impl sv_aead_ipsec_mb, sv_aead_aes_ipsec_mb;
#endif
extern const struct sv_aead_impl sv_aead_boringssl; /* its AES-256-GCM is slower than the others' */
extern const struct sv_aead_impl sv_aead_openssl, sv_aead_aes_openssl;
extern const struct sv_aead_impl sv_aead_libsodium, sv_aead_aes_libsodium;

#endif
