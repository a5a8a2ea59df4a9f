#include "proto/noise.h"

#include <string.h>

#include <smartvpn/base.h>

enum { MESSAGE_MAX = 65535 }; /* Noise section 3 */

void sv_symmetric_init(struct sv_symmetric *s, const char *protocol_name)
{
    size_t len = strlen(protocol_name);
    memset(s, 0, sizeof *s);
    if (len <= SV_HASH) {
        memcpy(s->h, protocol_name, len);
    } else {
        sv_hash(s->h, &(struct sv_piece){protocol_name, len}, 1);
    }
    memcpy(s->ck, s->h, sizeof s->ck);
}

/* out may be h. */
static void hash_after(uint8_t out[SV_HASH], const uint8_t h[SV_HASH], const void *bytes, size_t len)
{
    sv_hash(out, (const struct sv_piece[]){{h, SV_HASH}, {bytes, len}}, 2);
}

void sv_symmetric_mix_hash(struct sv_symmetric *s, const void *bytes, size_t len)
{
    hash_after(s->h, s->h, bytes, len);
}

static void key_is_fresh(struct sv_symmetric *s)
{
    s->n = 0;
    s->has_key = true;
}

void sv_symmetric_mix_key(struct sv_symmetric *s, const void *input, size_t len)
{
    sv_hkdf(s->ck, input, len, s->ck, s->k, NULL);
    key_is_fresh(s);
}

void sv_symmetric_mix_key_and_hash(struct sv_symmetric *s, const uint8_t psk[SV_KEY])
{
    uint8_t temp[SV_HASH];
    sv_hkdf(s->ck, psk, SV_KEY, s->ck, temp, s->k);
    sv_symmetric_mix_hash(s, temp, sizeof temp);
    key_is_fresh(s);
    sv_wipe(temp, sizeof temp);
}

static void move(uint8_t *dst, const uint8_t *src, size_t len)
{
    if (len > 0) {
        memmove(dst, src, len);
    }
}

int sv_symmetric_encrypt_and_hash(struct sv_symmetric *s, uint8_t *dst, const uint8_t *src, size_t len)
{
    if (!s->has_key) {
        move(dst, src, len);
        sv_symmetric_mix_hash(s, dst, len);
        return 0;
    }
    uint8_t nonce[SV_AEAD_NONCE];
    sv_aead_nonce(sv_aead, nonce, s->n);
    int status = sv_aead->seal(s->k, nonce, s->h, sizeof s->h, dst, src, len);
    if (status != 0) {
        return status;
    }
    s->n++;
    sv_symmetric_mix_hash(s, dst, len + SV_AEAD_TAG);
    return 0;
}

int sv_symmetric_decrypt_and_hash(struct sv_symmetric *s, uint8_t *dst, const uint8_t *src, size_t len)
{
    uint8_t nonce[SV_AEAD_NONCE], h[SV_HASH];
    if (!s->has_key) {
        sv_symmetric_mix_hash(s, src, len);
        move(dst, src, len);
        return 0;
    }
    if (len < SV_AEAD_TAG) {
        return SV_E_MALFORMED;
    }
    /* Before opening, which may be in place. */
    hash_after(h, s->h, src, len);
    sv_aead_nonce(sv_aead, nonce, s->n);
    int status = sv_aead->open(s->k, nonce, s->h, sizeof s->h, dst, src, len - SV_AEAD_TAG);
    if (status != 0) {
        return status;
    }
    s->n++;
    memcpy(s->h, h, sizeof s->h);
    return 0;
}

void sv_symmetric_split(const struct sv_symmetric *s, uint8_t c1[SV_AEAD_KEY], uint8_t c2[SV_AEAD_KEY])
{
    sv_hkdf(s->ck, NULL, 0, c1, c2, NULL);
}

void sv_noise_init(struct sv_noise *noise, const struct sv_noise_config *config)
{
    memset(noise, 0, sizeof *noise);
    noise->initiator = config->initiator;
    memcpy(noise->s_private, config->s_private, SV_KEY);
    if (config->s_public) {
        memcpy(noise->s_public, config->s_public, SV_KEY);
    } else {
        sv_x25519_public(noise->s_public, noise->s_private);
    }
    if (config->initiator) {
        memcpy(noise->rs, config->rs, SV_KEY);
    }
    if (config->psk) {
        memcpy(noise->psk, config->psk, SV_KEY);
        noise->has_psk = true;
    }
    sv_symmetric_init(&noise->symmetric, config->psk ? "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
                                                     : "Noise_IK_25519_ChaChaPoly_BLAKE2s");
    sv_symmetric_mix_hash(&noise->symmetric, config->prologue, config->prologue_len);
    /* <- s */
    sv_symmetric_mix_hash(&noise->symmetric, config->initiator ? noise->rs : noise->s_public, SV_KEY);
}

void sv_noise_fix_ephemeral(struct sv_noise *noise, const uint8_t e_private[SV_KEY])
{
    memcpy(noise->e_private, e_private, SV_KEY);
    sv_x25519_public(noise->e_public, noise->e_private);
    noise->fixed_ephemeral = true;
}

/* Noise section 9.2: with a psk an ephemeral key is mixed into the key as well. */
static void mix_ephemeral(struct sv_noise *noise, const uint8_t e_public[SV_KEY])
{
    sv_symmetric_mix_hash(&noise->symmetric, e_public, SV_KEY);
    if (noise->has_psk) {
        sv_symmetric_mix_key(&noise->symmetric, e_public, SV_KEY);
    }
}

static void send_ephemeral(struct sv_noise *noise, uint8_t dst[SV_KEY])
{
    if (!noise->fixed_ephemeral) {
        sv_x25519_generate(noise->e_private, noise->e_public);
    }
    memcpy(dst, noise->e_public, SV_KEY);
    mix_ephemeral(noise, noise->e_public);
}

static void receive_ephemeral(struct sv_noise *noise, const uint8_t src[SV_KEY])
{
    memcpy(noise->re, src, SV_KEY);
    mix_ephemeral(noise, noise->re);
}

static int mix_dh(struct sv_noise *noise, const uint8_t private_key[SV_KEY], const uint8_t public_key[SV_KEY])
{
    uint8_t shared[SV_KEY];
    int status = sv_x25519(shared, private_key, public_key);
    if (status == 0) {
        sv_symmetric_mix_key(&noise->symmetric, shared, sizeof shared);
    }
    sv_wipe(shared, sizeof shared);
    return status;
}

static void mix_psk(struct sv_noise *noise)
{
    if (noise->has_psk) {
        sv_symmetric_mix_key_and_hash(&noise->symmetric, noise->psk);
    }
}

int sv_noise_write1(struct sv_noise *noise, uint8_t *dst, const void *payload, size_t payload_len)
{
    int status;
    if (payload_len > MESSAGE_MAX - SV_NOISE_MESSAGE1) {
        return SV_E_INVALID;
    }
    /* e */
    send_ephemeral(noise, dst);
    dst += SV_KEY;
    /* es */
    if ((status = mix_dh(noise, noise->e_private, noise->rs)) != 0) {
        return status;
    }
    /* s */
    if ((status = sv_symmetric_encrypt_and_hash(&noise->symmetric, dst, noise->s_public, SV_KEY)) != 0) {
        return status;
    }
    dst += SV_KEY + SV_AEAD_TAG;
    /* ss */
    if ((status = mix_dh(noise, noise->s_private, noise->rs)) != 0) {
        return status;
    }
    return sv_symmetric_encrypt_and_hash(&noise->symmetric, dst, payload, payload_len);
}

int sv_noise_read1(struct sv_noise *noise, uint8_t *payload, const uint8_t *message, size_t len)
{
    int status;
    if (len < SV_NOISE_MESSAGE1 || len > MESSAGE_MAX) {
        return SV_E_MALFORMED;
    }
    /* e */
    receive_ephemeral(noise, message);
    message += SV_KEY;
    /* es */
    if ((status = mix_dh(noise, noise->s_private, noise->re)) != 0) {
        return status;
    }
    /* s */
    if ((status = sv_symmetric_decrypt_and_hash(&noise->symmetric, noise->rs, message,
                                                SV_KEY + SV_AEAD_TAG)) != 0) {
        return status;
    }
    message += SV_KEY + SV_AEAD_TAG;
    /* ss */
    if ((status = mix_dh(noise, noise->s_private, noise->rs)) != 0) {
        return status;
    }
    return sv_symmetric_decrypt_and_hash(&noise->symmetric, payload, message,
                                         len - SV_NOISE_MESSAGE1 + SV_AEAD_TAG);
}

int sv_noise_write2(struct sv_noise *noise, uint8_t *dst, const void *payload, size_t payload_len)
{
    int status;
    if (payload_len > MESSAGE_MAX - SV_NOISE_MESSAGE2) {
        return SV_E_INVALID;
    }
    /* e */
    send_ephemeral(noise, dst);
    /* ee */
    if ((status = mix_dh(noise, noise->e_private, noise->re)) != 0) {
        return status;
    }
    /* se */
    if ((status = mix_dh(noise, noise->e_private, noise->rs)) != 0) {
        return status;
    }
    /* psk */
    mix_psk(noise);
    return sv_symmetric_encrypt_and_hash(&noise->symmetric, dst + SV_KEY, payload, payload_len);
}

int sv_noise_read2(struct sv_noise *noise, uint8_t *payload, const uint8_t *message, size_t len)
{
    int status;
    if (len < SV_NOISE_MESSAGE2 || len > MESSAGE_MAX) {
        return SV_E_MALFORMED;
    }
    /* e */
    receive_ephemeral(noise, message);
    /* ee */
    if ((status = mix_dh(noise, noise->e_private, noise->re)) != 0) {
        return status;
    }
    /* se */
    if ((status = mix_dh(noise, noise->s_private, noise->re)) != 0) {
        return status;
    }
    /* psk */
    mix_psk(noise);
    return sv_symmetric_decrypt_and_hash(&noise->symmetric, payload, message + SV_KEY, len - SV_KEY);
}

void sv_noise_finish(const struct sv_noise *noise, uint8_t send_key[SV_AEAD_KEY],
                     uint8_t receive_key[SV_AEAD_KEY], uint8_t hash[SV_HASH])
{
    if (noise->initiator) {
        sv_symmetric_split(&noise->symmetric, send_key, receive_key);
    } else {
        sv_symmetric_split(&noise->symmetric, receive_key, send_key);
    }
    memcpy(hash, noise->symmetric.h, SV_HASH);
}

void sv_noise_clear(struct sv_noise *noise)
{
    sv_wipe(noise, sizeof *noise);
}
