/* QUIC in a build without ngtcp2 (vendor/README.md). */
#include "base/error.h"
#include "transport/quic.h"

static int absent(void)
{
    return sv_fail(SV_E_UNSUPPORTED,
                   "this build of smartvpn has no QUIC: ngtcp2 was not there when it was built");
}

bool sv_quic_available(void)
{
    return false;
}

int sv_quic_make_certificate(char cert[SV_QUIC_PEM_MAX], char key[SV_QUIC_PEM_MAX])
{
    cert[0] = key[0] = '\0';
    return absent();
}

int sv_quic_cert_hash(uint8_t hash[32], const char *cert)
{
    (void)hash;
    (void)cert;
    return absent();
}

int sv_quic_server_open(struct sv_quic_server **server, struct sv_loop *loop,
                        const struct sv_quic_server_config *config)
{
    (void)loop;
    (void)config;
    *server = NULL;
    return absent();
}

uint16_t sv_quic_server_port(const struct sv_quic_server *server)
{
    (void)server;
    return 0;
}

size_t sv_quic_server_opening(const struct sv_quic_server *server)
{
    (void)server;
    return 0;
}

const struct sv_quic_counters *sv_quic_server_counters(const struct sv_quic_server *server)
{
    static const struct sv_quic_counters none;

    (void)server;
    return &none;
}

void sv_quic_server_stop_accepting(struct sv_quic_server *server)
{
    (void)server;
}

void sv_quic_server_close(struct sv_quic_server *server)
{
    (void)server;
}

int sv_quic_client_connect(struct sv_link **link, struct sv_loop *loop,
                           const struct sv_quic_client_config *config)
{
    (void)link;
    (void)loop;
    (void)config;
    return absent();
}

void sv_quic_client_rebind(struct sv_link *link)
{
    (void)link;
}
