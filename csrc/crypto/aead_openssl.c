#include "crypto/aead_impl.h"

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>

#include <openssl/err.h>
#include <openssl/evp.h>

#include <smartvpn/base.h>

#include "crypto/keys.h"

enum { CHACHA, AES, CIPHERS };

static const char *const names[CIPHERS] = {"ChaCha20-Poly1305", "AES-256-GCM"};

/* One context for each direction: turning one around makes OpenSSL set the cipher up anew. */
struct contexts {
    EVP_CIPHER_CTX *seal, *open;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t at_thread_end;
static EVP_CIPHER *ciphers[CIPHERS]; /* NULL: OpenSSL's providers have none */
static _Thread_local struct contexts mine[CIPHERS];

/* Freeing a context wipes the key that was used last. */
static void free_contexts(struct contexts *c)
{
    EVP_CIPHER_CTX_free(c->seal);
    EVP_CIPHER_CTX_free(c->open);
    *c = (struct contexts){0};
}

static void free_all_contexts(void *all)
{
    for (size_t i = 0; i < CIPHERS; i++) {
        free_contexts((struct contexts *)all + i);
    }
}

static void set_up(void)
{
    if (pthread_key_create(&at_thread_end, free_all_contexts) != 0) {
        return;
    }
    for (size_t i = 0; i < CIPHERS; i++) {
        ciphers[i] = EVP_CIPHER_fetch(NULL, names[i], NULL);
    }
}

/* OpenSSL's TLS reads the thread's queue of errors and would take ours for its own. */
static int fail(int status)
{
    ERR_clear_error();
    return status;
}

static int make_contexts(size_t cipher)
{
    struct contexts *c = &mine[cipher];

    pthread_once(&once, set_up);
    if (!ciphers[cipher]) {
        return fail(SV_E_SYSTEM);
    }
    c->seal = EVP_CIPHER_CTX_new();
    c->open = EVP_CIPHER_CTX_new();
    if (!c->seal || !c->open || pthread_setspecific(at_thread_end, mine) != 0) {
        goto nomem;
    }
    if (EVP_EncryptInit_ex2(c->seal, ciphers[cipher], NULL, NULL, NULL) != 1 ||
        EVP_DecryptInit_ex2(c->open, ciphers[cipher], NULL, NULL, NULL) != 1) {
        goto nomem;
    }
    return 0;
nomem:
    free_contexts(c);
    return fail(SV_E_NOMEM);
}

static int contexts_ready(size_t cipher)
{
    return mine[cipher].open ? 0 : make_contexts(cipher);
}

/* OpenSSL counts in int. */
static bool too_long(size_t ad_len, size_t len)
{
    return ad_len > INT_MAX || len > INT_MAX - SV_AEAD_TAG;
}

/* The key goes in with every packet, so that none can meet another one's key. Keeping it when it is the same
 * as before would save most for small packets, where the other libraries are faster still. */
static int seal(size_t cipher, const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE],
                const uint8_t *ad, size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    int n, status = contexts_ready(cipher);
    if (status != 0) {
        return status;
    }
    EVP_CIPHER_CTX *ctx = mine[cipher].seal;
    bool ok = !too_long(ad_len, len) && EVP_EncryptInit_ex2(ctx, NULL, key, nonce, NULL) == 1 &&
              (ad_len == 0 || EVP_EncryptUpdate(ctx, NULL, &n, ad, (int)ad_len) == 1) &&
              (len == 0 || EVP_EncryptUpdate(ctx, dst, &n, src, (int)len) == 1) &&
              EVP_EncryptFinal_ex(ctx, dst + len, &n) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, SV_AEAD_TAG, dst + len) == 1;
    return ok ? 0 : fail(SV_E_SYSTEM);
}

static int open(size_t cipher, const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE],
                const uint8_t *ad, size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    int n, status = contexts_ready(cipher);
    if (status != 0) {
        return status;
    }
    EVP_CIPHER_CTX *ctx = mine[cipher].open;
    uint8_t tag[SV_AEAD_TAG];
    memcpy(tag, src + len, sizeof tag);
    bool ok = !too_long(ad_len, len) && EVP_DecryptInit_ex2(ctx, NULL, key, nonce, NULL) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, SV_AEAD_TAG, tag) == 1 &&
              (ad_len == 0 || EVP_DecryptUpdate(ctx, NULL, &n, ad, (int)ad_len) == 1) &&
              (len == 0 || EVP_DecryptUpdate(ctx, dst, &n, src, (int)len) == 1);
    if (!ok) {
        return fail(SV_E_SYSTEM);
    }
    if (EVP_DecryptFinal_ex(ctx, tag, &n) != 1) {
        sv_wipe(dst, len);
        return fail(SV_E_AUTH);
    }
    return 0;
}

static int probe_chacha(void)
{
    return contexts_ready(CHACHA);
}

static int seal_chacha(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                       size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return seal(CHACHA, key, nonce, ad, ad_len, dst, src, len);
}

static int open_chacha(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                       size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return open(CHACHA, key, nonce, ad, ad_len, dst, src, len);
}

const struct sv_aead_impl sv_aead_openssl = {
    .name = "openssl",
    .probe = probe_chacha,
    .seal = seal_chacha,
    .open = open_chacha,
};

static int probe_aes(void)
{
    return contexts_ready(AES);
}

static int seal_aes(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                    size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return seal(AES, key, nonce, ad, ad_len, dst, src, len);
}

static int open_aes(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                    size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return open(AES, key, nonce, ad, ad_len, dst, src, len);
}

const struct sv_aead_impl sv_aead_aes_openssl = {
    .name = "openssl",
    .big_endian = true,
    .probe = probe_aes,
    .seal = seal_aes,
    .open = open_aes,
};
