/* Both ciphers: every implementation gives the vectors' bytes and the same as the others, at any length,
 * place and thread. */
#include "tests/c/check.h"
#include "tests/c/page_end.h"

#include <pthread.h>
#include <stdlib.h>
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

enum { MOST = 8 };

/* ChaCha20-Poly1305's that work here: BoringSSL is not everywhere, and never under a sanitizer. */
static const struct sv_aead_impl *chacha_here[MOST];

static void find_chacha_here(void)
{
    size_t count = 0;
    for (size_t i = 0; sv_aead_all[i]; i++) {
        if (sv_aead_all[i]->probe() == 0) {
            chacha_here[count++] = sv_aead_all[i];
        }
    }
}

/* The implementations of the cipher under test. */
static const struct sv_aead_impl *const *all = chacha_here;

static const struct sv_aead_impl *libsodium(void)
{
    size_t i = 0;
    while (strcmp(all[i]->name, "libsodium") != 0) {
        i++;
    }
    return all[i];
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
    for (size_t j = 0; chacha_here[j]; j++) {
        size_t by_size = 0, valid = 0, invalid = 0;
        for (size_t i = 0; i < COUNT(chacha20_vectors); i++) {
            CHECK_EQ(chacha20_vectors[i].key.len, SV_AEAD_KEY);
            if (chacha20_vectors[i].nonce.len != SV_AEAD_NONCE) {
                CHECK(!chacha20_vectors[i].valid);
                by_size++;
                continue;
            }
            check_vector(chacha_here[j], i);
            chacha20_vectors[i].valid ? valid++ : invalid++;
        }
        CHECK_EQ(valid, 256);
        CHECK_EQ(invalid, 60);
        CHECK_EQ(by_size, 9);
    }
}

/* Test cases 13 to 15 of McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B; 16 is the self-test. */
static void galois_counter_mode(void)
{
    static const uint8_t zeros[32],
        nonce15[12] = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88};
    static const uint8_t sealed13[16] = {0x53, 0x0f, 0x8a, 0xfb, 0xc7, 0x45, 0x36, 0xb9,
                                         0xa9, 0x63, 0xb4, 0xf1, 0xc4, 0xcb, 0x73, 0x8b};
    static const uint8_t sealed14[32] = {0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e, 0x07, 0x4e, 0xc5,
                                         0xd3, 0xba, 0xf3, 0x9d, 0x18, 0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99,
                                         0x6b, 0xf0, 0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19};
    static const uint8_t key15[32] = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f,
                                      0x94, 0x67, 0x30, 0x83, 0x08, 0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65,
                                      0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08};
    static const uint8_t text15[64] = {
        0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5, 0xaf, 0xf5, 0x26, 0x9a,
        0x86, 0xa7, 0xa9, 0x53, 0x15, 0x34, 0xf7, 0xda, 0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31, 0x8a, 0x72,
        0x1c, 0x3c, 0x0c, 0x95, 0x95, 0x68, 0x09, 0x53, 0x2f, 0xcf, 0x0e, 0x24, 0x49, 0xa6, 0xb5, 0x25,
        0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39, 0x1a, 0xaf, 0xd2, 0x55};
    static const uint8_t sealed15[80] = {
        0x52, 0x2d, 0xc1, 0xf0, 0x99, 0x56, 0x7d, 0x07, 0xf4, 0x7f, 0x37, 0xa3, 0x2a, 0x84, 0x42, 0x7d,
        0x64, 0x3a, 0x8c, 0xdc, 0xbf, 0xe5, 0xc0, 0xc9, 0x75, 0x98, 0xa2, 0xbd, 0x25, 0x55, 0xd1, 0xaa,
        0x8c, 0xb0, 0x8e, 0x48, 0x59, 0x0d, 0xbb, 0x3d, 0xa7, 0xb0, 0x8b, 0x10, 0x56, 0x82, 0x88, 0x38,
        0xc5, 0xf6, 0x1e, 0x63, 0x93, 0xba, 0x7a, 0x0a, 0xbc, 0xc9, 0xf6, 0x62, 0x89, 0x80, 0x15, 0xad,
        0xb0, 0x94, 0xda, 0xc5, 0xd9, 0x34, 0x71, 0xbd, 0xec, 0x1a, 0x50, 0x22, 0x70, 0xe3, 0xcc, 0x6c};
    uint8_t out[80];
    for (size_t j = 0; all[j]; j++) {
        CHECK_EQ(all[j]->seal(zeros, zeros, NULL, 0, out, zeros, 0), 0);
        CHECK_MEM(out, sealed13, sizeof sealed13);
        CHECK_EQ(all[j]->seal(zeros, zeros, NULL, 0, out, zeros, 16), 0);
        CHECK_MEM(out, sealed14, sizeof sealed14);
        CHECK_EQ(all[j]->seal(key15, nonce15, NULL, 0, out, text15, 64), 0);
        CHECK_MEM(out, sealed15, sizeof sealed15);
        CHECK_EQ(all[j]->open(key15, nonce15, NULL, 0, out, sealed15, 64), 0);
        CHECK_MEM(out, text15, sizeof text15);
    }
}

static void every_implementation_is_built_in(void)
{
    size_t count = 0;
    for (; all[count]; count++) {
        CHECK_EQ(all[count]->probe(), 0);
    }
#ifdef SV_HAVE_IPSEC_MB
    CHECK(count >= 3);
#else
    CHECK(count >= 2);
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
        for (size_t j = 0; all[j]; j++) {
            CHECK(out_of_place(all[j], len, ad_len));
            CHECK(in_place(all[j], len, ad_len));
            CHECK(refuses_changes(all[j], len, ad_len));
        }
    }
}

static void big_packets(void)
{
    static const size_t lengths[] = {16384, 61000, 65000, LONGEST};
    static uint8_t out[LONGEST + SV_AEAD_TAG];
    for (size_t i = 0; i < COUNT(lengths); i++) {
        CHECK_EQ(libsodium()->seal(key, nonce, ad, 5, want, text, lengths[i]), 0);
        for (size_t j = 0; all[j]; j++) {
            CHECK_EQ(all[j]->seal(key, nonce, ad, 5, out, text, lengths[i]), 0);
            CHECK_MEM(out, want, lengths[i] + SV_AEAD_TAG);
            CHECK_EQ(all[j]->open(key, nonce, ad, 5, out, out, lengths[i]), 0);
            CHECK_MEM(out, text, lengths[i]);
        }
    }
}

/* Vector code that reads or writes past the end of a packet dies here. */
static void nothing_past_the_end(void)
{
    uint8_t *src = page_end(), *dst = page_end(), *a = page_end(), *k = page_end(), *n = page_end();
    memcpy(k - SV_AEAD_KEY, key, SV_AEAD_KEY);
    memcpy(n - SV_AEAD_NONCE, nonce, SV_AEAD_NONCE);
    k -= SV_AEAD_KEY;
    n -= SV_AEAD_NONCE;
    for (size_t j = 0; all[j]; j++) {
        for (size_t len = 0; len <= 1500; len += 1 + len / 100) {
            size_t ad_len = len % 33;
            memcpy(a - ad_len, ad, ad_len);
            memcpy(src - len, text, len);
            uint8_t *sealed = dst - len - SV_AEAD_TAG;
            CHECK_EQ(all[j]->seal(k, n, a - ad_len, ad_len, sealed, src - len, len), 0);
            memset(src - len, 0, len);
            CHECK_EQ(all[j]->open(k, n, a - ad_len, ad_len, src - len, sealed, len), 0);
            CHECK_MEM(src - len, text, len);
        }
    }
}

/* Two keys in turn, opened in the other order: an implementation that remembers a key must not mix them up.
 */
static void keys_are_not_confused(void)
{
    uint8_t keys[2][SV_AEAD_KEY] = {{1}, {2}}, sealed[2][64 + SV_AEAD_TAG], out[64];
    for (size_t j = 0; all[j]; j++) {
        const struct sv_aead_impl *impl = all[j];
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
    static const uint8_t little[SV_AEAD_NONCE] = {0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1};
    static const uint8_t big[SV_AEAD_NONCE] = {0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t made[SV_AEAD_NONCE];
    for (size_t j = 0; all[j]; j++) {
        memset(made, 0xff, sizeof made);
        sv_aead_nonce(all[j], made, UINT64_C(0x0102030405060708));
        CHECK_MEM(made, all == chacha_here ? little : big, sizeof made);
    }
    CHECK(!sv_aead->big_endian);
    CHECK(!sv_aead_aes || sv_aead_aes->big_endian);
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
        sv_aead_nonce(all[0], n, i);
        libsodium()->seal(k, n, NULL, 0, expected, plain, len);
        for (size_t j = 0; all[j]; j++) {
            bool ok = all[j]->seal(k, n, NULL, 0, out, plain, len) == 0 &&
                      same(out, expected, len + SV_AEAD_TAG) &&
                      all[j]->open(k, n, NULL, 0, out, out, len) == 0 && same(out, plain, len);
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

/* The choice is made once in a process, so each is made in a process of its own, which then asks `holds`. Returns 0 when it holds, 1 when not, 2 when the
 * environment was refused, 3 for other failures. */
static int choose_in_child(const char *aead, const char *cipher, bool (*holds)(const char *aead))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setenv("SMARTVPN_AEAD", aead, 1);
        setenv("SMARTVPN_CIPHER", cipher, 1);
        int status = sv_aead_init();
        _exit(status == SV_E_INVALID ? 2 : status != 0 ? 3 : !holds(aead));
    }
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool both_are_named(const char *aead)
{
    return strcmp(sv_aead->name, aead) == 0 && (!sv_aead_aes || strcmp(sv_aead_aes->name, aead) == 0);
}

static bool prefers_aes(const char *aead)
{
    (void)aead;
    return sv_aead_prefers_aes() && sv_aead_aes && strstr(sv_aead_name(), "AES-256-GCM by ");
}

static bool prefers_chacha(const char *aead)
{
    (void)aead;
    return !sv_aead_prefers_aes() && !strstr(sv_aead_name(), "AES");
}

static bool is_chosen(const char *aead)
{
    (void)aead;
    return strstr(sv_aead_name(), "ChaCha20-Poly1305 by ") != NULL;
}

static bool aes_runs_here(void)
{
    return sv_aead_aes_all[0]->probe() == 0;
}

static void environment_overrides(void)
{
    CHECK(sv_aead == NULL);
    for (size_t j = 0; chacha_here[j]; j++) {
        CHECK_EQ(choose_in_child(chacha_here[j]->name, "", both_are_named), 0);
    }
    CHECK_EQ(choose_in_child("", "", is_chosen), 0);
    CHECK_EQ(choose_in_child("rot13", "", is_chosen), 2);
    CHECK_EQ(choose_in_child("", "rot13", is_chosen), 2);
    CHECK_EQ(choose_in_child("", "chacha20-poly1305", prefers_chacha), 0);
    CHECK_EQ(choose_in_child("", "aes-256-gcm", prefers_aes), aes_runs_here() ? 0 : 2);
}

static void choice_stays(void)
{
    const struct sv_aead_impl *first = sv_aead;
    CHECK(first != NULL);
    CHECK_EQ(setenv("SMARTVPN_AEAD", "rot13", 1), 0);
    CHECK_EQ(sv_aead_init(), 0);
    CHECK(sv_aead == first);
}

/* What holds for either cipher. */
static void implementations(void)
{
    RUN(every_implementation_is_built_in);
    RUN(threads);
    RUN(sweep);
    RUN(big_packets);
    RUN(nothing_past_the_end);
    RUN(keys_are_not_confused);
    RUN(nonce_layout);
}

int main(void)
{
    find_chacha_here();
    unsetenv("SMARTVPN_AEAD");
    unsetenv("SMARTVPN_CIPHER");
    if (sv_crypto_init() != 0) {
        return 1;
    }
    sv_random(text, sizeof text);
    sv_random(ad, sizeof ad);
    RUN(environment_overrides);
    RUN(implementations);
    RUN(choice_stays);
    RUN(wycheproof);
    all = sv_aead_aes_all;
    if (libsodium()->probe() == 0) {
        RUN(implementations);
        RUN(galois_counter_mode);
    } else {
        fprintf(stderr, "  -- AES-256-GCM is not tested: this processor has no instructions for it\n");
    }
    return CHECK_DONE("crypto_aead");
}
