#include "base/siphash.h"

#include "base/bytes.h"

struct state {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotate(uint64_t x, unsigned int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void mix(struct state *s)
{
    s->v0 += s->v1;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v2 = rotate(s->v2, 32);
}

static inline void absorb(struct state *s, uint64_t word)
{
    s->v3 ^= word;
    mix(s);
    s->v0 ^= word;
}

/* The bytes behind the last whole word, with the length in the top byte. */
static inline uint64_t last_word(const uint8_t *p, size_t len)
{
    uint8_t word[8] = {0};

    for (size_t i = 0; i < len % 8; i++) {
        word[i] = p[i];
    }
    word[7] = (uint8_t)len;
    return sv_load64le(word);
}

uint64_t sv_siphash(const uint64_t key[2], const void *data, size_t len)
{
    struct state s = {
        .v0 = key[0] ^ UINT64_C(0x736f6d6570736575),
        .v1 = key[1] ^ UINT64_C(0x646f72616e646f6d),
        .v2 = key[0] ^ UINT64_C(0x6c7967656e657261),
        .v3 = key[1] ^ UINT64_C(0x7465646279746573),
    };
    const uint8_t *p = data;

    for (size_t words = len / 8; words > 0; words--, p += 8) {
        absorb(&s, sv_load64le(p));
    }
    absorb(&s, last_word(p, len));
    s.v2 ^= 0xff;
    for (int round = 0; round < 3; round++) {
        mix(&s);
    }
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
