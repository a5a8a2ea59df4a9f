/* What the QUIC transport carries by itself, without TUN and sessions: one client that sends, one server that counts, each a process.
 *
 *   quic_bench [datagrams|stream] [BYTES] [SECONDS]              both, over loopback
 *   quic_bench server ADDRESS [datagrams|stream]                 one end each, for namespaces; the client prints
 *   quic_bench client ADDRESS [datagrams|stream] [BYTES] [SECONDS]
 */
#include <signal.h>
#include <smartvpn/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "transport/quic.h"

enum { BYTES_MAX = 60000, WARM_UP_MS = 500, REPORT = 16 };

static struct {
    struct sv_loop loop;
    struct sv_link *link;
    struct sv_timer *timer;
    bool datagrams, warm;
    size_t bytes;
    uint64_t seconds, sent, refused;
    uint64_t got, got_at, cpu_at; /* the server's */
    struct sv_link *pushing;
} bench;

static uint64_t cpu_now(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * SV_NS_PER_S +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * SV_NS_PER_US;
}

static void on_nothing(struct sv_link *link)
{
    (void)link;
}

static void on_closed(struct sv_link *link, int error, const char *why)
{
    (void)link;
    if (error) {
        fprintf(stderr, "closed: %s\n", why);
    }
    bench.link = NULL;
    sv_loop_stop(&bench.loop);
}

/* ---- the server: counts, and answers each stream byte string that a client sends in datagram mode with its count ---- */

static void on_server_open(struct sv_link *link)
{
    bench.link = link;
    bench.got = 0;
}

static void count(size_t len)
{
    bench.got += len;
}

static void report(struct sv_link *link)
{
    static uint8_t frame[SV_LINK_HEADROOM + REPORT];
    uint64_t values[2] = {bench.got, cpu_now()};

    memcpy(frame + SV_LINK_HEADROOM, values, sizeof values);
    link->ops->send(link, frame + SV_LINK_HEADROOM, sizeof values);
    link->ops->flush(link);
}

static void on_server_bytes(struct sv_link *link, uint8_t *bytes, size_t len)
{
    count(bench.datagrams ? 0 : len);
    if (memchr(bytes, 'R', len)) {
        report(link);
    }
}

static void on_server_datagram(struct sv_link *link, uint8_t *bytes, size_t len)
{
    (void)link;
    (void)bytes;
    count(len);
}

static void run_server(const char *address)
{
    static char cert[SV_QUIC_PEM_MAX], key[SV_QUIC_PEM_MAX];
    static uint8_t secret[SV_QUIC_SECRET] = {1};
    static const struct sv_link_sink sink = {
        .on_open = on_server_open,
        .on_bytes = on_server_bytes,
        .on_datagram = on_server_datagram,
        .on_writable = on_nothing,
        .on_closed = on_closed,
    };
    struct sv_quic_server_config config = {
        .listen_addr = address,
        .cert = cert,
        .key = key,
        .idle_timeout = 10 * SV_NS_PER_S,
        .secret = secret,
        .worker_count = 1,
        .sink = &sink,
    };
    struct sv_quic_server *server;

    sv_loop_init(&bench.loop, NULL, NULL, NULL);
    if (sv_quic_make_certificate(cert, key) || sv_quic_server_open(&server, &bench.loop, &config)) {
        fprintf(stderr, "server: %s\n", sv_error_detail());
        exit(1);
    }
    sv_loop_run(&bench.loop);
    sv_quic_server_close(server);
    sv_loop_clear(&bench.loop);
}

/* ---- the client: sends for some seconds, asks before and after ---- */

static void ask(void)
{
    static uint8_t frame[SV_LINK_HEADROOM + 1];

    frame[SV_LINK_HEADROOM] = 'R';
    bench.link->ops->send(bench.link, frame + SV_LINK_HEADROOM, 1);
    bench.link->ops->flush(bench.link);
}

static void push(struct sv_link *link)
{
    static uint8_t bytes[SV_LINK_HEADROOM + BYTES_MAX];
    uint8_t *at = bytes + SV_LINK_HEADROOM;

    if (bench.datagrams) {
        while (link->ops->send_datagram(link, at, bench.bytes) == 0) {
            bench.sent++;
        }
        bench.refused++;
    } else {
        while (!link->blocked && link->ops->send(link, at, bench.bytes) == 0) {
            bench.sent++;
        }
    }
    link->ops->flush(link);
}

static void on_client_timer(void *ctx)
{
    (void)ctx;
    ask();
    if (!bench.warm) {
        bench.warm = true;
        sv_timer_set(bench.timer, sv_clock_now() + bench.seconds * SV_NS_PER_S);
    }
}

static void on_client_open(struct sv_link *link)
{
    bench.link = link;
    sv_timer_set(bench.timer, sv_clock_now() + WARM_UP_MS * SV_NS_PER_MS);
    push(link);
}

static void on_client_bytes(struct sv_link *link, uint8_t *bytes, size_t len)
{
    static uint64_t first[2], wall, cpu;
    uint64_t last[2], now = sv_clock_now();
    double gigabytes, seconds;

    if (len != sizeof last) {
        return;
    }
    memcpy(last, bytes, sizeof last);
    if (!wall) {
        memcpy(first, last, sizeof first);
        wall = now;
        cpu = cpu_now();
        return;
    }
    gigabytes = (double)(last[0] - first[0]) / 1e9;
    seconds = (double)(now - wall) / 1e9;
    printf("%s %zu B: %.2f Gbit/s, CPU s/GB sender %.2f, receiver %.2f, path MTU %u\n",
           bench.datagrams ? "datagrams" : "stream", bench.bytes, gigabytes * 8 / seconds,
           (double)(cpu_now() - cpu) / 1e9 / gigabytes, (double)(last[1] - first[1]) / 1e9 / gigabytes,
           link->path_mtu);
    link->ops->close(link, SV_CLOSE_SILENT);
}

static void run_client(const char *address)
{
    static const struct sv_link_sink sink = {
        .on_open = on_client_open,
        .on_bytes = on_client_bytes,
        .on_writable = push,
        .on_path_mtu = push,
        .on_closed = on_closed,
    };
    struct sv_quic_client_config config = {
        .address = address,
        .timeout = 5 * SV_NS_PER_S,
        .idle_timeout = 10 * SV_NS_PER_S,
        .sink = &sink,
    };

    sv_loop_init(&bench.loop, NULL, NULL, NULL);
    bench.timer = sv_timer_new(&bench.loop, on_client_timer, NULL);
    if (sv_quic_client_connect(&bench.link, &bench.loop, &config)) {
        fprintf(stderr, "client: %s\n", sv_error_detail());
        exit(1);
    }
    sv_loop_run(&bench.loop);
    sv_timer_close(bench.timer);
    sv_loop_clear(&bench.loop);
}

static void parse(int argc, char **argv, int at)
{
    bench.datagrams = argc <= at || strcmp(argv[at], "stream") != 0;
    bench.bytes = argc > at + 1 ? (size_t)atoi(argv[at + 1]) : bench.datagrams ? 1200 : 16384;
    bench.bytes = bench.bytes < BYTES_MAX ? bench.bytes : BYTES_MAX;
    bench.seconds = argc > at + 2 ? (uint64_t)atoi(argv[at + 2]) : 5;
}

int main(int argc, char **argv)
{
    static const char address[] = "127.0.0.1:44333";
    bool server = argc > 2 && strcmp(argv[1], "server") == 0;
    bool client = argc > 2 && strcmp(argv[1], "client") == 0;
    pid_t child;

    signal(SIGPIPE, SIG_IGN);
    parse(argc, argv, server || client ? 3 : 1);
    if (server) {
        run_server(argv[2]);
        return 0;
    }
    if (client) {
        run_client(argv[2]);
        return 0;
    }
    child = fork();
    if (child == 0) {
        run_server(address);
        return 0;
    }
    usleep(200000);
    run_client(address);
    waitpid(child, NULL, 0);
    return 0;
}
