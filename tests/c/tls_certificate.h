/* A self-signed certificate, made in memory. */
#ifndef SV_TESTS_TLS_CERTIFICATE_H
#define SV_TESTS_TLS_CERTIFICATE_H

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TLS_TEXT = 8192 };

struct tls_certificate {
    char cert[TLS_TEXT], key[TLS_TEXT]; /* PEM */
    uint8_t hash[32];                   /* SHA-256 of the DER */
};

static inline void tls_to_text(BIO *bio, char text[TLS_TEXT])
{
    int n = BIO_read(bio, text, TLS_TEXT - 1);

    text[n > 0 ? n : 0] = '\0';
    BIO_free(bio);
}

/* alt_names as OpenSSL writes them: "IP:127.0.0.1,DNS:localhost". */
static inline void tls_certificate_make(struct tls_certificate *made, const char *alt_names)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x509 = X509_new();
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, alt_names);
    BIO *cert_text = BIO_new(BIO_s_mem()), *key_text = BIO_new(BIO_s_mem());

    X509_set_version(x509, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_gmtime_adj(X509_getm_notBefore(x509), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x509), 86400);
    X509_set_pubkey(x509, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC, (const unsigned char *)"test",
                               -1, -1, 0);
    X509_set_issuer_name(x509, X509_get_subject_name(x509));
    X509_add_ext(x509, names, -1);
    if (!X509_sign(x509, key, EVP_sha256()) || !PEM_write_bio_X509(cert_text, x509) ||
        !PEM_write_bio_PrivateKey(key_text, key, NULL, NULL, 0, NULL, NULL) ||
        !X509_digest(x509, EVP_sha256(), made->hash, NULL)) {
        abort();
    }
    tls_to_text(cert_text, made->cert);
    tls_to_text(key_text, made->key);
    X509_EXTENSION_free(names);
    X509_free(x509);
    EVP_PKEY_free(key);
}

#endif
