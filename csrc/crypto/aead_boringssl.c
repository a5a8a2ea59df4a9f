/* BoringSSL, where it is installed: its AVX2 code does both halves of ChaCha20-Poly1305 in one pass, with little to set up per message.
 *
 * Its symbols have the names of OpenSSL's, which this process has as well; so it is loaded by hand, and binds to itself first. */
#include "crypto/aead_impl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include <smartvpn/base.h>

#if defined(__x86_64__)
#define LIBRARY "/usr/lib/x86_64-linux-gnu/android/libcrypto.so.0"
#elif defined(__aarch64__)
#define LIBRARY "/usr/lib/aarch64-linux-gnu/android/libcrypto.so.0"
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

/* A sanitizer's runtime cannot be bound to behind the library's back, and says so by aborting. */
#if defined(LIBRARY) && !defined(SANITIZED)

/* Of <openssl/aead.h>, whose name OpenSSL's headers have taken. */
typedef struct evp_aead_st EVP_AEAD;
typedef struct evp_aead_ctx_st EVP_AEAD_CTX;

static struct {
    const EVP_AEAD *(*chacha)(void);
    EVP_AEAD_CTX *(*new_ctx)(const EVP_AEAD *aead, const uint8_t *key, size_t key_len, size_t tag_len);
    void (*free_ctx)(EVP_AEAD_CTX *ctx);
    int (*init)(EVP_AEAD_CTX *ctx, const EVP_AEAD *aead, const uint8_t *key, size_t key_len, size_t tag_len,
                void *engine);
    void (*cleanup)(EVP_AEAD_CTX *ctx);
    int (*seal)(const EVP_AEAD_CTX *ctx, uint8_t *out, size_t *out_len, size_t out_max, const uint8_t *nonce,
                size_t nonce_len, const uint8_t *in, size_t in_len, const uint8_t *ad, size_t ad_len);
    int (*open)(const EVP_AEAD_CTX *ctx, uint8_t *out, size_t *out_len, size_t out_max, const uint8_t *nonce,
                size_t nonce_len, const uint8_t *in, size_t in_len, const uint8_t *ad, size_t ad_len);
    void (*clear_errors)(void);
} lib;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t context_key;
static bool loaded;
static _Thread_local EVP_AEAD_CTX *context;

static void free_context(void *ctx)
{
    lib.free_ctx(ctx);
}

static bool find(void *handle, const char *symbol, void *function)
{
    void *found = dlsym(handle, symbol);

    memcpy(function, &found, sizeof found); /* the cast that POSIX asks for and C does not have */
    return found != NULL;
}

static void load(void)
{
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);

    loaded = handle && find(handle, "EVP_aead_chacha20_poly1305", &lib.chacha) &&
             find(handle, "EVP_AEAD_CTX_new", &lib.new_ctx) &&
             find(handle, "EVP_AEAD_CTX_free", &lib.free_ctx) &&
             find(handle, "EVP_AEAD_CTX_init", &lib.init) &&
             find(handle, "EVP_AEAD_CTX_cleanup", &lib.cleanup) &&
             find(handle, "EVP_AEAD_CTX_seal", &lib.seal) && find(handle, "EVP_AEAD_CTX_open", &lib.open) &&
             find(handle, "ERR_clear_error", &lib.clear_errors) &&
             pthread_key_create(&context_key, free_context) == 0;
}

static int probe(void)
{
    pthread_once(&once, load);
    return loaded ? 0 : SV_E_UNSUPPORTED;
}

/* Of this thread, under the key; made once and then set anew, which only copies the key. NULL: no memory. */
static EVP_AEAD_CTX *keyed(const uint8_t key[SV_AEAD_KEY])
{
    if (!context) {
        context = lib.new_ctx(lib.chacha(), key, SV_AEAD_KEY, SV_AEAD_TAG);
        pthread_setspecific(context_key, context);
        return context;
    }
    lib.cleanup(context);
    return lib.init(context, lib.chacha(), key, SV_AEAD_KEY, SV_AEAD_TAG, NULL) ? context : NULL;
}

static int seal(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    EVP_AEAD_CTX *ctx = keyed(key);
    size_t n;

    return ctx && lib.seal(ctx, dst, &n, len + SV_AEAD_TAG, nonce, SV_AEAD_NONCE, src, len, ad, ad_len)
               ? 0
               : SV_E_SYSTEM;
}

static int open(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    EVP_AEAD_CTX *ctx = keyed(key);
    size_t n;

    if (ctx && lib.open(ctx, dst, &n, len, nonce, SV_AEAD_NONCE, src, len + SV_AEAD_TAG, ad, ad_len)) {
        return 0;
    }
    lib.clear_errors();
    return SV_E_AUTH;
}

const struct sv_aead_impl sv_aead_boringssl = {
    .name = "boringssl",
    .probe = probe,
    .seal = seal,
    .open = open,
};

#else

static int probe(void)
{
    return SV_E_UNSUPPORTED;
}

static int neither(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                   size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    (void)key, (void)nonce, (void)ad, (void)ad_len, (void)dst, (void)src, (void)len;
    return SV_E_UNSUPPORTED;
}

const struct sv_aead_impl sv_aead_boringssl = {
    .name = "boringssl",
    .probe = probe,
    .seal = neither,
    .open = neither,
};

#endif
