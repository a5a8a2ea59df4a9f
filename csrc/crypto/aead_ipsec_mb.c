#ifdef SV_HAVE_IPSEC_MB

#include "crypto/aead_impl.h"

#include <pthread.h>
#include <stdlib.h>

#include <intel-ipsec-mb.h>
#include <sodium.h>

#include <smartvpn/base.h>

#include "crypto/keys.h"

/* An AES key and what the library makes of it, which costs as much as sealing a small packet: kept while the key stays the same. */
struct aes_key {
    struct gcm_key_data made;
    uint8_t key[SV_AEAD_KEY];
};

enum { PAGE = 4096 };

/* A manager serves one thread. It holds pointers to keys, no key; what stands beside it is locked, as far as the limit of locked memory goes. */
struct mine {
    struct aes_key seal, open;
    struct gcm_context_data aes;
    IMB_MGR *manager;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t at_thread_end;
static int key_status = -1; /* 0 once at_thread_end exists */
static _Thread_local struct mine *mine;

static void free_mine(void *old)
{
    struct mine *m = old;

    free_mb_mgr(m->manager);
    sodium_munlock(m, sizeof *m); /* which wipes */
    free(m);
    mine = NULL;
}

static void set_up(void)
{
    key_status = pthread_key_create(&at_thread_end, free_mine);
}

static int make_manager(struct mine *m)
{
    static const uint8_t zeros[SV_AEAD_KEY];

    memset(m, 0, sizeof *m);
    m->manager = alloc_mb_mgr(0);
    if (!m->manager) {
        return SV_E_NOMEM;
    }
    init_mb_mgr_auto(m->manager, NULL);
    if (imb_get_errno(m->manager) != 0) {
        free_mb_mgr(m->manager);
        return SV_E_SYSTEM;
    }
    IMB_AES256_GCM_PRE(m->manager, zeros, &m->seal.made);
    IMB_AES256_GCM_PRE(m->manager, zeros, &m->open.made);
    return 0;
}

static int make_mine(void)
{
    pthread_once(&once, set_up);
    if (key_status != 0) {
        return SV_E_NOMEM;
    }
    struct mine *fresh = aligned_alloc(PAGE, (sizeof *fresh + PAGE - 1) / PAGE * PAGE);
    if (!fresh) {
        return SV_E_NOMEM;
    }
    sodium_mlock(fresh, sizeof *fresh);
    int status = make_manager(fresh);
    if (status != 0) {
        sodium_munlock(fresh, sizeof *fresh);
        free(fresh);
        return status;
    }
    if (pthread_setspecific(at_thread_end, fresh) != 0) {
        free_mine(fresh);
        return SV_E_NOMEM;
    }
    mine = fresh;
    return 0;
}

static int ready(void)
{
    return mine ? 0 : make_mine();
}

/* The library leaves the comparison of tags to us. What a forged packet decrypts to must not stay. */
static int compare(uint8_t tag[SV_AEAD_TAG], const uint8_t *sealed_tag, uint8_t *dst, size_t len)
{
    if (sv_equal(tag, sealed_tag, SV_AEAD_TAG)) {
        return 0;
    }
    sv_wipe(tag, SV_AEAD_TAG);
    sv_wipe(dst, len);
    return SV_E_AUTH;
}

/* ---- ChaCha20-Poly1305 ---- */

/* A ChaCha20-Poly1305 job is complete when it returns. Every field it reads is set, so the check of a job is
 * left out. The direct calls (IMB_CHACHA20_POLY1305_INIT and so on) are slower for small packets, no faster
 * for big ones, and leave a context full of secrets to wipe. */
static int submit(IMB_JOB *job)
{
    job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    job->key_len_in_bytes = SV_AEAD_KEY;
    job->iv_len_in_bytes = SV_AEAD_NONCE;
    job->cipher_start_src_offset_in_bytes = job->hash_start_src_offset_in_bytes = 0;
    job->auth_tag_output_len_in_bytes = SV_AEAD_TAG;
    job = IMB_SUBMIT_JOB_NOCHECK(mine->manager);
    return job && job->status == IMB_STATUS_COMPLETED ? 0 : SV_E_SYSTEM;
}

static int run_chacha(IMB_CIPHER_DIRECTION direction, const uint8_t *key, const uint8_t *nonce,
                      const uint8_t *ad, size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len,
                      uint8_t tag[SV_AEAD_TAG])
{
    /* The AVX2 code reads 16 bytes past the key, which the caller's memory need not have. */
    uint8_t roomy_key[SV_AEAD_KEY + 16];
    memcpy(roomy_key, key, SV_AEAD_KEY);
    IMB_JOB *job = IMB_GET_NEXT_JOB(mine->manager);
    job->cipher_direction = direction;
    job->chain_order = direction == IMB_DIR_ENCRYPT ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
    job->enc_keys = job->dec_keys = roomy_key;
    job->iv = nonce;
    job->u.CHACHA20_POLY1305.aad = ad;
    job->u.CHACHA20_POLY1305.aad_len_in_bytes = ad_len;
    job->src = src;
    job->dst = dst;
    job->msg_len_to_cipher_in_bytes = job->msg_len_to_hash_in_bytes = len;
    job->auth_tag_output = tag;
    int status = submit(job);
    sv_wipe(roomy_key, SV_AEAD_KEY);
    return status;
}

static int seal_chacha(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                       size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    int status = ready();
    return status != 0 ? status
                       : run_chacha(IMB_DIR_ENCRYPT, key, nonce, ad, ad_len, dst, src, len, dst + len);
}

static int open_chacha(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                       size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    uint8_t tag[SV_AEAD_TAG];
    int status = ready();
    if (status == 0) {
        status = run_chacha(IMB_DIR_DECRYPT, key, nonce, ad, ad_len, dst, src, len, tag);
    }
    return status != 0 ? status : compare(tag, src + len, dst, len);
}

const struct sv_aead_impl sv_aead_ipsec_mb = {
    .name = "ipsec-mb",
    .probe = ready,
    .seal = seal_chacha,
    .open = open_chacha,
};

/* ---- Poly1305 ---- */

int sv_ipsec_mb_poly1305(const uint8_t key[32], const uint8_t *bytes, size_t len, uint8_t tag[SV_AEAD_TAG])
{
    int status = ready();
    IMB_JOB *job;

    if (status != 0) {
        return status;
    }
    job = IMB_GET_NEXT_JOB(mine->manager);
    job->cipher_mode = IMB_CIPHER_NULL;
    job->hash_alg = IMB_AUTH_POLY1305;
    job->cipher_direction = IMB_DIR_ENCRYPT;
    job->chain_order = IMB_ORDER_HASH_CIPHER;
    job->u.POLY1305._key = key;
    job->src = bytes;
    job->hash_start_src_offset_in_bytes = 0;
    job->msg_len_to_hash_in_bytes = len;
    job->msg_len_to_cipher_in_bytes = 0;
    job->auth_tag_output = tag;
    job->auth_tag_output_len_in_bytes = SV_AEAD_TAG;
    job = IMB_SUBMIT_JOB_NOCHECK(mine->manager);
    return job && job->status == IMB_STATUS_COMPLETED ? 0 : SV_E_SYSTEM;
}

/* ---- AES-256-GCM ---- */

static const struct gcm_key_data *make_aes_key(struct aes_key *kept, const uint8_t key[SV_AEAD_KEY])
{
    if (!sv_equal(kept->key, key, SV_AEAD_KEY)) {
        memcpy(kept->key, key, SV_AEAD_KEY);
        IMB_AES256_GCM_PRE(mine->manager, key, &kept->made);
    }
    return &kept->made;
}

static int seal_aes(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                    size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    int status = ready();
    if (status != 0) {
        return status;
    }
    IMB_AES256_GCM_ENC(mine->manager, make_aes_key(&mine->seal, key), &mine->aes, dst, src, len, nonce, ad,
                       ad_len, dst + len, SV_AEAD_TAG);
    return 0;
}

static int open_aes(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                    size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    uint8_t tag[SV_AEAD_TAG];
    int status = ready();
    if (status != 0) {
        return status;
    }
    IMB_AES256_GCM_DEC(mine->manager, make_aes_key(&mine->open, key), &mine->aes, dst, src, len, nonce, ad,
                       ad_len, tag, SV_AEAD_TAG);
    return compare(tag, src + len, dst, len);
}

const struct sv_aead_impl sv_aead_aes_ipsec_mb = {
    .name = "ipsec-mb",
    .big_endian = true,
    .probe = ready,
    .seal = seal_aes,
    .open = open_aes,
};

#else

#include "crypto/aead_impl.h"

#include <smartvpn/base.h>

int sv_ipsec_mb_poly1305(const uint8_t key[32], const uint8_t *bytes, size_t len, uint8_t tag[SV_AEAD_TAG])
{
    (void)key, (void)bytes, (void)len, (void)tag;
    return SV_E_UNSUPPORTED;
}

#endif
