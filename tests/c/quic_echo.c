/* One end of a QUIC link for tests against other implementations.
 *
 *   quic_echo server                 prints its port and its certificate's hash, then echoes stream bytes and datagrams of every link
 *   quic_echo client ADDRESS [HASH]  sends "frame" and a datagram "packet", ends gracefully when both are back
 *
 * What happens to links is told line by line: open, bytes, datagram, closed STATUS WORDS. Ends when its input does.
 */
#include <smartvpn/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "transport/quic.h"

static struct sv_loop loop;
static bool client, got_frame, got_packet;

static void send_bytes(struct sv_link *link, const void *bytes, size_t len)
{
    static uint8_t frame[SV_LINK_HEADROOM + 65536];

    memcpy(frame + SV_LINK_HEADROOM, bytes, len);
    link->ops->send(link, frame + SV_LINK_HEADROOM, len);
    link->ops->flush(link);
}

static void on_open(struct sv_link *link)
{
    printf("open datagram_max %u\n", link->datagram_max);
    if (client) {
        send_bytes(link, "frame", 5);
    }
}

static void end_when_done(struct sv_link *link)
{
    if (client && got_frame && got_packet) {
        link->ops->close(link, SV_CLOSE_GRACEFUL);
    }
}

static void on_bytes(struct sv_link *link, uint8_t *bytes, size_t len)
{
    printf("bytes %zu\n", len);
    if (!client) {
        send_bytes(link, bytes, len);
        return;
    }
    got_frame |= len == 5 && memcmp(bytes, "frame", 5) == 0;
    end_when_done(link);
}

static void on_writable(struct sv_link *link)
{
    (void)link;
}

/* Nothing is written while a packet is read, so an echo waits for the timer. */
static struct sv_timer *timer;
static struct sv_link *waiting;
static uint8_t packet[2048] = "packet";
static size_t packet_len = 6;

static void on_timer(void *ctx)
{
    (void)ctx;
    if (waiting && waiting->ops->send_datagram(waiting, packet, packet_len) == SV_E_AGAIN) {
        sv_timer_set(timer, sv_clock_now() + SV_NS_PER_MS);
    }
    if (waiting) {
        waiting->ops->flush(waiting);
    }
}

static void on_client_open(struct sv_link *link)
{
    on_open(link);
    waiting = link;
    sv_timer_set(timer, 0);
}

static void on_datagram(struct sv_link *link, uint8_t *bytes, size_t len)
{
    printf("datagram %zu\n", len);
    if (client) {
        got_packet |= len == packet_len && memcmp(bytes, packet, len) == 0;
        end_when_done(link);
        return;
    }
    waiting = link;
    packet_len = len;
    memcpy(packet, bytes, len);
    sv_timer_set(timer, 0);
}

static void on_closed(struct sv_link *link, int error, const char *text)
{
    waiting = waiting == link ? NULL : waiting;
    printf("closed %d %s\n", error, text);
    if (client) {
        sv_loop_stop(&loop);
    }
}

static void on_input(void *ctx, int events)
{
    char byte;

    (void)ctx;
    (void)events;
    if (read(STDIN_FILENO, &byte, 1) <= 0) {
        sv_loop_stop(&loop);
    }
}

static const struct sv_link_sink sink = {
    .on_open = on_open,
    .on_bytes = on_bytes,
    .on_writable = on_writable,
    .on_closed = on_closed,
    .on_datagram = on_datagram,
};
static const struct sv_link_sink client_sink = {
    .on_open = on_client_open,
    .on_bytes = on_bytes,
    .on_writable = on_writable,
    .on_closed = on_closed,
    .on_datagram = on_datagram,
};

static int serve(struct sv_quic_server **server)
{
    static char cert[SV_QUIC_PEM_MAX], key[SV_QUIC_PEM_MAX];
    static const uint8_t secret[SV_QUIC_SECRET] = {1};
    uint8_t hash[32];
    struct sv_quic_server_config config = {
        .listen_addr = "127.0.0.1:0",
        .cert = cert,
        .key = key,
        .idle_timeout = 30 * SV_NS_PER_S,
        .secret = secret,
        .worker_count = 1,
        .sink = &sink,
    };

    if (sv_quic_make_certificate(cert, key) || sv_quic_cert_hash(hash, cert) ||
        sv_quic_server_open(server, &loop, &config)) {
        return -1;
    }
    printf("port %u\n", sv_quic_server_port(*server));
    return 0;
}

static int dial(const char *address, const char *hex)
{
    uint8_t hash[32];
    struct sv_quic_client_config config = {
        .address = address,
        .cert_hash = hex ? hash : NULL,
        .timeout = 10 * SV_NS_PER_S,
        .idle_timeout = 30 * SV_NS_PER_S,
        .sink = &client_sink,
    };
    struct sv_link *link;

    client = true;
    for (size_t i = 0; hex && i < sizeof hash; i++) {
        char digits[3] = {hex[2 * i], hex[2 * i + 1]};

        hash[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    return sv_quic_client_connect(&link, &loop, &config);
}

int main(int argc, char **argv)
{
    struct sv_quic_server *server = NULL;
    struct sv_watch *input;

    setvbuf(stdout, NULL, _IOLBF, 0);
    sv_loop_init(&loop, NULL, NULL, NULL);
    timer = sv_timer_new(&loop, on_timer, NULL);
    if (argc > 2 ? dial(argv[2], argc > 3 ? argv[3] : NULL) : serve(&server)) {
        printf("failed %s\n", sv_error_detail());
        return 1;
    }
    input = sv_watch_new(&loop, STDIN_FILENO, on_input, NULL);
    sv_watch_set(input, SV_READABLE);
    sv_loop_run(&loop);
    sv_watch_close(input);
    sv_quic_server_close(server);
    sv_timer_close(timer);
    sv_loop_clear(&loop);
    return 0;
}
