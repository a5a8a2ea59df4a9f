#ifdef SV_HAVE_IPSEC_MB

#include "crypto/aead_impl.h"

#include <pthread.h>

#include <intel-ipsec-mb.h>

#include <smartvpn/base.h>

#include "crypto/keys.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t at_thread_end;
static int key_status = -1;            /* 0 once at_thread_end exists */
static _Thread_local IMB_MGR *manager; /* a manager serves one thread */

/* A manager holds pointers to keys, no key. */
static void free_manager(void *old)
{
    free_mb_mgr(old);
    manager = NULL;
}

static void set_up(void)
{
    key_status = pthread_key_create(&at_thread_end, free_manager);
}

static int make_manager(void)
{
    pthread_once(&once, set_up);
    if (key_status != 0) {
        return SV_E_NOMEM;
    }
    IMB_MGR *fresh = alloc_mb_mgr(0);
    if (!fresh) {
        return SV_E_NOMEM;
    }
    init_mb_mgr_auto(fresh, NULL);
    if (imb_get_errno(fresh) != 0) {
        free_mb_mgr(fresh);
        return SV_E_SYSTEM;
    }
    if (pthread_setspecific(at_thread_end, fresh) != 0) {
        free_mb_mgr(fresh);
        return SV_E_NOMEM;
    }
    manager = fresh;
    return 0;
}

static int manager_ready(void)
{
    return manager ? 0 : make_manager();
}

static int probe(void)
{
    return manager_ready();
}

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
    job = IMB_SUBMIT_JOB_NOCHECK(manager);
    return job && job->status == IMB_STATUS_COMPLETED ? 0 : SV_E_SYSTEM;
}

static int run(IMB_CIPHER_DIRECTION direction, const uint8_t *key, const uint8_t *nonce, const uint8_t *ad,
               size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len, uint8_t tag[SV_AEAD_TAG])
{
    /* The AVX2 code reads 16 bytes past the key, which the caller's memory need not have. */
    uint8_t roomy_key[SV_AEAD_KEY + 16];
    memcpy(roomy_key, key, SV_AEAD_KEY);
    IMB_JOB *job = IMB_GET_NEXT_JOB(manager);
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

static int seal(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    int status = manager_ready();
    return status != 0 ? status : run(IMB_DIR_ENCRYPT, key, nonce, ad, ad_len, dst, src, len, dst + len);
}

static int open(const uint8_t key[SV_AEAD_KEY], const uint8_t nonce[SV_AEAD_NONCE], const uint8_t *ad,
                size_t ad_len, uint8_t *dst, const uint8_t *src, size_t len)
{
    uint8_t tag[SV_AEAD_TAG];
    int status = manager_ready();
    if (status != 0) {
        return status;
    }
    status = run(IMB_DIR_DECRYPT, key, nonce, ad, ad_len, dst, src, len, tag);
    /* The library leaves the comparison of tags to us. What a forged packet decrypts to must not stay. */
    if (status == 0 && !sv_equal(tag, src + len, sizeof tag)) {
        sv_wipe(tag, sizeof tag);
        sv_wipe(dst, len);
        status = SV_E_AUTH;
    }
    return status;
}

const struct sv_aead_impl sv_aead_ipsec_mb = {
    .name = "ipsec-mb",
    .probe = probe,
    .seal = seal,
    .open = open,
};

#endif
