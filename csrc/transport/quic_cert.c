/* The hub's own certificate. Clients know it by its hash, so that name and dates say nothing. */
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "transport/quic.h"

enum { SERIAL = 16 };

static const time_t NO_END = 253402300799; /* 9999-12-31 23:59:59, which RFC 5280 reads as "does not end" */

static int to_text(gnutls_datum_t *pem, char text[SV_QUIC_PEM_MAX])
{
    bool fits = pem->size < SV_QUIC_PEM_MAX;

    if (fits) {
        memcpy(text, pem->data, pem->size);
        text[pem->size] = '\0';
    }
    sv_wipe(pem->data, pem->size);
    gnutls_free(pem->data);
    return fits ? 0 : -1;
}

static int fill(gnutls_x509_crt_t cert, gnutls_x509_privkey_t key)
{
    uint8_t serial[SERIAL];

    sv_random(serial, sizeof serial);
    serial[0] &= 0x7F; /* positive */
    return gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                        GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0) ||
           gnutls_x509_crt_set_version(cert, 3) || gnutls_x509_crt_set_serial(cert, serial, sizeof serial) ||
           gnutls_x509_crt_set_dn(cert, "CN=smartvpn", NULL) ||
           gnutls_x509_crt_set_activation_time(cert, (time_t)(sv_clock_wall() / SV_NS_PER_S) - 86400) ||
           gnutls_x509_crt_set_expiration_time(cert, NO_END) || gnutls_x509_crt_set_key(cert, key) ||
           gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_DNSNAME, "smartvpn", 8, GNUTLS_FSAN_SET) ||
           gnutls_x509_crt_sign2(cert, cert, key, GNUTLS_DIG_SHA256, 0);
}

static int write_out(gnutls_x509_crt_t x509, gnutls_x509_privkey_t secret, char *cert, char *key)
{
    gnutls_datum_t pem;

    if (gnutls_x509_crt_export2(x509, GNUTLS_X509_FMT_PEM, &pem) || to_text(&pem, cert)) {
        return -1;
    }
    return gnutls_x509_privkey_export2_pkcs8(secret, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &pem) ||
           to_text(&pem, key);
}

int sv_quic_make_certificate(char cert[SV_QUIC_PEM_MAX], char key[SV_QUIC_PEM_MAX])
{
    gnutls_x509_privkey_t secret = NULL;
    gnutls_x509_crt_t x509 = NULL;
    int error = SV_E_SYSTEM;

    if (!gnutls_x509_privkey_init(&secret) && !gnutls_x509_crt_init(&x509) && !fill(x509, secret) &&
        !write_out(x509, secret, cert, key)) {
        error = 0;
    }
    if (x509) {
        gnutls_x509_crt_deinit(x509);
    }
    if (secret) {
        gnutls_x509_privkey_deinit(secret);
    }
    return error ? sv_fail(error, "cannot make a certificate") : 0;
}

int sv_quic_cert_hash(uint8_t hash[32], const char *cert)
{
    gnutls_datum_t pem = {(unsigned char *)(uintptr_t)cert, (unsigned)strlen(cert)};
    gnutls_x509_crt_t x509;
    size_t len = 32;
    int error = SV_E_MALFORMED;

    if (gnutls_x509_crt_init(&x509)) {
        return SV_E_NOMEM;
    }
    if (!gnutls_x509_crt_import(x509, &pem, GNUTLS_X509_FMT_PEM) &&
        !gnutls_x509_crt_get_fingerprint(x509, GNUTLS_DIG_SHA256, hash, &len)) {
        error = 0;
    }
    gnutls_x509_crt_deinit(x509);
    return error;
}
