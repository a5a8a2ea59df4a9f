/* Certificate pinning, with the real server and the real client over loopback. */
#include <smartvpn/base.h>
#include <unistd.h>

#include "base/error.h"
#include "tests/c/tls_certificate.h"
#include "tests/c/ws_fixture.h"

static struct tls_certificate hub, other;

static void open_tls(void)
{
    ws_open_loop();
    CHECK_EQ(ws_open_server(hub.cert, hub.key, NULL, 0), 0);
}

static void a_match_opens_the_link(void)
{
    uint8_t message[SV_LINK_HEADROOM + 5] = {[SV_LINK_HEADROOM] = 'h', 'e', 'l', 'l', 'o'};

    open_tls();
    ws_dial("wss://127.0.0.1:%u/path", hub.hash, true, sv_ws_server_port(ws.server));
    ws_wait(&ws.dialed.opened);
    ws_wait(&ws.accepted.opened);
    CHECK(ws.dialed.link->encrypted && ws.accepted.link->encrypted);
    CHECK_EQ(ws.dialed.link->ops->send(ws.dialed.link, message + SV_LINK_HEADROOM, 5), 0);
    ws_wait_received(&ws.accepted, 5);
    CHECK_MEM(ws.accepted.received, "hello", 5);
    ws_close_all();
}

static void check_refused(const char *url, const uint8_t *hash, bool strict)
{
    open_tls();
    ws_dial(url, hash, strict, sv_ws_server_port(ws.server));
    ws_wait(&ws.dialed.closed);
    CHECK(!ws.dialed.opened && !ws.accepted.opened);
    CHECK_EQ(ws.dialed.error, SV_E_AUTH);
    CHECK_STR(ws.dialed.why, "the server's certificate does not match serverCertHash");
    ws_close_all();
}

static void another_certificate_is_refused(void)
{
    check_refused("wss://127.0.0.1:%u/", other.hash, true);
}

/* Not strict: a chain that leads to no CA is no better than a wrong pin. */
static void a_chain_to_nowhere_does_not_help(void)
{
    check_refused("wss://127.0.0.1:%u/", other.hash, false);
}

static void one_bit_makes_another_hash(void)
{
    for (size_t bit = 0; bit < 256; bit += 37) {
        uint8_t hash[32];

        memcpy(hash, hub.hash, 32);
        hash[bit / 8] ^= (uint8_t)(1u << bit % 8);
        check_refused("wss://127.0.0.1:%u/", hash, true);
    }
}

/* The pin speaks for the certificate, whatever name the URL has. */
static void a_match_needs_no_name(void)
{
    open_tls();
    ws_dial("wss://localhost:%u/", hub.hash, false, sv_ws_server_port(ws.server));
    ws_wait(&ws.dialed.opened);
    ws_close_all();
}

/* Without a pin the system's CAs decide. */
static void without_a_pin_a_chain_is_asked(void)
{
    open_tls();
    ws_dial("wss://127.0.0.1:%u/", NULL, false, sv_ws_server_port(ws.server));
    ws_wait(&ws.dialed.closed);
    CHECK_EQ(ws.dialed.error, SV_E_AUTH);
    CHECK(strstr(ws.dialed.why, "self-signed certificate") != NULL);
    ws_close_all();
}

static void fill(uint8_t *bytes, size_t len, uint32_t seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(seed >> 24);
    }
}

/* Large messages in both directions at once: partial TLS writes, reads that end within a record. */
static void streams_cross_whole(void)
{
    enum { MESSAGE = 200 * 1024, MESSAGES = 10 };
    uint8_t *message = malloc(SV_LINK_HEADROOM + MESSAGE), *expected = malloc(MESSAGE);

    open_tls();
    ws_dial("wss://127.0.0.1:%u/", hub.hash, true, sv_ws_server_port(ws.server));
    ws_wait(&ws.dialed.opened);
    ws_wait(&ws.accepted.opened);
    for (uint32_t i = 0; i < MESSAGES; i++) {
        fill(message + SV_LINK_HEADROOM, MESSAGE, i);
        CHECK_EQ(ws.dialed.link->ops->send(ws.dialed.link, message + SV_LINK_HEADROOM, MESSAGE), 0);
        fill(message + SV_LINK_HEADROOM, MESSAGE, i + 100);
        CHECK_EQ(ws.accepted.link->ops->send(ws.accepted.link, message + SV_LINK_HEADROOM, MESSAGE), 0);
        ws_wait_received(&ws.accepted, (i + 1) * MESSAGE);
        ws_wait_received(&ws.dialed, (i + 1) * MESSAGE);
        fill(expected, MESSAGE, i);
        CHECK_MEM(ws.accepted.received + i * MESSAGE, expected, MESSAGE);
        fill(expected, MESSAGE, i + 100);
        CHECK_MEM(ws.dialed.received + i * MESSAGE, expected, MESSAGE);
    }
    free(message);
    free(expected);
    ws_close_all();
}

static void check_fault(const char *cert, const char *key, const char *words)
{
    ws_open_loop();
    CHECK_EQ(ws_open_server(cert, key, NULL, 0), SV_E_INVALID);
    CHECK_STR(sv_error_detail(), words);
    ws_close_all();
}

static void faults_of_a_server_name_their_field(void)
{
    check_fault("nothing", hub.key, "tlsCert: not a certificate in PEM, or one that is too weak");
    check_fault(hub.key, hub.key, "tlsCert: not a certificate in PEM, or one that is too weak");
    check_fault(hub.cert, "nothing", "tlsKey: not a private key in PEM without a passphrase");
    check_fault(hub.cert, hub.cert, "tlsKey: not a private key in PEM without a passphrase");
    check_fault(hub.cert, other.key, "tlsKey: not the key of tlsCert");
}

int main(void)
{
    tls_certificate_make(&hub, "IP:127.0.0.1");
    tls_certificate_make(&other, "IP:127.0.0.1");
    RUN(a_match_opens_the_link);
    RUN(another_certificate_is_refused);
    RUN(a_chain_to_nowhere_does_not_help);
    RUN(one_bit_makes_another_hash);
    RUN(a_match_needs_no_name);
    RUN(without_a_pin_a_chain_is_asked);
    RUN(streams_cross_whole);
    RUN(faults_of_a_server_name_their_field);
    return CHECK_DONE("test_transport_ws_pin");
}
