/* ChaCha20-Poly1305 (RFC 8439) and AES-256-GCM (NIST SP 800-38D) behind one interface, their implementations chosen once at start.
 *
 * Each candidate (Intel ipsec-mb, OpenSSL, libsodium) must pass a self-test; the fastest on this machine wins, for packets and for super-packets
 * apart. SMARTVPN_AEAD=ipsec-mb|boringssl|openssl|libsodium overrides that choice (ipsec-mb: with batches, crypto/aead_batch.h, where they work; the
 * others: without), SMARTVPN_CIPHER=chacha20-poly1305|aes-256-gcm the one between the two ciphers. Per-thread state is made on first use in a thread and freed at its end.
 */
#ifndef SV_CRYPTO_AEAD_H
#define SV_CRYPTO_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum { SV_AEAD_KEY = 32, SV_AEAD_NONCE = 12, SV_AEAD_TAG = 16 };

struct sv_aead_impl {
    const char *name;
    bool big_endian; /* how the counter stands in the nonce */
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

/* Chooses; safe to call again and from several threads. SV_E_INVALID when the environment names what is not there. */
int sv_aead_init(void);

/* The chosen ChaCha20-Poly1305, the cipher of every handshake; sv_aead_init has succeeded. */
extern const struct sv_aead_impl *sv_aead;

/* The chosen AES-256-GCM; NULL where none runs (a processor without AES instructions). */
extern const struct sv_aead_impl *sv_aead_aes;

/* AES-256-GCM is there, and faster than ChaCha20-Poly1305 for packets and for super-packets, or asked for by SMARTVPN_CIPHER. */
bool sv_aead_prefers_aes(void);

/* Who does what, for people. */
const char *sv_aead_name(void);

/* All that were built in, ended by NULL: for tests and benchmarks. */
extern const struct sv_aead_impl *const sv_aead_all[], *const sv_aead_aes_all[];

/* Four zero bytes, then the counter: little-endian for ChaCha20-Poly1305 (Noise section 12.3, WireGuard 5.4.6), big-endian for AES-GCM (Noise
 * section 12.4). */
static inline void sv_aead_nonce(const struct sv_aead_impl *aead, uint8_t nonce[SV_AEAD_NONCE],
                                 uint64_t counter)
{
    memset(nonce, 0, 4);
    if (aead->big_endian) {
        sv_store64be(nonce + 4, counter);
    } else {
        sv_store64le(nonce + 4, counter);
    }
}

#endif
