#include "crypto/hash.h"

#include <string.h>

#include <blake2.h>

#include "crypto/keys.h"

enum { BLOCK = BLAKE2S_BLOCKBYTES };

static void absorb(blake2s_state *state, const struct sv_piece *pieces, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].len > 0) {
            blake2s_update(state, pieces[i].bytes, pieces[i].len);
        }
    }
}

/* What is hashed is often a key, so no state is left behind. */
static void finish(blake2s_state *state, uint8_t *out, size_t out_len)
{
    blake2s_final(state, out, out_len);
    sv_wipe(state, sizeof *state);
}

void sv_hash(uint8_t out[SV_HASH], const struct sv_piece *pieces, size_t count)
{
    blake2s_state state;
    blake2s_init(&state, SV_HASH);
    absorb(&state, pieces, count);
    finish(&state, out, SV_HASH);
}

void sv_hash_keyed(uint8_t *out, size_t out_len, const void *key, size_t key_len, const void *in, size_t len)
{
    blake2s_state state;
    if (key_len > 0) {
        blake2s_init_key(&state, out_len, key, key_len);
    } else {
        blake2s_init(&state, out_len);
    }
    absorb(&state, &(struct sv_piece){in, len}, 1);
    finish(&state, out, out_len);
}

static void xor_pad(uint8_t pad[BLOCK], const uint8_t block[BLOCK], uint8_t value)
{
    for (size_t i = 0; i < BLOCK; i++) {
        pad[i] = block[i] ^ value;
    }
}

void sv_hmac(uint8_t out[SV_HASH], const uint8_t *key, size_t key_len, const struct sv_piece *pieces,
             size_t count)
{
    uint8_t block[BLOCK] = {0}, pad[BLOCK], inner[SV_HASH];
    blake2s_state state;
    if (key_len > BLOCK) {
        sv_hash(block, &(struct sv_piece){key, key_len}, 1);
    } else if (key_len > 0) {
        memcpy(block, key, key_len);
    }
    xor_pad(pad, block, 0x36);
    blake2s_init(&state, SV_HASH);
    blake2s_update(&state, pad, sizeof pad);
    absorb(&state, pieces, count);
    finish(&state, inner, sizeof inner);
    xor_pad(pad, block, 0x5c);
    sv_hash(out, (const struct sv_piece[]){{pad, sizeof pad}, {inner, sizeof inner}}, 2);
    sv_wipe(block, sizeof block);
    sv_wipe(pad, sizeof pad);
    sv_wipe(inner, sizeof inner);
}

void sv_hkdf(const uint8_t ck[SV_HASH], const void *input, size_t len, uint8_t out1[SV_HASH], uint8_t *out2,
             uint8_t *out3)
{
    static const uint8_t one = 1, two = 2, three = 3;
    uint8_t temp[SV_HASH];
    sv_hmac(temp, ck, SV_HASH, &(struct sv_piece){input, len}, 1);
    sv_hmac(out1, temp, sizeof temp, &(struct sv_piece){&one, 1}, 1);
    if (out2) {
        sv_hmac(out2, temp, sizeof temp, (const struct sv_piece[]){{out1, SV_HASH}, {&two, 1}}, 2);
    }
    if (out3) {
        sv_hmac(out3, temp, sizeof temp, (const struct sv_piece[]){{out2, SV_HASH}, {&three, 1}}, 2);
    }
    sv_wipe(temp, sizeof temp);
}
