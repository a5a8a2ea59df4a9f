#include "crypto/aead.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <smartvpn/base.h>

#include "base/clock.h"
#include "base/log.h"
#include "crypto/aead_batch.h"
#include "crypto/aead_impl.h"

enum {
    PACKET = 1420,        /* what the measurement seals and opens: a packet */
    SUPER_PACKET = 61000, /* and a super-packet */
    LARGE = 8192,         /* from here on the one that is fastest for super-packets is used */
    BATCH_BYTES = 65536,  /* sealed and opened per reading of the clock, at least one packet */
    MAX_ROUNDS = 32,
    MIN_ROUNDS = 3,
    MAX_CANDIDATES = 4,
};

static const uint64_t budget_ns = 2 * SV_NS_PER_MS;

const struct sv_aead_impl *sv_aead, *sv_aead_aes;

/* Where two are equally fast the earlier one is taken. */
const struct sv_aead_impl *const sv_aead_all[] = {
#ifdef SV_HAVE_IPSEC_MB
    &sv_aead_ipsec_mb,
#endif
    &sv_aead_boringssl, &sv_aead_openssl, &sv_aead_libsodium, NULL,
};
const struct sv_aead_impl *const sv_aead_aes_all[] = {
#ifdef SV_HAVE_IPSEC_MB
    &sv_aead_aes_ipsec_mb,
#endif
    &sv_aead_aes_openssl,
    &sv_aead_aes_libsodium,
    NULL,
};

/* A message that every implementation must seal to the same bytes. */
struct known {
    const char *cipher;
    const uint8_t *key, *nonce, *ad, *text, *sealed;
    size_t ad_len, len;
};

/* RFC 8439, section 2.8.2. */
static const uint8_t rfc_key[SV_AEAD_KEY] = {0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a,
                                             0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95,
                                             0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f};
static const char rfc_text[] =
    "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
    "future, sunscreen would be it.";
static const uint8_t rfc_nonce[SV_AEAD_NONCE] = {0x07, 0,    0,    0,    0x40, 0x41,
                                                 0x42, 0x43, 0x44, 0x45, 0x46, 0x47};
static const uint8_t rfc_ad[12] = {0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7};
static const uint8_t rfc_sealed[sizeof rfc_text - 1 + SV_AEAD_TAG] = {
    0xd3, 0x1a, 0x8d, 0x34, 0x64, 0x8e, 0x60, 0xdb, 0x7b, 0x86, 0xaf, 0xbc, 0x53, 0xef, 0x7e, 0xc2, 0xa4,
    0xad, 0xed, 0x51, 0x29, 0x6e, 0x08, 0xfe, 0xa9, 0xe2, 0xb5, 0xa7, 0x36, 0xee, 0x62, 0xd6, 0x3d, 0xbe,
    0xa4, 0x5e, 0x8c, 0xa9, 0x67, 0x12, 0x82, 0xfa, 0xfb, 0x69, 0xda, 0x92, 0x72, 0x8b, 0x1a, 0x71, 0xde,
    0x0a, 0x9e, 0x06, 0x0b, 0x29, 0x05, 0xd6, 0xa5, 0xb6, 0x7e, 0xcd, 0x3b, 0x36, 0x92, 0xdd, 0xbd, 0x7f,
    0x2d, 0x77, 0x8b, 0x8c, 0x98, 0x03, 0xae, 0xe3, 0x28, 0x09, 0x1b, 0x58, 0xfa, 0xb3, 0x24, 0xe4, 0xfa,
    0xd6, 0x75, 0x94, 0x55, 0x85, 0x80, 0x8b, 0x48, 0x31, 0xd7, 0xbc, 0x3f, 0xf4, 0xde, 0xf0, 0x8e, 0x4b,
    0x7a, 0x9d, 0xe5, 0x76, 0xd2, 0x65, 0x86, 0xce, 0xc6, 0x4b, 0x61, 0x16, 0x1a, 0xe1, 0x0b, 0x59, 0x4f,
    0x09, 0xe2, 0x6a, 0x7e, 0x90, 0x2e, 0xcb, 0xd0, 0x60, 0x06, 0x91,
};

/* Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B. */
static const uint8_t gcm_key[SV_AEAD_KEY] = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f,
                                             0x94, 0x67, 0x30, 0x83, 0x08, 0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65,
                                             0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08};
static const uint8_t gcm_nonce[SV_AEAD_NONCE] = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce,
                                                 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88};
static const uint8_t gcm_ad[] = {0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed,
                                 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad, 0xda, 0xd2};
static const uint8_t gcm_text[] = {0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5,
                                   0xaf, 0xf5, 0x26, 0x9a, 0x86, 0xa7, 0xa9, 0x53, 0x15, 0x34, 0xf7, 0xda,
                                   0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31, 0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95,
                                   0x95, 0x68, 0x09, 0x53, 0x2f, 0xcf, 0x0e, 0x24, 0x49, 0xa6, 0xb5, 0x25,
                                   0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39};
static const uint8_t gcm_sealed[sizeof gcm_text + SV_AEAD_TAG] = {
    0x52, 0x2d, 0xc1, 0xf0, 0x99, 0x56, 0x7d, 0x07, 0xf4, 0x7f, 0x37, 0xa3, 0x2a, 0x84, 0x42, 0x7d,
    0x64, 0x3a, 0x8c, 0xdc, 0xbf, 0xe5, 0xc0, 0xc9, 0x75, 0x98, 0xa2, 0xbd, 0x25, 0x55, 0xd1, 0xaa,
    0x8c, 0xb0, 0x8e, 0x48, 0x59, 0x0d, 0xbb, 0x3d, 0xa7, 0xb0, 0x8b, 0x10, 0x56, 0x82, 0x88, 0x38,
    0xc5, 0xf6, 0x1e, 0x63, 0x93, 0xba, 0x7a, 0x0a, 0xbc, 0xc9, 0xf6, 0x62, 0x76, 0xfc, 0x6e, 0xce,
    0x0f, 0x4e, 0x17, 0x68, 0xcd, 0xdf, 0x88, 0x53, 0xbb, 0x2d, 0x55, 0x1b};

static const struct known chacha_known = {
    .cipher = "ChaCha20-Poly1305",
    .key = rfc_key,
    .nonce = rfc_nonce,
    .ad = rfc_ad,
    .ad_len = sizeof rfc_ad,
    .text = (const uint8_t *)rfc_text,
    .len = sizeof rfc_text - 1,
    .sealed = rfc_sealed,
};
static const struct known aes_known = {
    .cipher = "AES-256-GCM",
    .key = gcm_key,
    .nonce = gcm_nonce,
    .ad = gcm_ad,
    .ad_len = sizeof gcm_ad,
    .text = gcm_text,
    .len = sizeof gcm_text,
    .sealed = gcm_sealed,
};

enum { KNOWN_MAX = 160 };

/* Seals and opens the known message and refuses it with one bit changed. */
static bool passes_self_test(const struct sv_aead_impl *impl, const struct known *known)
{
    uint8_t sealed[KNOWN_MAX], opened[KNOWN_MAX];
    const size_t len = known->len;
    if (impl->seal(known->key, known->nonce, known->ad, known->ad_len, sealed, known->text, len) != 0 ||
        memcmp(sealed, known->sealed, len + SV_AEAD_TAG) != 0) {
        return false;
    }
    if (impl->open(known->key, known->nonce, known->ad, known->ad_len, opened, sealed, len) != 0 ||
        memcmp(opened, known->text, len) != 0) {
        return false;
    }
    sealed[len] ^= 1;
    return impl->open(known->key, known->nonce, known->ad, known->ad_len, opened, sealed, len) == SV_E_AUTH;
}

static bool usable(const struct sv_aead_impl *impl, const struct known *known)
{
    if (impl->probe() != 0) {
        return false;
    }
    if (!passes_self_test(impl, known)) {
        sv_log(SV_LOG_ERROR, "%s by %s fails its self-test and is not used", known->cipher, impl->name);
        return false;
    }
    return true;
}

static uint64_t time_batch(const struct sv_aead_impl *impl, size_t size)
{
    static const uint8_t key[SV_AEAD_KEY], nonce[SV_AEAD_NONCE];
    uint8_t packet[SUPER_PACKET + SV_AEAD_TAG] = {0};
    uint64_t start = sv_clock_now();
    for (size_t done = 0; done < BATCH_BYTES; done += size) {
        impl->seal(key, nonce, NULL, 0, packet, packet, size);
        impl->open(key, nonce, NULL, 0, packet, packet, size);
    }
    return sv_clock_now() - start;
}

/* In turns, and the best turn counts: whatever else the machine does slows some turns of each, not all turns
 * of one. *best_ns is the winner's time. */
static const struct sv_aead_impl *fastest(const struct sv_aead_impl *const *impls, size_t count, size_t size,
                                          uint64_t *best_ns)
{
    uint64_t best[MAX_CANDIDATES];
    size_t winner = 0;
    memset(best, 0xff, sizeof best);
    uint64_t start = sv_clock_now();
    for (int round = 0; round < MAX_ROUNDS && (round < MIN_ROUNDS || sv_clock_now() - start < budget_ns);
         round++) {
        for (size_t i = 0; i < count; i++) {
            uint64_t ns = time_batch(impls[i], size);
            best[i] = ns < best[i] ? ns : best[i];
        }
    }
    for (size_t i = 1; i < count; i++) {
        winner = best[i] < best[winner] ? i : winner;
    }
    *best_ns = best[winner];
    return impls[winner];
}

/* Which is fastest may differ between a packet and a super-packet (ipsec-mb and OpenSSL without AVX-512). */
struct choice {
    const struct sv_aead_impl *small, *large;
    uint64_t small_ns, large_ns; /* of a batch */
};

static struct choice chacha, aes;
static bool prefers_aes, batches;

static int always(void)
{
    return 0;
}

static int seal_chacha(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                       size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return (len < LARGE ? chacha.small : chacha.large)->seal(key, nonce, ad, ad_len, dst, src, len);
}

static int open_chacha(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                       size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return (len < LARGE ? chacha.small : chacha.large)->open(key, nonce, ad, ad_len, dst, src, len);
}

static int seal_aes(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                    size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return (len < LARGE ? aes.small : aes.large)->seal(key, nonce, ad, ad_len, dst, src, len);
}

static int open_aes(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                    size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return (len < LARGE ? aes.small : aes.large)->open(key, nonce, ad, ad_len, dst, src, len);
}

static const struct sv_aead_impl chacha_by_size = {
    .name = "fastest by size",
    .probe = always,
    .seal = seal_chacha,
    .open = open_chacha,
};
static const struct sv_aead_impl aes_by_size = {
    .name = "fastest by size",
    .big_endian = true,
    .probe = always,
    .seal = seal_aes,
    .open = open_aes,
};

/* The candidates that work here, or the one of that name if it does; their number. */
static size_t find(const struct sv_aead_impl *const *all, const struct known *known, const char *name,
                   const struct sv_aead_impl *found[MAX_CANDIDATES])
{
    size_t count = 0;
    for (size_t i = 0; all[i]; i++) {
        if ((!name || strcmp(all[i]->name, name) == 0) && usable(all[i], known)) {
            found[count++] = all[i];
        }
    }
    return count;
}

/* NULL when none works. */
static const struct sv_aead_impl *choose(struct choice *choice, const struct sv_aead_impl *by_size,
                                         const struct sv_aead_impl *const *found, size_t count)
{
    if (count == 0) {
        return NULL;
    }
    choice->small = fastest(found, count, PACKET, &choice->small_ns);
    choice->large = fastest(found, count, SUPER_PACKET, &choice->large_ns);
    return choice->small == choice->large ? choice->small : by_size;
}

/* The variable's value, or NULL where it is not set or empty. */
static const char *from_environment(const char *variable)
{
    const char *value = getenv(variable);
    return value && *value ? value : NULL;
}

static int choose_cipher(const char *name)
{
    if (!name) {
        prefers_aes = sv_aead_aes && aes.small_ns < chacha.small_ns && aes.large_ns < chacha.large_ns;
    } else if (strcmp(name, "aes-256-gcm") == 0 && sv_aead_aes) {
        prefers_aes = true;
    } else if (strcmp(name, "chacha20-poly1305") != 0) {
        sv_log(SV_LOG_ERROR, "SMARTVPN_CIPHER names a cipher that is not there");
        return SV_E_INVALID;
    }
    return 0;
}

static int choose_all(void)
{
    const struct sv_aead_impl *found[MAX_CANDIDATES], *found_aes[MAX_CANDIDATES];
    const char *name = from_environment("SMARTVPN_AEAD");
    size_t count = find(sv_aead_all, &chacha_known, name, found);
    if (count == 0) {
        sv_log(SV_LOG_ERROR, name ? "SMARTVPN_AEAD names an implementation that is not there"
                                  : "no implementation of ChaCha20-Poly1305 works here");
        return name ? SV_E_INVALID : SV_E_UNSUPPORTED;
    }
    size_t count_aes = find(sv_aead_aes_all, &aes_known, name, found_aes);
    const struct sv_aead_impl *chosen = choose(&chacha, &chacha_by_size, found, count);
    sv_aead_aes = choose(&aes, &aes_by_size, found_aes, count_aes);
    int status = choose_cipher(from_environment("SMARTVPN_CIPHER"));
    sv_aead = status == 0 ? chosen : NULL;
    batches = sv_aead && (!name || strcmp(name, "ipsec-mb") == 0) && sv_aead_batch_choose(chosen, name);
    return status;
}

bool sv_aead_prefers_aes(void)
{
    return prefers_aes;
}

static void write_name(char *dst, size_t size, const char *cipher, const struct choice *choice)
{
    if (choice->small == choice->large) {
        snprintf(dst, size, "%s by %s", cipher, choice->small->name);
    } else {
        snprintf(dst, size, "%s by %s, super-packets by %s", cipher, choice->small->name,
                 choice->large->name);
    }
}

static char name[160];

static void write_names(void)
{
    size_t len = 0;
    if (prefers_aes) {
        write_name(name, sizeof name, aes_known.cipher, &aes);
        len = strlen(name);
        len += (size_t)snprintf(name + len, sizeof name - len, "; ");
    }
    write_name(name + len, sizeof name - len, chacha_known.cipher, &chacha);
    if (batches) {
        len = strlen(name);
        snprintf(name + len, sizeof name - len, ", many packets at once by AVX-512");
    }
}

const char *sv_aead_name(void)
{
    return name;
}

int sv_aead_init(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int status = 0;
    pthread_mutex_lock(&lock);
    if (!sv_aead) {
        status = choose_all();
        if (status == 0) {
            write_names();
            sv_log(SV_LOG_INFO, "%s", name);
        }
    }
    pthread_mutex_unlock(&lock);
    return status;
}

_Static_assert(sizeof sv_aead_all / sizeof *sv_aead_all - 1 <= MAX_CANDIDATES, "room for every candidate");
_Static_assert(sizeof sv_aead_aes_all <= sizeof sv_aead_all, "room for these as well");
_Static_assert(sizeof rfc_sealed <= KNOWN_MAX && sizeof gcm_sealed <= KNOWN_MAX,
               "room for the known messages");
