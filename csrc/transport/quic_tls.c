#include "transport/quic_tls.h"

#include <arpa/inet.h>
#include <gnutls/x509.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "transport/quic_conn.h"

/* GnuTLS has AES in hardware 3-4 times faster than its ChaCha20. */
static const char priorities[] =
    "%DISABLE_TLS13_COMPAT_MODE:NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:"
    "+CHACHA20-POLY1305:-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:+GROUP-SECP384R1:%SERVER_PRECEDENCE";

static const gnutls_datum_t protocol = {(unsigned char *)(uintptr_t)"smartvpn", 8};

static struct sv_quic_conn *conn_of(gnutls_session_t session)
{
    return SV_CONTAINER_OF(gnutls_session_get_ptr(session), struct sv_quic_conn, ref);
}

/* ---- what sessions share ---- */

/* Names and dates are nobody's business here: a pin says which certificate it must be, and without one Noise tells who the hub is. */
static int verify(gnutls_session_t session)
{
    struct sv_quic_conn *conn = conn_of(session);
    unsigned count = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &count);
    uint8_t digest[32];
    size_t len = sizeof digest;

    if (!conn->pin) {
        return 0;
    }
    conn->pin_refused = !chain || !count || gnutls_fingerprint(GNUTLS_DIG_SHA256, chain, digest, &len) ||
                        !sv_equal(digest, conn->pin, sizeof digest);
    return conn->pin_refused ? GNUTLS_E_CERTIFICATE_ERROR : 0;
}

static int init(struct sv_quic_tls *tls)
{
    *tls = (struct sv_quic_tls){0};
    if (gnutls_certificate_allocate_credentials(&tls->credentials)) {
        return SV_E_NOMEM;
    }
    return gnutls_priority_init(&tls->priority, priorities, NULL)
               ? sv_fail(SV_E_UNSUPPORTED, "this GnuTLS lacks a cipher that QUIC needs")
               : 0;
}

int sv_quic_tls_init_client(struct sv_quic_tls *tls)
{
    int error = init(tls);

    if (!error) {
        gnutls_certificate_set_verify_function(tls->credentials, verify);
    }
    return error;
}

static gnutls_datum_t text_of(const char *text)
{
    return (gnutls_datum_t){(unsigned char *)(uintptr_t)text, (unsigned)strlen(text)};
}

/* One by one, so that the words name the right field; GnuTLS' own loader of both leaks memory when one of them is bad. */
static int load(struct sv_quic_tls *tls, const char *cert, const char *key)
{
    gnutls_datum_t cert_text = text_of(cert), key_text = text_of(key);
    gnutls_x509_crt_t *chain = NULL;
    gnutls_x509_privkey_t secret;
    unsigned count = 0;
    int error = 0, code;

    if (gnutls_x509_privkey_init(&secret)) {
        return SV_E_NOMEM;
    }
    code = gnutls_x509_privkey_import2(secret, &key_text, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (code) {
        error = sv_fail(SV_E_INVALID, "tlsKey: %s", gnutls_strerror(code));
    }
    if (!error &&
        (code = gnutls_x509_crt_list_import2(&chain, &count, &cert_text, GNUTLS_X509_FMT_PEM, 0)) < 0) {
        error = sv_fail(SV_E_INVALID, "tlsCert: %s", gnutls_strerror(code));
    }
    if (!error && (code = gnutls_certificate_set_x509_key(tls->credentials, chain, (int)count, secret)) < 0) {
        error = sv_fail(SV_E_INVALID, "tlsKey: %s", gnutls_strerror(code));
    }
    for (unsigned i = 0; i < count; i++) {
        gnutls_x509_crt_deinit(chain[i]);
    }
    gnutls_free(chain);
    gnutls_x509_privkey_deinit(secret);
    return error;
}

int sv_quic_tls_init_server(struct sv_quic_tls *tls, const char *cert, const char *key)
{
    int error = init(tls);

    return error ? error : load(tls, cert, key);
}

void sv_quic_tls_clear(struct sv_quic_tls *tls)
{
    if (tls->priority) {
        gnutls_priority_deinit(tls->priority);
    }
    if (tls->credentials) {
        gnutls_certificate_free_credentials(tls->credentials);
    }
    *tls = (struct sv_quic_tls){0};
}

/* ---- one session ---- */

bool sv_quic_tls_agreed(gnutls_session_t session)
{
    gnutls_datum_t chosen;

    return gnutls_alpn_get_selected_protocol(session, &chosen) == 0 && chosen.size == protocol.size &&
           memcmp(chosen.data, protocol.data, protocol.size) == 0;
}

/* A client that offers no protocol at all is not noticed by GnuTLS. */
static int on_client_hello(gnutls_session_t session, unsigned type, unsigned when, unsigned incoming,
                           const gnutls_datum_t *message)
{
    (void)type;
    (void)when;
    (void)incoming;
    (void)message;
    return sv_quic_tls_agreed(session) ? 0 : GNUTLS_E_NO_APPLICATION_PROTOCOL;
}

static bool is_number(const char *host)
{
    struct in6_addr addr;

    return inet_pton(AF_INET, host, &addr) == 1 || inet_pton(AF_INET6, host, &addr) == 1;
}

static int configure(gnutls_session_t session, const struct sv_quic_tls *tls, bool server, const char *host)
{
    if (server) {
        gnutls_handshake_set_hook_function(session, GNUTLS_HANDSHAKE_CLIENT_HELLO, GNUTLS_HOOK_POST,
                                           on_client_hello);
    } else if (host && !is_number(host)) {
        gnutls_server_name_set(session, GNUTLS_NAME_DNS, host, strlen(host));
    }
    return gnutls_priority_set(session, tls->priority) ||
           (server ? ngtcp2_crypto_gnutls_configure_server_session(session)
                   : ngtcp2_crypto_gnutls_configure_client_session(session)) ||
           gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, tls->credentials) ||
           gnutls_alpn_set_protocols(session, &protocol, 1, GNUTLS_ALPN_MANDATORY);
}

int sv_quic_tls_open(gnutls_session_t *session, const struct sv_quic_tls *tls, ngtcp2_crypto_conn_ref *ref,
                     bool server, const char *host)
{
    unsigned flags = server ? GNUTLS_SERVER | GNUTLS_NO_AUTO_SEND_TICKET : GNUTLS_CLIENT;

    if (gnutls_init(session, flags | GNUTLS_NO_TICKETS | GNUTLS_NO_END_OF_EARLY_DATA)) {
        *session = NULL;
        return SV_E_NOMEM;
    }
    gnutls_session_set_ptr(*session, ref);
    return configure(*session, tls, server, host) ? SV_E_SYSTEM : 0;
}
