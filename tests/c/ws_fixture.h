/* A WebSocket server and clients on one loop: what each link has seen, and waiting for it. */
#ifndef SV_TESTS_WS_FIXTURE_H
#define SV_TESTS_WS_FIXTURE_H

#include <stdlib.h>

#include "base/clock.h"
#include "tests/c/check.h"
#include "transport/websocket.h"

enum { WS_RECEIVED_MAX = 4 << 20 };

struct ws_end {
    struct sv_link *link; /* NULL once it is closed */
    bool opened, closed;
    int error;
    char why[256];
    uint8_t remote[16]; /* at open */
    uint16_t remote_port;
    uint8_t *received;
    size_t received_len;
    unsigned writable;
};

struct ws_fixture {
    struct sv_loop loop;
    struct sv_ws_server *server;
    struct sv_timer *timer;
    bool timed_out;
    struct ws_end accepted, dialed; /* the newest of each side */
    unsigned admit_asked;
    uint8_t admit_last[16];
    bool admit_all;
};

static struct ws_fixture ws;

static void ws_end_open(struct ws_end *end, struct sv_link *link)
{
    end->link = link;
    end->opened = true;
    memcpy(end->remote, link->remote, 16);
    end->remote_port = link->remote_port;
}

static void ws_on_accept(struct sv_link *link)
{
    link->owner = &ws.accepted;
    ws_end_open(&ws.accepted, link);
}

static void ws_on_dialed(struct sv_link *link)
{
    ws_end_open(link->owner, link);
}

static void ws_on_bytes(struct sv_link *link, uint8_t *bytes, size_t len)
{
    struct ws_end *end = link->owner;

    if (end->received_len + len <= WS_RECEIVED_MAX) {
        memcpy(end->received + end->received_len, bytes, len);
    }
    end->received_len += len;
}

static void ws_on_writable(struct sv_link *link)
{
    ((struct ws_end *)link->owner)->writable++;
}

static void ws_on_closed(struct sv_link *link, int error, const char *why)
{
    struct ws_end *end = link->owner;

    end->link = NULL;
    end->closed = true;
    end->error = error;
    snprintf(end->why, sizeof end->why, "%s", why);
}

static const struct sv_link_sink ws_accept_sink = {
    .on_open = ws_on_accept,
    .on_bytes = ws_on_bytes,
    .on_writable = ws_on_writable,
    .on_closed = ws_on_closed,
};
static const struct sv_link_sink ws_dial_sink = {
    .on_open = ws_on_dialed,
    .on_bytes = ws_on_bytes,
    .on_writable = ws_on_writable,
    .on_closed = ws_on_closed,
};

static bool ws_admit(void *owner, const uint8_t remote[16])
{
    (void)owner;
    ws.admit_asked++;
    memcpy(ws.admit_last, remote, 16);
    return ws.admit_all;
}

static void ws_on_timeout(void *ctx)
{
    (void)ctx;
    ws.timed_out = true;
}

static void ws_end_reset(struct ws_end *end)
{
    uint8_t *received = end->received ? end->received : malloc(WS_RECEIVED_MAX);

    *end = (struct ws_end){.received = received};
}

/* Turns the loop until *what is true; a check fails after 20 s. */
static inline void ws_wait(const bool *what)
{
    ws.timed_out = false;
    sv_timer_set(ws.timer, sv_clock_now() + 20 * SV_NS_PER_S);
    while (!*what && !ws.timed_out) {
        uv_run(&ws.loop.uv, UV_RUN_ONCE);
    }
    CHECK(*what);
    sv_timer_set(ws.timer, SV_NEVER);
}

/* Turns the loop until the end has received len bytes. */
static inline void ws_wait_received(struct ws_end *end, size_t len)
{
    ws.timed_out = false;
    sv_timer_set(ws.timer, sv_clock_now() + 20 * SV_NS_PER_S);
    while (end->received_len < len && !ws.timed_out) {
        uv_run(&ws.loop.uv, UV_RUN_ONCE);
    }
    CHECK_EQ(end->received_len, len);
    sv_timer_set(ws.timer, SV_NEVER);
}

static inline void ws_open_loop(void)
{
    ws_end_reset(&ws.accepted);
    ws_end_reset(&ws.dialed);
    ws.admit_all = true;
    ws.admit_asked = 0;
    CHECK_EQ(sv_loop_init(&ws.loop, NULL, NULL, NULL), 0);
    ws.timer = sv_timer_new(&ws.loop, ws_on_timeout, NULL);
}

static inline int ws_open_server(const char *cert, const char *key, const struct sv_prefix *proxies,
                                 size_t proxy_count)
{
    struct sv_ws_server_config config = {
        .listen_addr = "127.0.0.1:0",
        .tls_cert = cert,
        .tls_key = key,
        .trusted_proxies = proxies,
        .trusted_count = proxy_count,
        .admit = ws_admit,
        .sink = &ws_accept_sink,
    };

    return sv_ws_server_open(&ws.server, &ws.loop, &config);
}

/* url has one %u for the port. */
static inline void ws_dial(const char *url, const uint8_t *hash, bool strict, uint16_t port)
{
    char text[256];
    struct sv_ws_client_config config = {
        .cert_hash = hash,
        .pin_strict = strict,
        .timeout_ns = 10 * SV_NS_PER_S,
        .sink = &ws_dial_sink,
        .owner = &ws.dialed,
    };

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, sizeof text, url, port);
#pragma GCC diagnostic pop
    config.url = text;
    ws_end_reset(&ws.dialed);
    CHECK_EQ(sv_ws_client_connect(&ws.dialed.link, &ws.loop, &config), 0);
}

static inline void ws_close_all(void)
{
    if (ws.dialed.link) {
        ws.dialed.link->ops->close(ws.dialed.link, SV_CLOSE_SILENT);
        ws_wait(&ws.dialed.closed);
    }
    if (ws.server) {
        sv_ws_server_close(ws.server);
        ws.server = NULL;
    }
    sv_timer_close(ws.timer);
    sv_loop_clear(&ws.loop);
    free(ws.accepted.received);
    free(ws.dialed.received);
    ws.accepted.received = ws.dialed.received = NULL;
}

#endif
