/* Token bucket in bytes, shared by workers: its level is one atomic (the time at which the bucket would be empty: GCRA), no lock. */
#ifndef SV_POLICY_BUCKET_H
#define SV_POLICY_BUCKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct sv_bucket {
    atomic_uint_fast64_t empty_at; /* ticks: theoretical arrival time */
    uint64_t ticks_per_byte_q20;   /* time one byte takes, 44.20 fixed point; 0: unlimited */
    uint64_t burst_ticks;          /* burst as time */
};

/* rate 0: unlimited. burst_bytes 0: max(rate / 10, 16 KB). Rates from 1 byte/s to 100 Gbit/s without overflow, exact within 0.1 %,
 * whatever the packets' sizes: times are kept in ticks of 1/16 ns (a clock of 64 bits lasts 36 years). */
void sv_bucket_init(struct sv_bucket *bucket, uint64_t bytes_per_sec, uint64_t burst_bytes);

/* Takes bytes out when they are there. */
bool sv_bucket_take(struct sv_bucket *bucket, uint64_t now, uint32_t bytes);

/* When so many bytes will be there (≤ now: now), ns. A packet greater than the burst conforms when the bucket is full. */
uint64_t sv_bucket_when(const struct sv_bucket *bucket, uint64_t now, uint32_t bytes);

#endif
