/* Nanoseconds per packet of each implementation of both ciphers, sealing and opening: aead_bench [rounds]. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "crypto/aead.h"
#include "crypto/aead_batch.h"
#include "crypto/keys.h"

enum { LONGEST = 61000, IMPLS = 4, ROUND_BYTES = 400000, MAX_BATCH = 500, DEFAULT_ROUNDS = 41 };

static const size_t sizes[] = {64, 1420, LONGEST};
static uint8_t plain[LONGEST], sealed[LONGEST + SV_AEAD_TAG];
static const uint8_t key[SV_AEAD_KEY] = {1};

struct result {
    double seal, open;
};

static double per_packet(uint64_t start, size_t count)
{
    return (double)(sv_clock_now() - start) / (double)count;
}

/* Every packet has its own nonce, as on a link; opening repeats the last one, for only that opens. */
static struct result measure(const struct sv_aead_impl *impl, size_t len)
{
    size_t count = ROUND_BYTES / len;
    count = count > MAX_BATCH ? MAX_BATCH : count;
    uint8_t nonce[SV_AEAD_NONCE], ad[5] = {0x10};
    struct result result;
    uint64_t start = sv_clock_now();
    for (size_t i = 0; i < count; i++) {
        sv_aead_nonce(impl, nonce, i);
        impl->seal(key, nonce, ad, sizeof ad, sealed, plain, len);
    }
    result.seal = per_packet(start, count);
    start = sv_clock_now();
    for (size_t i = 0; i < count; i++) {
        if (impl->open(key, nonce, ad, sizeof ad, plain, sealed, len) != 0) {
            fprintf(stderr, "%s does not open what it sealed\n", impl->name);
            exit(1);
        }
    }
    result.open = per_packet(start, count);
    return result;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, ascending);
    return values[count / 2];
}

/* The implementations take turns, so that a slow moment of the machine falls on all of them. */
static void bench_size(const struct sv_aead_impl *const *all, size_t len, size_t rounds, double *seals,
                       double *opens)
{
    for (size_t r = 0; r < rounds; r++) {
        for (size_t i = 0; all[i]; i++) {
            if (all[i]->probe() != 0) {
                continue;
            }
            struct result result = measure(all[i], len);
            seals[i * rounds + r] = result.seal;
            opens[i * rounds + r] = result.open;
        }
    }
    for (size_t i = 0; all[i]; i++) {
        if (all[i]->probe() != 0) {
            continue;
        }
        double seal = median(seals + i * rounds, rounds), open = median(opens + i * rounds, rounds);
        printf("%-12s %8zu %10.0f %10.0f %12.2f\n", all[i]->name, len, seal, open,
               8 * (double)len / (seal > open ? seal : open));
    }
}

static void bench_cipher(const char *cipher, const struct sv_aead_impl *const *all, size_t rounds,
                         double *values)
{
    printf("%s\n%-12s %8s %10s %10s %12s\n", cipher, "", "bytes", "seal ns", "open ns", "Gbit/s");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bench_size(all, sizes[i], rounds, values, values + IMPLS * rounds);
    }
}

/* As many messages as a super-packet's segments, each sealed and then opened, without associated data. */
static struct result measure_batch(struct sv_aead_batch *batch, size_t len)
{
    enum { TRAIN = 44 };
    static uint8_t room[TRAIN][1420 + SV_AEAD_TAG + SV_AEAD_BATCH_BEHIND];
    struct result result;
    uint64_t start = sv_clock_now();
    sv_aead_batch_begin(batch, key, 0, TRAIN, len);
    for (uint64_t i = 0; i < TRAIN && sv_aead_batch_covers(batch, key, i, len); i++) {
        sv_aead_batch_seal(batch, i, room[i], plain, len);
    }
    result.seal = per_packet(start, TRAIN);
    start = sv_clock_now();
    sv_aead_batch_begin(batch, key, 0, TRAIN, len);
    for (uint64_t i = 0; i < TRAIN; i++) {
        if (!sv_aead_batch_covers(batch, key, i, len) || sv_aead_batch_open(batch, i, room[i], len) != 0) {
            fprintf(stderr, "a batch does not open what it sealed\n");
            exit(1);
        }
    }
    result.open = per_packet(start, TRAIN);
    return result;
}

static void bench_batches(size_t rounds, double *seals, double *opens)
{
    struct sv_aead_batch *batch = sv_aead_batch_new();
    for (size_t i = 0; batch && i < 2; i++) {
        for (size_t r = 0; r < rounds; r++) {
            struct result result = measure_batch(batch, sizes[i]);
            seals[r] = result.seal;
            opens[r] = result.open;
        }
        double seal = median(seals, rounds), open = median(opens, rounds);
        printf("%-12s %8zu %10.0f %10.0f %12.2f\n", "in batches", sizes[i], seal, open,
               8 * (double)sizes[i] / (seal > open ? seal : open));
    }
    sv_aead_batch_free(batch);
}

int main(int argc, char **argv)
{
    long asked = argc > 1 ? strtol(argv[1], NULL, 10) : DEFAULT_ROUNDS;
    if (asked < 1 || asked > 100000 || sv_crypto_init() != 0) {
        fprintf(stderr, "usage: aead_bench [rounds]\n");
        return 2;
    }
    size_t rounds = (size_t)asked;
    double *values = calloc(2 * IMPLS * rounds, sizeof *values);
    uint64_t start = sv_clock_now();
    if (!values || sv_aead_init() != 0) {
        fprintf(stderr, "aead_bench: no implementation works here\n");
        free(values);
        return 1;
    }
    printf("chosen at start: %s, in %.1f ms\n", sv_aead_name(),
           (double)(sv_clock_now() - start) / SV_NS_PER_MS);
    bench_cipher("ChaCha20-Poly1305", sv_aead_all, rounds, values);
    bench_batches(rounds, values, values + rounds);
    if (sv_aead_aes) {
        bench_cipher("AES-256-GCM", sv_aead_aes_all, rounds, values);
    }
    free(values);
    return 0;
}
