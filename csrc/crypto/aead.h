/* ChaCha20-Poly1305 (RFC 8439) behind one interface, its implementation chosen once at start.
 *
 * Each candidate (Intel ipsec-mb, OpenSSL, libsodium) must pass a self-test; the fastest on this machine wins, for packets and for super-packets
 * apart. SMARTVPN_AEAD=ipsec-mb|openssl|libsodium overrides the choice. Per-thread state is made on first use in a thread
 * and freed at its end.
 */
#ifndef SV_CRYPTO_AEAD_H
#define SV_CRYPTO_AEAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum { SV_AEAD_KEY = 32, SV_AEAD_NONCE = 12, SV_AEAD_TAG = 16 };

struct sv_aead_impl {
    const char *name;
    /* 0 when it runs on this machine. */
    int (*probe)(void);
    /* dst gets len + SV_AEAD_TAG bytes; dst == src or apart. 0 or SV_E_NOMEM / SV_E_SYSTEM. */
    int (*seal)(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len);
    /* src holds len bytes of ciphertext, then the tag; dst gets len bytes. SV_E_AUTH: dst is undefined, never plaintext that
     * may be used. */
    int (*open)(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len);
};

/* Chooses; safe to call again and from several threads. SV_E_INVALID when SMARTVPN_AEAD names one that is not there. */
int sv_aead_init(void);

/* The chosen one; sv_aead_init has succeeded. */
extern const struct sv_aead_impl *sv_aead;

/* Its name, for people: two names when packets and super-packets go different ways. */
const char *sv_aead_name(void);

/* All that were built in, ended by NULL: for tests and benchmarks. */
extern const struct sv_aead_impl *const sv_aead_all[];

/* Noise section 12.3 and WireGuard 5.4.6: four zero bytes, then the counter in little-endian. */
static inline void sv_aead_nonce(uint8_t nonce[SV_AEAD_NONCE], uint64_t counter)
{
    memset(nonce, 0, 4);
    sv_store64le(nonce + 4, counter);
}

#endif
