/* SipHash-1-3, a keyed hash for tables whose keys strangers choose.
 * Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF". */
#ifndef SV_BASE_SIPHASH_H
#define SV_BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t sv_siphash(const uint64_t key[2], const void *data, size_t len);

#endif
