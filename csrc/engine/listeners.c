/* Opening the hub's listeners: each worker has its own on the shared address. */
#include "engine/listeners.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "engine/hub.h"
#include "io/socket.h"

enum { QUIC_IDLE_SECS = 30 };

struct listen_at {
    uint8_t ip[16];
    uint16_t port;
};

static int read_address(struct listen_at *at, const char *text, const char *field)
{
    struct sockaddr_storage addr;
    socklen_t addr_len;
    int error = sv_sockaddr_parse(&addr, &addr_len, text);

    if (error) {
        return sv_fail(error, "%s: '%.64s' is not host:port", field, text);
    }
    sv_sockaddr_split(&addr, at->ip, &at->port);
    return 0;
}

/* The first listener may be given port 0: the others then take the port it got. */
static int listen_websocket(struct sv_engine *engine, const sv_server_config *config)
{
    char text[SV_ADDR_TEXT_SIZE];
    struct listen_at at;
    int error = read_address(&at, config->listen_addr, "listenAddr");

    for (size_t i = 0; i < engine->worker_count && !error; i++) {
        struct sv_worker *worker = &engine->workers[i];
        struct sv_ws_server_config ws = {
            .listen_addr = sv_sockaddr_format(text, sizeof text, at.ip, at.port),
            .tls_cert = config->tls_cert,
            .tls_key = config->tls_key,
            .trusted_proxies = engine->hub->proxies,
            .trusted_count = engine->hub->proxy_count,
            .reuse_port = engine->worker_count > 1,
            .admit = sv_hub_admit_source,
            .sink = &sv_accept_sink,
            .owner = worker,
        };

        error = sv_ws_server_open(&worker->ws, &worker->loop, &ws);
        at.port = error ? at.port : sv_ws_server_port(worker->ws);
    }
    return error;
}

static int listen_quic(struct sv_engine *engine, const sv_server_config *config)
{
    char text[SV_ADDR_TEXT_SIZE];
    uint8_t made[SV_QUIC_SECRET];
    struct listen_at at;
    int error = read_address(&at, config->quic_listen_addr, "quicListenAddr");

    sv_random(made, sizeof made);
    if (!at.port && engine->workers[0].ws) {
        at.port = sv_ws_server_port(engine->workers[0].ws);
    }
    for (size_t i = 0; i < engine->worker_count && !error; i++) {
        struct sv_worker *worker = &engine->workers[i];
        struct sv_quic_server_config quic = {
            .listen_addr = sv_sockaddr_format(text, sizeof text, at.ip, at.port),
            .cert = config->quic_cert,
            .key = config->quic_key,
            .idle_timeout = (config->quic_idle_timeout_secs ? config->quic_idle_timeout_secs
                                                            : QUIC_IDLE_SECS) *
                            SV_NS_PER_S,
            .secret = config->quic_secret ? config->quic_secret : made,
            .worker = i,
            .worker_count = engine->worker_count,
            .admit = sv_hub_admit_source,
            .sink = &sv_accept_sink,
            .owner = worker,
        };

        error = sv_quic_server_open(&worker->quic, &worker->loop, &quic);
        at.port = error ? at.port : sv_quic_server_port(worker->quic);
    }
    sv_wipe(made, sizeof made);
    return error;
}

int sv_listeners_open(struct sv_engine *engine, const sv_server_config *config)
{
    int error = config->listen_addr ? listen_websocket(engine, config) : 0;

    return error || !config->quic_listen_addr ? error : listen_quic(engine, config);
}

uint16_t sv_engine_port(const sv_engine *engine)
{
    return engine->server && engine->workers[0].ws ? sv_ws_server_port(engine->workers[0].ws) : 0;
}

uint16_t sv_engine_quic_port(const sv_engine *engine)
{
    return engine->server && engine->workers[0].quic ? sv_quic_server_port(engine->workers[0].quic) : 0;
}

bool sv_engine_has_quic(void)
{
    return sv_quic_available();
}

int sv_make_certificate(char *cert, char *key)
{
    return sv_quic_make_certificate(cert, key);
}
