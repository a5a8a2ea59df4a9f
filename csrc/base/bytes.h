/* Integers in memory, in a stated byte order and at any alignment. */
#ifndef SV_BASE_BYTES_H
#define SV_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

#define SV_BYTES_LOAD(name, type, convert)             \
    static inline type sv_load##name(const uint8_t *p) \
    {                                                  \
        type v;                                        \
        memcpy(&v, p, sizeof v);                       \
        return convert(v);                             \
    }
#define SV_BYTES_STORE(name, type, convert)               \
    static inline void sv_store##name(uint8_t *p, type v) \
    {                                                     \
        v = convert(v);                                   \
        memcpy(p, &v, sizeof v);                          \
    }

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SV_BYTES_BE16 __builtin_bswap16
#define SV_BYTES_BE32 __builtin_bswap32
#define SV_BYTES_BE64 __builtin_bswap64
#define SV_BYTES_LE16
#define SV_BYTES_LE32
#define SV_BYTES_LE64
#else
#define SV_BYTES_BE16
#define SV_BYTES_BE32
#define SV_BYTES_BE64
#define SV_BYTES_LE16 __builtin_bswap16
#define SV_BYTES_LE32 __builtin_bswap32
#define SV_BYTES_LE64 __builtin_bswap64
#endif

SV_BYTES_LOAD(16be, uint16_t, SV_BYTES_BE16)
SV_BYTES_LOAD(32be, uint32_t, SV_BYTES_BE32)
SV_BYTES_LOAD(64be, uint64_t, SV_BYTES_BE64)
SV_BYTES_LOAD(16le, uint16_t, SV_BYTES_LE16)
SV_BYTES_LOAD(32le, uint32_t, SV_BYTES_LE32)
SV_BYTES_LOAD(64le, uint64_t, SV_BYTES_LE64)
SV_BYTES_STORE(16be, uint16_t, SV_BYTES_BE16)
SV_BYTES_STORE(32be, uint32_t, SV_BYTES_BE32)
SV_BYTES_STORE(64be, uint64_t, SV_BYTES_BE64)
SV_BYTES_STORE(16le, uint16_t, SV_BYTES_LE16)
SV_BYTES_STORE(32le, uint32_t, SV_BYTES_LE32)
SV_BYTES_STORE(64le, uint64_t, SV_BYTES_LE64)

#undef SV_BYTES_LOAD
#undef SV_BYTES_STORE

#endif
