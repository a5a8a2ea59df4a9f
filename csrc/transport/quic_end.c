/* How a connection ends: what the peer is told, and what its owner reads. */
#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "transport/quic_conn.h"

enum { NO_SUCH_PROTOCOL = 120, ALERT_MAX = 255 }; /* TLS alerts */

static const uint64_t LAST_WORD_WITHIN = SV_NS_PER_S;

/* ---- the end ---- */

void sv_quic_conn_end(struct sv_quic_conn *conn, int error, const char *why)
{
    if (conn->state == SV_QUIC_CLOSED) {
        return;
    }
    sv_quic_send_forget(conn);
    conn->state = SV_QUIC_CLOSED;
    conn->error = error;
    snprintf(conn->why, sizeof conn->why, "%s", why);
    sv_quic_conn_arm(conn);
}

void sv_quic_conn_fail(struct sv_quic_conn *conn, const ngtcp2_ccerr *ccerr, int error, const char *why)
{
    if (conn->state == SV_QUIC_CLOSED) {
        return;
    }
    if (conn->quic && !sv_quic_write_close(conn, ccerr)) {
        conn->close_due = true;
        conn->last_word = *ccerr;
        conn->give_up_at = sv_quic_side_now(conn->side) + LAST_WORD_WITHIN;
    }
    sv_quic_conn_end(conn, error, why);
}

void sv_quic_conn_say_last_word(struct sv_quic_conn *conn)
{
    conn->close_due = !sv_quic_write_close(conn, &conn->last_word);
    sv_quic_conn_arm(conn);
}

void sv_quic_conn_close(struct sv_quic_conn *conn, int error, const char *why)
{
    ngtcp2_ccerr ccerr;

    ngtcp2_ccerr_default(&ccerr);
    ngtcp2_ccerr_set_application_error(&ccerr, 0, NULL, 0);
    sv_quic_conn_fail(conn, &ccerr, error, why);
}

void sv_quic_conn_finish(struct sv_quic_conn *conn)
{
    if (conn->state != SV_QUIC_CLOSED) {
        sv_quic_conn_close(conn, 0, "");
    }
    if (conn->told) {
        conn->link.sink->on_closed(&conn->link, conn->error, conn->why);
    }
    conn->side->ops->on_gone(conn);
}

/* ---- reasons in words ---- */

static const char *alert_name(uint8_t alert)
{
    const char *name = alert ? gnutls_alert_get_name((gnutls_alert_description_t)alert) : NULL;

    return name ? name : "bad message";
}

static bool is_alert(uint64_t code)
{
    return code >= NGTCP2_CRYPTO_ERROR && code <= NGTCP2_CRYPTO_ERROR + ALERT_MAX;
}

static void explain_transport_error(const ngtcp2_ccerr *ccerr, int *error, char why[SV_QUIC_WHY])
{
    *error = SV_E_PROTOCOL;
    if (ccerr->error_code == NGTCP2_CONNECTION_REFUSED) {
        *error = SV_E_REFUSED;
        snprintf(why, SV_QUIC_WHY, "the other side refused the connection");
    } else if (ccerr->error_code == NGTCP2_CRYPTO_ERROR + NO_SUCH_PROTOCOL) {
        *error = SV_E_REFUSED;
        snprintf(why, SV_QUIC_WHY, "the other side does not speak smartvpn over QUIC (ALPN)");
    } else if (is_alert(ccerr->error_code)) {
        snprintf(why, SV_QUIC_WHY, "the other side ended the TLS handshake: %s",
                 alert_name((uint8_t)(ccerr->error_code - NGTCP2_CRYPTO_ERROR)));
    } else {
        snprintf(why, SV_QUIC_WHY, "the other side ended the connection: QUIC error 0x%llx",
                 (unsigned long long)ccerr->error_code);
    }
}

static void end_by_peer(struct sv_quic_conn *conn)
{
    const ngtcp2_ccerr *ccerr = ngtcp2_conn_get_ccerr2(conn->quic);
    char why[SV_QUIC_WHY] = "the other side closed the connection";
    int error = 0;

    if (conn->was_reset) {
        sv_quic_conn_end(conn, SV_E_CLOSED, "the other side does not know the connection any more");
        return;
    }
    if (ccerr->type == NGTCP2_CCERR_TYPE_TRANSPORT && ccerr->error_code != NGTCP2_NO_ERROR) {
        explain_transport_error(ccerr, &error, why);
    } else if (ccerr->type == NGTCP2_CCERR_TYPE_APPLICATION && conn->state == SV_QUIC_OPENING) {
        error = SV_E_REFUSED;
    }
    sv_quic_conn_end(conn, error, why);
}

/* What goes wrong before it is open is a failed handshake. */
static void count_offence(const struct sv_quic_conn *conn)
{
    if (conn->side->broken && conn->told) {
        ++*conn->side->broken;
    }
}

static void end_by_tls(struct sv_quic_conn *conn)
{
    uint8_t alert = ngtcp2_conn_get_tls_alert2(conn->quic);
    ngtcp2_ccerr ccerr;
    char why[SV_QUIC_WHY];

    count_offence(conn);
    ngtcp2_ccerr_default(&ccerr);
    ngtcp2_ccerr_set_tls_alert(&ccerr, alert, NULL, 0);
    if (conn->pin_refused) {
        sv_quic_conn_fail(conn, &ccerr, SV_E_AUTH, "the server's certificate does not match serverCertHash");
        return;
    }
    snprintf(why, sizeof why, "the TLS handshake failed: %s", alert_name(alert));
    sv_quic_conn_fail(conn, &ccerr, SV_E_PROTOCOL, why);
}

/* A fatal one is our own: memory, a callback. */
static void end_by_offence(struct sv_quic_conn *conn, int quic_error)
{
    ngtcp2_ccerr ccerr;
    char why[SV_QUIC_WHY];

    if (!ngtcp2_err_is_fatal(quic_error)) {
        count_offence(conn);
    }
    ngtcp2_ccerr_default(&ccerr);
    ngtcp2_ccerr_set_liberr(&ccerr, quic_error, NULL, 0);
    snprintf(why, sizeof why, "QUIC: %s", ngtcp2_strerror(quic_error));
    sv_quic_conn_fail(conn, &ccerr, quic_error == NGTCP2_ERR_NOMEM ? SV_E_NOMEM : SV_E_PROTOCOL, why);
}

void sv_quic_conn_fail_by(struct sv_quic_conn *conn, int quic_error)
{
    switch (quic_error) {
    case NGTCP2_ERR_DRAINING:
        end_by_peer(conn);
        return;
    case NGTCP2_ERR_IDLE_CLOSE:
        sv_quic_conn_end(conn, SV_E_TIMEOUT, "nothing came from the other side for the idle timeout");
        return;
    case NGTCP2_ERR_HANDSHAKE_TIMEOUT:
        sv_quic_conn_end(conn, SV_E_TIMEOUT, "no connection in time");
        return;
    case NGTCP2_ERR_DROP_CONN:
    case NGTCP2_ERR_RETRY:
        sv_quic_conn_end(conn, SV_E_PROTOCOL, "the handshake is not one");
        return;
    case NGTCP2_ERR_RECV_VERSION_NEGOTIATION:
        sv_quic_conn_end(conn, SV_E_UNSUPPORTED, "the server does not speak QUIC version 1");
        return;
    case NGTCP2_ERR_CRYPTO:
        end_by_tls(conn);
        return;
    default:
        end_by_offence(conn, quic_error);
    }
}
