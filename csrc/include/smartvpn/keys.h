/* Key pairs: 32 bytes each, X25519 (RFC 7748), for Noise and for WireGuard alike; as text in base64, 44 characters. */
#ifndef SMARTVPN_KEYS_H
#define SMARTVPN_KEYS_H

#include <smartvpn/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SV_KEY_SIZE 32
#define SV_KEY_TEXT_SIZE 45 /* with NUL */

/* A fresh pair. */
SV_API int sv_keypair_generate(uint8_t private_key[SV_KEY_SIZE], uint8_t public_key[SV_KEY_SIZE]);

/* The public half of a private key. */
SV_API int sv_keypair_public(uint8_t public_key[SV_KEY_SIZE], const uint8_t private_key[SV_KEY_SIZE]);

/* The key of its base64 text. SV_E_INVALID. */
SV_API int sv_key_parse(uint8_t key[SV_KEY_SIZE], const char *text);
SV_API void sv_key_format(char text[SV_KEY_TEXT_SIZE], const uint8_t key[SV_KEY_SIZE]);

#ifdef __cplusplus
}
#endif
#endif
