/* A QUIC server, over real sockets, against datagrams of strangers and against a peer with keys that puts any frames into its packets, any number of
 * packets, in any order with datagrams that are none.
 *
 * Input: actions kind:1 length:2 (little-endian) bytes. kind & 1: the frames of a packet under the connection's keys; else a datagram as it is.
 * kind & 2: from another address than the last. kind & 4: the server's owner answers what it gets. The first byte of all says whether a connection is
 * opened at all (odd) or strangers speak alone (even). */
#include <smartvpn/base.h>

#include "base/clock.h"
#include "crypto/keys.h"
#include "tests/c/quic_forger.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ACTIONS_MAX = 64, TURNS_MAX = 400 };

static struct sv_loop loop;
static struct sv_quic_server *server;
static char cert[SV_QUIC_PEM_MAX], key[SV_QUIC_PEM_MAX];
static struct sv_link *accepted;
static bool answers;
static unsigned closed;

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

/* ---- the server's owner: writes on what it gets, answers, closes ---- */

static void answer(struct sv_link *link, uint8_t *bytes, size_t len)
{
    static uint8_t frame[SV_LINK_HEADROOM + 65536];
    uint8_t first = bytes[0];

    memset(bytes, 0xAA, len);
    if (answers && len <= 65536) {
        link->ops->send(link, frame + SV_LINK_HEADROOM, len);
        link->ops->send_datagram(link, frame, len % 1500);
    }
    if (first == 'C') {
        link->ops->close(link, len & 1 ? SV_CLOSE_SILENT : SV_CLOSE_GRACEFUL);
    }
}

static void on_accepted(struct sv_link *link)
{
    accepted = link;
}

static void on_writable(struct sv_link *link)
{
    static const uint8_t bytes[100];

    while (link->ops->send_datagram(link, bytes, sizeof bytes) == 0 && answers) {
    }
}

static void on_closed(struct sv_link *link, int error, const char *text)
{
    (void)error;
    require(text != NULL);
    closed++;
    if (accepted == link) {
        accepted = NULL;
    }
}

static bool on_path(struct sv_link *link, const uint8_t remote[16], uint16_t port)
{
    (void)link;
    (void)remote;
    return port % 5 != 0;
}

static const struct sv_link_sink sink = {
    .on_open = on_accepted,
    .on_bytes = answer,
    .on_datagram = answer,
    .on_writable = on_writable,
    .on_closed = on_closed,
    .on_path = on_path,
};

/* ---- the peer ---- */

static void open_conn(void)
{
    forger_dial();
    for (unsigned i = 0; i < TURNS_MAX && !accepted; i++) {
        forger_turn();
    }
    require(accepted != NULL);
}

/* ---- one input ---- */

static void open_all(bool with_conn)
{
    static const uint8_t secret[SV_QUIC_SECRET] = {1};
    struct sv_quic_server_config config = {
        .listen_addr = "127.0.0.1:0",
        .cert = cert,
        .key = key,
        .idle_timeout = 30 * SV_NS_PER_S,
        .secret = secret,
        .worker_count = 2,
        .sink = &sink,
    };

    if (!cert[0]) {
        require(sv_crypto_init() == 0 && sv_quic_make_certificate(cert, key) == 0);
        require(sv_loop_init(&loop, NULL, NULL, NULL) == 0);
    }
    require(sv_quic_server_open(&server, &loop, &config) == 0);
    forger_aim(&loop, sv_quic_server_port(server));
    answers = false;
    if (with_conn) {
        open_conn();
    }
}

static void close_all(void)
{
    forger_close();
    sv_quic_server_close(server);
    require(accepted == NULL);
    uv_run(&loop.uv, UV_RUN_NOWAIT);
}

static void act(uint8_t kind, const uint8_t *bytes, size_t len)
{
    forger.from ^= (kind & 2) != 0;
    answers = kind & 4;
    if (!(kind & 1)) {
        forger_put(bytes, len);
    } else {
        forger_send(bytes, len < FORGER_FRAMES ? len : FORGER_FRAMES);
    }
    forger_turn();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    open_all(data[0] & 1);
    data++;
    size--;
    for (unsigned i = 0; i < ACTIONS_MAX && size >= 3; i++) {
        size_t len = (size_t)(data[1] | data[2] << 8);

        len = len < size - 3 ? len : size - 3;
        act(data[0], data + 3, len);
        data += 3 + len;
        size -= 3 + len;
    }
    forger_turn();
    close_all();
    return 0;
}
