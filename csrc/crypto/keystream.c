#include "crypto/keystream.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "crypto/keys.h"

enum { WORDS = 16, LANES = 16, GROUPS = SV_KEYSTREAM_LANES / LANES, DOUBLE_ROUNDS = 10 };

#define WIDE __attribute__((target("avx512f,avx512bw")))
#define INLINE static inline __attribute__((always_inline)) WIDE

bool sv_keystream_works(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

/* ---- rounds ---- */

/* The states of two groups take all 32 registers, so each step must work in place. The compiler is told so, for on its own it makes copies,
 * and spills a third of the states for them. */
#define ADD(a, b) __asm__("vpaddd %1, %0, %0" : "+v"(a) : "v"(b))
#define XOR_ROTATE(a, b, n) __asm__("vpxord %1, %0, %0\n\tvprold %2, %0, %0" : "+v"(a) : "v"(b), "i"(n))

/* Word i of a row, of the columns (turn 0) or the diagonals (turn 1). */
#define AT(row, turn, i) (4 * (row) + (((i) + (row) * (turn)) & 3))

/* A step of the four quarter rounds in both groups: eight chains that do not wait for each other. */
#define STEP(step, to, from, turn, ...)                                 \
    do {                                                                \
        for (int i = 0; i < 4; i++) {                                   \
            step(x[AT(to, turn, i)], x[AT(from, turn, i)] __VA_ARGS__); \
            step(y[AT(to, turn, i)], y[AT(from, turn, i)] __VA_ARGS__); \
        }                                                               \
    } while (0)

/* RFC 8439, section 2.1. */
#define ROUND(turn)                         \
    do {                                    \
        STEP(ADD, 0, 1, turn);              \
        STEP(XOR_ROTATE, 3, 0, turn, , 16); \
        STEP(ADD, 2, 3, turn);              \
        STEP(XOR_ROTATE, 1, 2, turn, , 12); \
        STEP(ADD, 0, 1, turn);              \
        STEP(XOR_ROTATE, 3, 0, turn, , 8);  \
        STEP(ADD, 2, 3, turn);              \
        STEP(XOR_ROTATE, 1, 2, turn, , 7);  \
    } while (0)

/* ---- places ---- */

/* What tells the lanes of a group apart: block and number of the message. */
struct place {
    __m512i block, message;
};

struct train {
    __m512i blocks, first_low, first_high; /* of each lane */
    __m512i next_block, next_message;      /* how far a lane moves from one pass to the next */
    uint32_t words[12];                    /* constants and key */
};

INLINE __m512i counter_low(const struct train *train, const struct place *place)
{
    return _mm512_add_epi32(train->first_low, place->message);
}

/* With the carry, which is there where the sum is less than what was added to. */
INLINE __m512i counter_high(const struct train *train, __m512i low)
{
    return _mm512_mask_add_epi32(train->first_high, _mm512_cmplt_epu32_mask(low, train->first_low),
                                 train->first_high, _mm512_set1_epi32(1));
}

INLINE void advance(const struct train *train, struct place *place)
{
    __m512i block = _mm512_add_epi32(place->block, train->next_block);
    __m512i message = _mm512_add_epi32(place->message, train->next_message);
    __mmask16 over = _mm512_cmpge_epu32_mask(block, train->blocks);

    place->block = _mm512_mask_sub_epi32(block, over, block, train->blocks);
    place->message = _mm512_mask_add_epi32(message, over, message, _mm512_set1_epi32(1));
}

INLINE void start(struct train *train, const uint8_t key[32], uint64_t counter, uint32_t blocks)
{
    static const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};

    memcpy(train->words, constants, sizeof constants);
    memcpy(train->words + 4, key, 32);
    train->blocks = _mm512_set1_epi32((int)blocks);
    train->first_low = _mm512_set1_epi32((int)(uint32_t)counter);
    train->first_high = _mm512_set1_epi32((int)(counter >> 32));
    train->next_block = _mm512_set1_epi32((int)(SV_KEYSTREAM_LANES % blocks));
    train->next_message = _mm512_set1_epi32((int)(SV_KEYSTREAM_LANES / blocks));
}

INLINE struct place place_of(uint32_t group, uint32_t blocks)
{
    uint32_t block[LANES], message[LANES];

    for (uint32_t i = 0; i < LANES; i++) {
        block[i] = (group * LANES + i) % blocks;
        message[i] = (group * LANES + i) / blocks;
    }
    return (struct place){_mm512_loadu_si512(block), _mm512_loadu_si512(message)};
}

INLINE void load(__m512i s[WORDS], const struct train *train, const struct place *place)
{
    for (int i = 0; i < 12; i++) {
        s[i] = _mm512_set1_epi32((int)train->words[i]);
    }
    s[12] = place->block;
    s[13] = _mm512_setzero_si512();
    s[14] = counter_low(train, place);
    s[15] = counter_high(train, s[14]);
}

/* ---- from words of 16 blocks to blocks of 16 words ---- */

/* Four words of all blocks: afterwards s[i] holds the four of blocks i, 4 + i, 8 + i and 12 + i. */
INLINE void turn_words(__m512i s[4])
{
    __m512i a = _mm512_unpacklo_epi32(s[0], s[1]), b = _mm512_unpackhi_epi32(s[0], s[1]);
    __m512i c = _mm512_unpacklo_epi32(s[2], s[3]), d = _mm512_unpackhi_epi32(s[2], s[3]);

    s[0] = _mm512_unpacklo_epi64(a, c);
    s[1] = _mm512_unpackhi_epi64(a, c);
    s[2] = _mm512_unpacklo_epi64(b, d);
    s[3] = _mm512_unpackhi_epi64(b, d);
}

/* Blocks 0, 4, 8 and 12 from dst on, of a quarter of their words in each. */
INLINE void put_four(uint8_t *dst, __m512i q0, __m512i q1, __m512i q2, __m512i q3)
{
    __m512i a = _mm512_shuffle_i32x4(q0, q1, 0x88), b = _mm512_shuffle_i32x4(q0, q1, 0xdd);
    __m512i c = _mm512_shuffle_i32x4(q2, q3, 0x88), d = _mm512_shuffle_i32x4(q2, q3, 0xdd);

    _mm512_storeu_si512(dst, _mm512_shuffle_i32x4(a, c, 0x88));
    _mm512_storeu_si512(dst + 8 * SV_KEYSTREAM_BLOCK, _mm512_shuffle_i32x4(a, c, 0xdd));
    _mm512_storeu_si512(dst + 4 * SV_KEYSTREAM_BLOCK, _mm512_shuffle_i32x4(b, d, 0x88));
    _mm512_storeu_si512(dst + 12 * SV_KEYSTREAM_BLOCK, _mm512_shuffle_i32x4(b, d, 0xdd));
}

/* Adds what the rounds began with. */
INLINE void finish(uint8_t *dst, __m512i s[WORDS], const struct train *train, const struct place *place)
{
    __m512i low = counter_low(train, place), high = counter_high(train, low);

    for (int i = 0; i < 12; i++) {
        s[i] = _mm512_add_epi32(s[i], _mm512_set1_epi32((int)train->words[i]));
    }
    s[12] = _mm512_add_epi32(s[12], place->block);
    s[14] = _mm512_add_epi32(s[14], low);
    s[15] = _mm512_add_epi32(s[15], high);
    for (int i = 0; i < WORDS; i += 4) {
        turn_words(s + i);
    }
    for (int i = 0; i < 4; i++) {
        put_four(dst + i * SV_KEYSTREAM_BLOCK, s[i], s[4 + i], s[8 + i], s[12 + i]);
    }
}

WIDE void sv_keystream_make(uint8_t *dst, const uint8_t key[32], uint64_t counter, uint32_t blocks,
                            uint32_t count)
{
    struct train train;
    struct place first = place_of(0, blocks), second = place_of(1, blocks);

    start(&train, key, counter, blocks);
    for (uint32_t done = 0; done < blocks * count; done += SV_KEYSTREAM_LANES) {
        __m512i x[WORDS], y[WORDS];

        load(x, &train, &first);
        load(y, &train, &second);
#pragma GCC unroll 1
        for (int round = 0; round < DOUBLE_ROUNDS; round++) {
            ROUND(0);
            ROUND(1);
        }
        finish(dst, x, &train, &first);
        finish(dst + LANES * SV_KEYSTREAM_BLOCK, y, &train, &second);
        advance(&train, &first);
        advance(&train, &second);
        dst += SV_KEYSTREAM_LANES * SV_KEYSTREAM_BLOCK;
    }
    sv_wipe(train.words, sizeof train.words);
}

WIDE void sv_keystream_xor(uint8_t *dst, const uint8_t *src, const uint8_t *stream, size_t len)
{
    size_t i = 0;

    for (; i + 64 <= len; i += 64) {
        _mm512_storeu_si512(dst + i,
                            _mm512_xor_si512(_mm512_loadu_si512(src + i), _mm512_loadu_si512(stream + i)));
    }
    if (i < len) {
        __mmask64 rest = ~UINT64_C(0) >> (64 - (len - i));

        _mm512_mask_storeu_epi8(
            dst + i, rest,
            _mm512_xor_si512(_mm512_maskz_loadu_epi8(rest, src + i), _mm512_loadu_si512(stream + i)));
    }
}

#else

bool sv_keystream_works(void)
{
    return false;
}

void sv_keystream_make(uint8_t *dst, const uint8_t key[32], uint64_t counter, uint32_t blocks, uint32_t count)
{
    (void)dst, (void)key, (void)counter, (void)blocks, (void)count;
}

void sv_keystream_xor(uint8_t *dst, const uint8_t *src, const uint8_t *stream, size_t len)
{
    (void)dst, (void)src, (void)stream, (void)len;
}

#endif
