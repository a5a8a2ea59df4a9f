/* A QUIC server and clients on one loop: what each link has seen, and waiting for it. */
#ifndef SV_TESTS_QUIC_FIXTURE_H
#define SV_TESTS_QUIC_FIXTURE_H

#include <smartvpn/base.h>
#include <stdlib.h>

#include "base/clock.h"
#include "tests/c/check.h"
#include "transport/quic.h"

enum { QUIC_RECEIVED_MAX = 8 << 20 };

struct quic_end {
    struct sv_link *link; /* NULL once it is closed */
    bool opened, closed;
    int error;
    char why[256];
    uint8_t remote[16]; /* at open */
    uint8_t *received;  /* stream bytes */
    size_t received_len;
    size_t datagrams;
    size_t last_len; /* of the last datagram */
    uint8_t last[2048];
    unsigned writable, mtu_changes, paths_asked;
    bool refuse_paths;
    enum sv_link_close close_how;
    bool close_on_bytes;
};

struct quic_fixture {
    struct sv_loop loop;
    struct sv_quic_server *server;
    struct sv_timer *timer;
    bool timed_out;
    struct quic_end accepted, dialed; /* the newest of each side */
    unsigned accepted_count, admit_asked;
    bool admit_all;
    bool close_accepted; /* at once, as close_how says */
    enum sv_link_close close_how;
    char cert[SV_QUIC_PEM_MAX], key[SV_QUIC_PEM_MAX];
    uint8_t hash[32], secret[SV_QUIC_SECRET];
    uint64_t idle, timeout;
};

static struct quic_fixture quic;

static void quic_end_open(struct quic_end *end, struct sv_link *link)
{
    end->link = link;
    end->opened = true;
    memcpy(end->remote, link->remote, 16);
}

static void quic_end_reset(struct quic_end *end)
{
    uint8_t *received = end->received ? end->received : malloc(QUIC_RECEIVED_MAX);

    *end = (struct quic_end){.received = received};
}

static void quic_on_accept(struct sv_link *link)
{
    quic.accepted_count++;
    link->owner = &quic.accepted;
    quic_end_open(&quic.accepted, link);
    if (quic.close_accepted) {
        link->ops->close(link, quic.close_how);
    }
}

static void quic_on_dialed(struct sv_link *link)
{
    quic_end_open(link->owner, link);
}

static void quic_on_bytes(struct sv_link *link, uint8_t *bytes, size_t len)
{
    struct quic_end *end = link->owner;

    if (end->received_len + len <= QUIC_RECEIVED_MAX) {
        memcpy(end->received + end->received_len, bytes, len);
    }
    memset(bytes, 0, len); /* the sink may write there */
    end->received_len += len;
    if (end->close_on_bytes) {
        link->ops->close(link, end->close_how);
    }
}

static void quic_on_datagram(struct sv_link *link, uint8_t *bytes, size_t len)
{
    struct quic_end *end = link->owner;

    end->datagrams++;
    end->last_len = len;
    memcpy(end->last, bytes, len < sizeof end->last ? len : sizeof end->last);
    memset(bytes, 0, len);
}

static void quic_on_writable(struct sv_link *link)
{
    ((struct quic_end *)link->owner)->writable++;
}

static void quic_on_closed(struct sv_link *link, int error, const char *why)
{
    struct quic_end *end = link->owner;

    if (end->link == link || !end->opened) {
        end->link = NULL;
        end->closed = true;
        end->error = error;
        snprintf(end->why, sizeof end->why, "%s", why);
    }
}

static bool quic_on_path(struct sv_link *link, const uint8_t remote[16], uint16_t port)
{
    struct quic_end *end = link->owner;

    (void)remote;
    (void)port;
    end->paths_asked++;
    return !end->refuse_paths;
}

static void quic_on_path_mtu(struct sv_link *link)
{
    ((struct quic_end *)link->owner)->mtu_changes++;
}

static const struct sv_link_sink quic_accept_sink = {
    .on_open = quic_on_accept,
    .on_bytes = quic_on_bytes,
    .on_writable = quic_on_writable,
    .on_closed = quic_on_closed,
    .on_datagram = quic_on_datagram,
    .on_path = quic_on_path,
    .on_path_mtu = quic_on_path_mtu,
};
static const struct sv_link_sink quic_dial_sink = {
    .on_open = quic_on_dialed,
    .on_bytes = quic_on_bytes,
    .on_writable = quic_on_writable,
    .on_closed = quic_on_closed,
    .on_datagram = quic_on_datagram,
    .on_path_mtu = quic_on_path_mtu,
};

static bool quic_admit(void *owner, const uint8_t remote[16])
{
    (void)owner;
    (void)remote;
    quic.admit_asked++;
    return quic.admit_all;
}

static void quic_on_timeout(void *ctx)
{
    (void)ctx;
    quic.timed_out = true;
}

/* Turns the loop until the condition holds; a check fails after 20 s. */
#define QUIC_WAIT(condition)                                         \
    do {                                                             \
        bool met_ = false;                                           \
        quic.timed_out = false;                                      \
        sv_timer_set(quic.timer, sv_clock_now() + 20 * SV_NS_PER_S); \
        while (!(met_ = (condition)) && !quic.timed_out) {           \
            uv_run(&quic.loop.uv, UV_RUN_ONCE);                      \
        }                                                            \
        check_note(met_, __FILE__, __LINE__, #condition);            \
        sv_timer_set(quic.timer, SV_NEVER);                          \
    } while (0)

/* The loop has turned for so long. */
static inline void quic_turn(uint64_t ns)
{
    quic.timed_out = false;
    sv_timer_set(quic.timer, sv_clock_now() + ns);
    while (!quic.timed_out) {
        uv_run(&quic.loop.uv, UV_RUN_ONCE);
    }
    quic.timed_out = false; /* for who waits next */
}

static inline void quic_open_loop(void)
{
    quic_end_reset(&quic.accepted);
    quic_end_reset(&quic.dialed);
    quic.admit_all = true;
    quic.close_accepted = false;
    quic.admit_asked = quic.accepted_count = 0;
    quic.idle = quic.idle ? quic.idle : 30 * SV_NS_PER_S;
    quic.timeout = quic.timeout ? quic.timeout : 10 * SV_NS_PER_S;
    CHECK_EQ(sv_loop_init(&quic.loop, NULL, NULL, NULL), 0);
    quic.timer = sv_timer_new(&quic.loop, quic_on_timeout, NULL);
    if (!quic.cert[0]) {
        CHECK_EQ(sv_quic_make_certificate(quic.cert, quic.key), 0);
        CHECK_EQ(sv_quic_cert_hash(quic.hash, quic.cert), 0);
        memset(quic.secret, 7, sizeof quic.secret);
    }
}

static inline int quic_open_server_at(const char *address)
{
    struct sv_quic_server_config config = {
        .listen_addr = address,
        .cert = quic.cert,
        .key = quic.key,
        .idle_timeout = quic.idle,
        .secret = quic.secret,
        .worker_count = 1,
        .admit = quic_admit,
        .sink = &quic_accept_sink,
    };

    return sv_quic_server_open(&quic.server, &quic.loop, &config);
}

static inline void quic_dial_to(struct quic_end *end, const char *address, const uint8_t *hash)
{
    struct sv_quic_client_config config = {
        .address = address,
        .cert_hash = hash,
        .timeout = quic.timeout,
        .idle_timeout = quic.idle,
        .sink = &quic_dial_sink,
        .owner = end,
    };

    quic_end_reset(end);
    CHECK_EQ(sv_quic_client_connect(&end->link, &quic.loop, &config), 0);
}

static inline void quic_dial(const uint8_t *hash)
{
    char text[64];

    snprintf(text, sizeof text, "127.0.0.1:%u", sv_quic_server_port(quic.server));
    quic_dial_to(&quic.dialed, text, hash);
}

/* A client with a live link to the server. */
static inline void quic_open_pair(void)
{
    quic_open_loop();
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
    quic_dial(quic.hash);
    QUIC_WAIT(quic.dialed.opened);
    QUIC_WAIT(quic.accepted.opened);
}

static inline int quic_send(struct quic_end *end, const void *bytes, size_t len)
{
    static uint8_t copy[SV_LINK_HEADROOM + (1 << 20)];
    int error;

    memcpy(copy + SV_LINK_HEADROOM, bytes, len);
    error = end->link->ops->send(end->link, copy + SV_LINK_HEADROOM, len);
    end->link->ops->flush(end->link);
    return error;
}

/* Waits where the window is full. */
static inline int quic_send_datagram(struct quic_end *end, const void *bytes, size_t len)
{
    int error = end->link->ops->send_datagram(end->link, bytes, len);

    while (error == SV_E_AGAIN && !quic.timed_out) {
        unsigned before = end->writable;

        end->link->ops->flush(end->link);
        QUIC_WAIT(end->writable > before);
        error = end->link->ops->send_datagram(end->link, bytes, len);
    }
    end->link->ops->flush(end->link);
    return error;
}

static inline void quic_close_all(void)
{
    if (quic.dialed.link) {
        quic.dialed.link->ops->close(quic.dialed.link, SV_CLOSE_SILENT);
        QUIC_WAIT(quic.dialed.closed);
    }
    sv_quic_server_close(quic.server);
    quic.server = NULL;
    sv_timer_close(quic.timer);
    sv_loop_clear(&quic.loop);
    free(quic.accepted.received);
    free(quic.dialed.received);
    quic.accepted.received = quic.dialed.received = NULL;
    quic.idle = quic.timeout = 0;
}

#endif
