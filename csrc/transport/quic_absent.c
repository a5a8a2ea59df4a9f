/* A build without ngtcp2: everything says so. */
#include "base/error.h"
#include "transport/quic.h"

static int absent(void)
{
    return sv_fail(SV_E_UNSUPPORTED, "QUIC is not in this build");
}

bool sv_quic_available(void)
{
    return false;
}

int sv_quic_make_certificate(char cert[SV_QUIC_PEM_MAX], char key[SV_QUIC_PEM_MAX])
{
    (void)cert;
    (void)key;
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
    (void)server;
    (void)loop;
    (void)config;
    return absent();
}

uint16_t sv_quic_server_port(const struct sv_quic_server *server)
{
    (void)server;
    return 0;
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
