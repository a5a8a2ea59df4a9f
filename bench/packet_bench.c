/* Nanoseconds of the packet path's pieces, the least of many rounds: packet_bench [rounds].
 *
 * Split is one 60,192-byte TCP payload into 44 segments, merge the way back; both are per super-packet.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "packet/checksum.h"
#include "packet/gro.h"
#include "packet/gso.h"

enum {
    SEGMENT = 1368,
    SEGMENTS = 44,
    HEADERS = 52,
    ROOM = 1500,
    SMALL = 64,
    INNER = 200,
    DEFAULT_ROUNDS = 101
};
enum { SUPER = HEADERS + SEGMENT * SEGMENTS };

static uint8_t super[SUPER], segments[SEGMENTS][ROOM], batch[SEGMENTS][ROOM], small[SMALL];
static struct sv_ip super_ip, small_ip;
static struct sv_gro gro;
static size_t writes;

static void make_super(void)
{
    static const uint8_t header[HEADERS] = {
        0x45, [6] = 0x40, [8] = 64, [9] = IPPROTO_TCP, [12] = 10, 8,       0, 2, 10,
        8,    0,          3,        [32] = 0x80,       0x10,      [40] = 1};

    memcpy(super, header, HEADERS);
    sv_store16be(super + 2, SUPER);
    for (size_t i = HEADERS; i < SUPER; i++) {
        super[i] = (uint8_t)(i * 2654435761u >> 16);
    }
    sv_ip_parse(&super_ip, super, SUPER);
}

static void make_small(void)
{
    static const uint8_t header[28] = {
        0x45, [3] = SMALL, [6] = 0x40, [8] = 64, [9] = IPPROTO_UDP, [12] = 10, [16] = 10, [25] = 44};

    memcpy(small, header, sizeof header);
    sv_ip_parse(&small_ip, small, SMALL);
}

static void on_write(void *ctx, const struct sv_vnet *vnet, struct iovec *iov, size_t count)
{
    (void)ctx;
    (void)vnet;
    (void)iov;
    writes += count > 0;
}

static void parse(void)
{
    struct sv_ip ip;

    sv_ip_parse(&ip, small, SMALL);
    __asm__ volatile("" : : "r"(&ip) : "memory");
}

static void checksum(void)
{
    uint64_t sum = sv_checksum_add(0, super + HEADERS, SEGMENT);

    __asm__ volatile("" : : "r"(sum));
}

static void split(void)
{
    struct sv_gso it;

    sv_gso_init(&it, super, SUPER, &super_ip, SV_SUPER_TCP4, SEGMENT);
    for (size_t i = 0; sv_gso_next(&it, segments[i % SEGMENTS]); i++) {
    }
}

static void split_headers(void)
{
    struct sv_gso it;
    const uint8_t *payload;

    sv_gso_init(&it, super, SUPER, &super_ip, SV_SUPER_TCP4, SEGMENT);
    for (size_t i = 0; sv_gso_header(&it, i, segments[i % SEGMENTS], &payload); i++) {
    }
}

/* Merging rewrites the first packet's headers, so those are put back. */
static void merge(void)
{
    memcpy(batch[0], segments[0], HEADERS);
    for (size_t i = 0; i < SEGMENTS; i++) {
        struct sv_ip ip;

        sv_ip_parse(&ip, batch[i], HEADERS + SEGMENT);
        sv_gro_add(&gro, batch[i], HEADERS + SEGMENT, &ip);
    }
    sv_gro_flush(&gro);
}

static void pass_small(void)
{
    sv_gro_add(&gro, small, SMALL, &small_ip);
    sv_gro_flush(&gro);
}

/* The least: a shared machine only ever adds. */
static double least_ns(void (*step)(void), size_t rounds)
{
    double least = 0;

    for (size_t i = 0; i < rounds; i++) {
        uint64_t start = sv_clock_now();
        double ns;

        for (size_t n = 0; n < INNER; n++) {
            step();
        }
        ns = (double)(sv_clock_now() - start) / INNER;
        least = i == 0 || ns < least ? ns : least;
    }
    return least;
}

/* Merging is measured only if it merges. */
static void check_merge(void)
{
    split();
    memcpy(batch, segments, sizeof batch);
    writes = 0;
    merge();
    if (writes != 1) {
        fprintf(stderr, "%d segments became %zu writes\n", SEGMENTS, writes);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*step)(void);
    } steps[] = {
        {"parse, 64 B UDP", parse},
        {"checksum, 1368 B", checksum},
        {"split into 44 segments", split},
        {"  headers only, no copy", split_headers},
        {"parse and merge 44 segments", merge},
        {"a lone 64 B packet through the merger", pass_small},
    };
    size_t rounds = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : DEFAULT_ROUNDS;

    make_super();
    make_small();
    sv_gro_init(&gro, on_write, NULL, true);
    check_merge();
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        printf("%-40s %9.1f ns\n", steps[i].name, least_ns(steps[i].step, rounds ? rounds : 1));
    }
    return 0;
}
