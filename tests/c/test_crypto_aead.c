/* ChaCha20-Poly1305: every implementation gives the vectors' bytes and the same as the others, at any length,
 * place and thread. */
#include "tests/c/check.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <smartvpn/base.h>

#include "chacha20_vectors.h"
#include "crypto/aead.h"
#include "crypto/keys.h"

enum { LONGEST = 65519, SWEEP = 2100, THREADS = 4, GUARD = 0xa5 };

#define COUNT(array) (sizeof(array) / sizeof *(array))

static uint8_t key[SV_AEAD_KEY], nonce[SV_AEAD_NONCE], ad[64];
static uint8_t text[LONGEST], want[LONGEST + SV_AEAD_TAG];

/* A failed comparison of bytes that tells where, and does not print a line for each of many good ones. */
static bool same(const uint8_t *a, const uint8_t *b, size_t len)
{
    return memcmp(a, b, len) == 0;
}

static bool all_are(const uint8_t *bytes, size_t len, uint8_t value)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

static const struct sv_aead_impl *libsodium(void)
{
    size_t i = 0;
    while (strcmp(sv_aead_all[i]->name, "libsodium") != 0) {
        i++;
    }
    return sv_aead_all[i];
}

static void check_vector(const struct sv_aead_impl *impl, size_t i)
{
    uint8_t out[1024];
    struct vector_bytes sealed = chacha20_vectors[i].sealed, plain = chacha20_vectors[i].text;
    const uint8_t *k = chacha20_vectors[i].key.p, *n = chacha20_vectors[i].nonce.p;
    const uint8_t *a = chacha20_vectors[i].ad.p;
    size_t a_len = chacha20_vectors[i].ad.len;
    int opened = impl->open(k, n, a, a_len, out, sealed.p, sealed.len - SV_AEAD_TAG);
    CHECK_EQ(opened, chacha20_vectors[i].valid ? 0 : SV_E_AUTH);
    if (chacha20_vectors[i].valid) {
        CHECK_MEM(out, plain.p, plain.len);
        CHECK_EQ(impl->seal(k, n, a, a_len, out, plain.p, plain.len), 0);
        CHECK_MEM(out, sealed.p, sealed.len);
    } else {
        CHECK(plain.len == 0 || !same(out, plain.p, plain.len));
    }
}

/* The interface takes nonces of 12 bytes only: what has another size cannot be passed, and the file says it
 * is invalid. */
static void wycheproof(void)
{
    for (size_t j = 0; sv_aead_all[j]; j++) {
        size_t by_size = 0, valid = 0, invalid = 0;
        for (size_t i = 0; i < COUNT(chacha20_vectors); i++) {
            CHECK_EQ(chacha20_vectors[i].key.len, SV_AEAD_KEY);
            if (chacha20_vectors[i].nonce.len != SV_AEAD_NONCE) {
                CHECK(!chacha20_vectors[i].valid);
                by_size++;
                continue;
            }
            check_vector(sv_aead_all[j], i);
            chacha20_vectors[i].valid ? valid++ : invalid++;
        }
        CHECK_EQ(valid, 256);
        CHECK_EQ(invalid, 60);
        CHECK_EQ(by_size, 9);
    }
}

static void every_implementation_is_built_in(void)
{
    size_t count = 0;
    for (; sv_aead_all[count]; count++) {
        CHECK_EQ(sv_aead_all[count]->probe(), 0);
    }
#ifdef SV_HAVE_IPSEC_MB
    CHECK_EQ(count, 3);
#else
    CHECK_EQ(count, 2);
#endif
}

/* Out of place at every alignment: the right bytes, and not one past the end. */
static bool out_of_place(const struct sv_aead_impl *impl, size_t len, size_t ad_len)
{
    static uint8_t src[SWEEP + 64], dst[SWEEP + 128];
    uint8_t *s = src + len % 16, *d = dst + len / 16 % 32;
    memcpy(s, text, len);
    memset(dst, GUARD, sizeof dst);
    bool ok = impl->seal(key, nonce, ad, ad_len, d, s, len) == 0 && same(d, want, len + SV_AEAD_TAG) &&
              all_are(dst, (size_t)(d - dst), GUARD) && all_are(d + len + SV_AEAD_TAG, 16, GUARD) &&
              same(s, text, len);
    memset(src, GUARD, sizeof src);
    return ok && impl->open(key, nonce, ad, ad_len, s, d, len) == 0 && same(s, text, len) &&
           all_are(src, (size_t)(s - src), GUARD) && all_are(s + len, 16, GUARD);
}

static bool in_place(const struct sv_aead_impl *impl, size_t len, size_t ad_len)
{
    static uint8_t buffer[SWEEP + 64];
    uint8_t *p = buffer + len % 17;
    memcpy(p, text, len);
    return impl->seal(key, nonce, ad, ad_len, p, p, len) == 0 && same(p, want, len + SV_AEAD_TAG) &&
           impl->open(key, nonce, ad, ad_len, p, p, len) == 0 && same(p, text, len);
}

/* One bit off in the ciphertext, the tag, the associated data, the nonce or the key. */
static bool refuses_changes(const struct sv_aead_impl *impl, size_t len, size_t ad_len)
{
    static uint8_t sealed[SWEEP + SV_AEAD_TAG], out[SWEEP];
    uint8_t k[SV_AEAD_KEY], n[SV_AEAD_NONCE], a[sizeof ad], bit = (uint8_t)(1 << len % 8);
    struct {
        uint8_t *bytes;
        size_t len;
    } parts[] = {{sealed, len}, {sealed + len, SV_AEAD_TAG}, {a, ad_len}, {n, sizeof n}, {k, sizeof k}};
    memcpy(sealed, want, len + SV_AEAD_TAG);
    memcpy(k, key, sizeof k);
    memcpy(n, nonce, sizeof n);
    memcpy(a, ad, sizeof a);
    for (size_t i = 0; i < COUNT(parts); i++) {
        if (parts[i].len == 0) {
            continue;
        }
        uint8_t *victim = parts[i].bytes + len * 7 % parts[i].len;
        *victim ^= bit;
        int status = impl->open(k, n, a, ad_len, out, sealed, len);
        *victim ^= bit;
        if (status != SV_E_AUTH || (len >= SV_AEAD_TAG && same(out, text, len))) {
            return false;
        }
    }
    return true;
}

static void sweep(void)
{
    for (size_t len = 0; len <= SWEEP; len++) {
        size_t ad_len = len * 5 % (sizeof ad + 1);
        sv_random(key, sizeof key);
        sv_random(nonce, sizeof nonce);
        CHECK_EQ(libsodium()->seal(key, nonce, ad, ad_len, want, text, len), 0);
        for (size_t j = 0; sv_aead_all[j]; j++) {
            CHECK(out_of_place(sv_aead_all[j], len, ad_len));
            CHECK(in_place(sv_aead_all[j], len, ad_len));
            CHECK(refuses_changes(sv_aead_all[j], len, ad_len));
        }
    }
}

static void big_packets(void)
{
    static const size_t lengths[] = {16384, 61000, 65000, LONGEST};
    static uint8_t out[LONGEST + SV_AEAD_TAG];
    for (size_t i = 0; i < COUNT(lengths); i++) {
        CHECK_EQ(libsodium()->seal(key, nonce, ad, 5, want, text, lengths[i]), 0);
        for (size_t j = 0; sv_aead_all[j]; j++) {
            CHECK_EQ(sv_aead_all[j]->seal(key, nonce, ad, 5, out, text, lengths[i]), 0);
            CHECK_MEM(out, want, lengths[i] + SV_AEAD_TAG);
            CHECK_EQ(sv_aead_all[j]->open(key, nonce, ad, 5, out, out, lengths[i]), 0);
            CHECK_MEM(out, text, lengths[i]);
        }
    }
}

/* Two pages, the second out of bounds. Returns the end of the first. */
static uint8_t *page_end(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + page, page, PROT_NONE) != 0) {
        perror("page_end");
        exit(1);
    }
    return pages + page;
}

/* Vector code that reads or writes past the end of a packet dies here. */
static void nothing_past_the_end(void)
{
    uint8_t *src = page_end(), *dst = page_end(), *a = page_end(), *k = page_end(), *n = page_end();
    memcpy(k - SV_AEAD_KEY, key, SV_AEAD_KEY);
    memcpy(n - SV_AEAD_NONCE, nonce, SV_AEAD_NONCE);
    k -= SV_AEAD_KEY;
    n -= SV_AEAD_NONCE;
    for (size_t j = 0; sv_aead_all[j]; j++) {
        for (size_t len = 0; len <= 1500; len += 1 + len / 100) {
            size_t ad_len = len % 33;
            memcpy(a - ad_len, ad, ad_len);
            memcpy(src - len, text, len);
            uint8_t *sealed = dst - len - SV_AEAD_TAG;
            CHECK_EQ(sv_aead_all[j]->seal(k, n, a - ad_len, ad_len, sealed, src - len, len), 0);
            memset(src - len, 0, len);
            CHECK_EQ(sv_aead_all[j]->open(k, n, a - ad_len, ad_len, src - len, sealed, len), 0);
            CHECK_MEM(src - len, text, len);
        }
    }
}

/* Two keys in turn, opened in the other order: an implementation that remembers a key must not mix them up.
 */
static void keys_are_not_confused(void)
{
    uint8_t keys[2][SV_AEAD_KEY] = {{1}, {2}}, sealed[2][64 + SV_AEAD_TAG], out[64];
    for (size_t j = 0; sv_aead_all[j]; j++) {
        const struct sv_aead_impl *impl = sv_aead_all[j];
        for (size_t i = 0; i < 2; i++) {
            CHECK_EQ(impl->seal(keys[i], nonce, NULL, 0, sealed[i], text, 64), 0);
            CHECK_EQ(libsodium()->seal(keys[i], nonce, NULL, 0, want, text, 64), 0);
            CHECK_MEM(sealed[i], want, sizeof sealed[i]);
        }
        for (size_t i = 2; i-- > 0;) {
            CHECK_EQ(impl->open(keys[i], nonce, NULL, 0, out, sealed[1 - i], 64), SV_E_AUTH);
            CHECK_EQ(impl->open(keys[i], nonce, NULL, 0, out, sealed[i], 64), 0);
            CHECK_MEM(out, text, 64);
        }
        /* The same memory, another key in it. */
        memcpy(keys[0], keys[1], SV_AEAD_KEY);
        CHECK_EQ(impl->open(keys[0], nonce, NULL, 0, out, sealed[1], 64), 0);
        memset(keys[0], 0, SV_AEAD_KEY);
        keys[0][0] = 1;
    }
}

static void nonce_layout(void)
{
    static const uint8_t expected[SV_AEAD_NONCE] = {0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1};
    uint8_t made[SV_AEAD_NONCE];
    memset(made, 0xff, sizeof made);
    sv_aead_nonce(made, UINT64_C(0x0102030405060708));
    CHECK_MEM(made, expected, sizeof made);
}

struct thread_result {
    uint8_t number;
    int init;
    unsigned long rounds, wrong;
};

/* Each thread has a key of its own and ends with its own state freed. */
static void *use_all_at_once(void *ctx)
{
    struct thread_result *result = ctx;
    uint8_t k[SV_AEAD_KEY] = {result->number}, n[SV_AEAD_NONCE], plain[700], expected[716], out[716];
    memset(plain, result->number, sizeof plain);
    result->init = sv_aead_init();
    for (uint64_t i = 0; i < 300; i++, result->rounds++) {
        size_t len = (size_t)(i * 13 % sizeof plain);
        sv_aead_nonce(n, i);
        libsodium()->seal(k, n, NULL, 0, expected, plain, len);
        for (size_t j = 0; sv_aead_all[j]; j++) {
            bool ok = sv_aead_all[j]->seal(k, n, NULL, 0, out, plain, len) == 0 &&
                      same(out, expected, len + SV_AEAD_TAG) &&
                      sv_aead_all[j]->open(k, n, NULL, 0, out, out, len) == 0 && same(out, plain, len);
            result->wrong += !ok;
        }
    }
    return NULL;
}

static void threads(void)
{
    pthread_t ids[THREADS];
    struct thread_result results[THREADS] = {0};
    for (uint8_t i = 0; i < THREADS; i++) {
        results[i].number = i;
        CHECK_EQ(pthread_create(&ids[i], NULL, use_all_at_once, &results[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(ids[i], NULL), 0);
        CHECK_EQ(results[i].init, 0);
        CHECK_EQ(results[i].rounds, 300);
        CHECK_EQ(results[i].wrong, 0);
    }
}

/* The choice is made once in a process, so each is made in a process of its own. Returns its exit status. */
static int choose_in_child(const char *name)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setenv("SMARTVPN_AEAD", name, 1);
        int status = sv_aead_init();
        _exit(status == SV_E_INVALID ? 2 : status != 0 ? 3 : *name && strcmp(sv_aead->name, name) != 0);
    }
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void environment_overrides(void)
{
    CHECK(sv_aead == NULL);
    for (size_t j = 0; sv_aead_all[j]; j++) {
        CHECK_EQ(choose_in_child(sv_aead_all[j]->name), 0);
    }
    CHECK_EQ(choose_in_child(""), 0);
    CHECK_EQ(choose_in_child("rot13"), 2);
}

static void choice_stays(void)
{
    const struct sv_aead_impl *first = sv_aead;
    CHECK(first != NULL);
    CHECK_EQ(setenv("SMARTVPN_AEAD", "rot13", 1), 0);
    CHECK_EQ(sv_aead_init(), 0);
    CHECK(sv_aead == first);
}

int main(void)
{
    unsetenv("SMARTVPN_AEAD");
    if (sv_crypto_init() != 0) {
        return 1;
    }
    sv_random(text, sizeof text);
    sv_random(ad, sizeof ad);
    RUN(environment_overrides);
    RUN(every_implementation_is_built_in);
    RUN(threads);
    RUN(choice_stays);
    RUN(wycheproof);
    RUN(sweep);
    RUN(big_packets);
    RUN(nothing_past_the_end);
    RUN(keys_are_not_confused);
    RUN(nonce_layout);
    return CHECK_DONE("crypto_aead");
}
