/* TLS 1.3 inside QUIC, by GnuTLS: ALPN `smartvpn`, no tickets, no early data, AES-128-GCM where both can. */
#ifndef SV_TRANSPORT_QUIC_TLS_H
#define SV_TRANSPORT_QUIC_TLS_H

#include <gnutls/gnutls.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <stdbool.h>
#include <stdint.h>

/* What the sessions of one side share. */
struct sv_quic_tls {
    gnutls_certificate_credentials_t credentials;
    gnutls_priority_t priority;
};

/* PEM text. SV_E_INVALID with words that name tlsCert or tlsKey, SV_E_NOMEM. */
int sv_quic_tls_init_server(struct sv_quic_tls *tls, const char *cert, const char *key);
int sv_quic_tls_init_client(struct sv_quic_tls *tls);
void sv_quic_tls_clear(struct sv_quic_tls *tls);

/* The session's pointer is the ref, which lies in a struct sv_quic_conn. host: the server's name, NULL on a server. */
int sv_quic_tls_open(gnutls_session_t *session, const struct sv_quic_tls *tls, ngtcp2_crypto_conn_ref *ref,
                     bool server, const char *host);
/* The peer has chosen our protocol. */
bool sv_quic_tls_agreed(gnutls_session_t session);

#endif
