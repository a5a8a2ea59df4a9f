#include "transport/ws_tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <stdbool.h>

#include "crypto/aead.h"

/* Both ciphers of AES are as safe here, where what they carry is sealed already: the faster one first. Where AES has no instructions ChaCha20-Poly1305 is faster than
 * either; a hub goes by what its client puts first. */
void sv_ws_tls_prefer(void *ssl_ctx)
{
    SSL_CTX_set_options(ssl_ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_ciphersuites(
        ssl_ctx, sv_aead_prefers_aes()
                     ? "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
                     : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384");
}

/* An encrypted key fails: there is nobody to ask for its passphrase. */
static int no_passphrase(char *buffer, int size, int writing, void *ctx)
{
    (void)buffer;
    (void)size;
    (void)writing;
    (void)ctx;
    return -1;
}

static bool use_chain(SSL_CTX *ctx, const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *certificate = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
    bool good = certificate && SSL_CTX_use_certificate(ctx, certificate) == 1;

    X509_free(certificate);
    while (good && (certificate = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL))) {
        good = SSL_CTX_add_extra_chain_cert(ctx, certificate) == 1;
        if (!good) {
            X509_free(certificate);
        }
    }
    BIO_free(bio);
    return good;
}

static EVP_PKEY *read_key(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);

    BIO_free(bio);
    return key;
}

static const char *use_both(SSL_CTX *ctx, const char *chain, EVP_PKEY *key)
{
    if (!use_chain(ctx, chain)) {
        return "tlsCert: not a certificate in PEM, or one that is too weak";
    }
    if (!key) {
        return "tlsKey: not a private key in PEM without a passphrase";
    }
    return X509_check_private_key(SSL_CTX_get0_certificate(ctx), key) == 1 &&
                   SSL_CTX_use_PrivateKey(ctx, key) == 1
               ? NULL
               : "tlsKey: not the key of tlsCert";
}

const char *sv_ws_tls_use(void *ssl_ctx, const char *chain, const char *key_text)
{
    EVP_PKEY *key = read_key(key_text);
    const char *fault = use_both(ssl_ctx, chain, key);

    SSL_CTX_set_min_proto_version(ssl_ctx, TLS1_2_VERSION);
    sv_ws_tls_prefer(ssl_ctx);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return fault;
}

const char *sv_ws_tls_check(const char *chain, const char *key)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    const char *fault = ctx ? sv_ws_tls_use(ctx, chain, key) : "tlsCert: out of memory";

    SSL_CTX_free(ctx);
    return fault;
}
