#include "crypto/aead.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <smartvpn/base.h>

#include "base/clock.h"
#include "base/log.h"
#include "crypto/aead_impl.h"

enum {
    PACKET = 1420,        /* what the measurement seals and opens: a packet */
    SUPER_PACKET = 61000, /* and a super-packet */
    LARGE = 8192,         /* from here on the one that is fastest for super-packets is used */
    BATCH_BYTES = 65536,  /* sealed and opened per reading of the clock, at least one packet */
    MAX_ROUNDS = 32,
    MIN_ROUNDS = 3,
    MAX_CANDIDATES = 3,
};

static const uint64_t budget_ns = 3 * SV_NS_PER_MS;

const struct sv_aead_impl *sv_aead;

/* Where two are equally fast the earlier one is taken. */
const struct sv_aead_impl *const sv_aead_all[] = {
#ifdef SV_HAVE_IPSEC_MB
    &sv_aead_ipsec_mb,
#endif
    &sv_aead_openssl,
    &sv_aead_libsodium,
    NULL,
};

/* RFC 8439, section 2.8.2. */
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

/* Seals and opens the RFC's message and refuses it with one bit changed. */
static bool passes_self_test(const struct sv_aead_impl *impl)
{
    const size_t len = sizeof rfc_text - 1;
    uint8_t key[SV_AEAD_KEY], sealed[sizeof rfc_sealed], opened[sizeof rfc_text];
    for (size_t i = 0; i < sizeof key; i++) {
        key[i] = (uint8_t)(0x80 + i);
    }
    if (impl->seal(key, rfc_nonce, rfc_ad, sizeof rfc_ad, sealed, (const uint8_t *)rfc_text, len) != 0 ||
        memcmp(sealed, rfc_sealed, sizeof sealed) != 0) {
        return false;
    }
    if (impl->open(key, rfc_nonce, rfc_ad, sizeof rfc_ad, opened, sealed, len) != 0 ||
        memcmp(opened, rfc_text, len) != 0) {
        return false;
    }
    sealed[len] ^= 1;
    return impl->open(key, rfc_nonce, rfc_ad, sizeof rfc_ad, opened, sealed, len) == SV_E_AUTH;
}

static bool usable(const struct sv_aead_impl *impl)
{
    if (impl->probe() != 0) {
        return false;
    }
    if (!passes_self_test(impl)) {
        sv_log(SV_LOG_ERROR, "ChaCha20-Poly1305 by %s fails its self-test and is not used", impl->name);
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
 * of one. */
static const struct sv_aead_impl *fastest(const struct sv_aead_impl *const *impls, size_t count, size_t size)
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
    return impls[winner];
}

/* Which is fastest may differ between a packet and a super-packet (ipsec-mb and OpenSSL without AVX-512). */
static const struct sv_aead_impl *small, *large;

static int always(void)
{
    return 0;
}

static int seal_by_size(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                        size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return (len < LARGE ? small : large)->seal(key, nonce, ad, ad_len, dst, src, len);
}

static int open_by_size(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                        size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    return (len < LARGE ? small : large)->open(key, nonce, ad, ad_len, dst, src, len);
}

static const struct sv_aead_impl by_size = {
    .name = "fastest by size",
    .probe = always,
    .seal = seal_by_size,
    .open = open_by_size,
};

static int choose_named(const char *name)
{
    for (size_t i = 0; sv_aead_all[i]; i++) {
        if (strcmp(sv_aead_all[i]->name, name) == 0 && usable(sv_aead_all[i])) {
            sv_aead = sv_aead_all[i];
            return 0;
        }
    }
    sv_log(SV_LOG_ERROR, "SMARTVPN_AEAD names an implementation that is not there");
    return SV_E_INVALID;
}

static int choose_fastest(void)
{
    const struct sv_aead_impl *found[MAX_CANDIDATES];
    size_t count = 0;
    for (size_t i = 0; sv_aead_all[i]; i++) {
        if (usable(sv_aead_all[i])) {
            found[count++] = sv_aead_all[i];
        }
    }
    if (count == 0) {
        return SV_E_UNSUPPORTED;
    }
    small = fastest(found, count, PACKET);
    large = fastest(found, count, SUPER_PACKET);
    sv_aead = small == large ? small : &by_size;
    return 0;
}

const char *sv_aead_name(void)
{
    static char both[64];
    if (sv_aead != &by_size) {
        return sv_aead->name;
    }
    snprintf(both, sizeof both, "%s, super-packets by %s", small->name, large->name);
    return both;
}

int sv_aead_init(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int status = 0;
    pthread_mutex_lock(&lock);
    if (!sv_aead) {
        const char *name = getenv("SMARTVPN_AEAD");
        status = name && *name ? choose_named(name) : choose_fastest();
        if (status == 0) {
            sv_log(SV_LOG_INFO, "ChaCha20-Poly1305 by %s", sv_aead_name());
        }
    }
    pthread_mutex_unlock(&lock);
    return status;
}

_Static_assert(sizeof sv_aead_all / sizeof *sv_aead_all - 1 <= MAX_CANDIDATES, "room for every candidate");
