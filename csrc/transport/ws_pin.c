#include "transport/ws_pin.h"

#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "crypto/keys.h"

/* "name:port", "[v6]:port" or either without port. */
static void copy_host(char *dst, size_t size, const char *host)
{
    bool bracket = host[0] == '[';
    const char *from = bracket ? host + 1 : host;
    size_t n = strcspn(from, bracket ? "]" : ":");

    n = n < size ? n : size - 1;
    memcpy(dst, from, n);
    dst[n] = '\0';
}

void sv_ws_pin_init(struct sv_ws_pin *pin, const uint8_t *hash, bool strict, const char *host)
{
    *pin = (struct sv_ws_pin){.set = hash != NULL, .strict = strict};
    if (hash) {
        memcpy(pin->hash, hash, sizeof pin->hash);
    }
    copy_host(pin->host, sizeof pin->host, host);
}

static bool matches(const struct sv_ws_pin *pin, X509_STORE_CTX *store)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int len = 0;
    X509 *certificate = X509_STORE_CTX_get0_cert(store);

    return certificate && X509_digest(certificate, EVP_sha256(), digest, &len) && len == sizeof pin->hash &&
           sv_equal(digest, pin->hash, sizeof pin->hash);
}

static bool chain_is_valid(const struct sv_ws_pin *pin, X509_STORE_CTX *store)
{
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(store);

    if (!X509_VERIFY_PARAM_set1_ip_asc(param, pin->host) &&
        !X509_VERIFY_PARAM_set1_host(param, pin->host, 0)) {
        return false;
    }
    return X509_verify_cert(store) == 1;
}

static int verify(X509_STORE_CTX *store, void *ctx)
{
    struct sv_ws_pin *pin = ctx;
    bool good = matches(pin, store) || (!pin->strict && chain_is_valid(pin, store));

    pin->refused = !good;
    X509_STORE_CTX_set_error(store, good ? X509_V_OK : X509_V_ERR_CERT_REJECTED);
    return good;
}

void sv_ws_pin_install(struct sv_ws_pin *pin, void *ssl_ctx)
{
    SSL_CTX_set_verify(ssl_ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(ssl_ctx, verify, pin);
}
