/* Many clients of one hub, speaking the real protocol over ws://.
 *
 *     clients --count N --rate R --hold S --server-key HEX --first-address A --port P --hub-pid PID
 *     clients --aead                            prints the name of the AEAD in use
 *
 * Makes N key pairs and prints the public halves, a line each in hex; waits for a line on stdin while the
 * caller hands them to the hub; connects R a second (0: as fast as it goes, IN_FLIGHT at a time); holds
 * the sessions idle for S seconds; prints one JSON line. Client i connects to A + i: on a host to which
 * those addresses are local (`ip route add local`) it also comes from there, so that every client is a
 * source of its own.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <smartvpn/base.h>

#include "base/clock.h"
#include "crypto/aead.h"
#include "crypto/keys.h"
#include "io/loop.h"
#include "proto/session.h"
#include "transport/websocket.h"

enum { COUNT_MAX = 60000, IN_FLIGHT = 32, SCAN_MS = 5, CLOSE_SECONDS = 5, FILES_BESIDES = 64 };

struct client {
    uint8_t private_key[SV_KEY], public_key[SV_KEY], instance[16];
    struct sv_link *link;
    struct sv_session session;
    struct sv_frame_reader reader;
    uint64_t started_at, live_at; /* ns; 0: not yet */
    bool has_session, closing, ended;
};

enum phase { CONNECTING, HOLDING, CLOSING };

/* What the hub costs, from /proc. */
struct cost {
    double cpu_seconds;
    long rss_kb, pss_kb;
};

static struct {
    size_t count;
    double rate, hold;
    uint8_t server_key[SV_KEY];
    struct in_addr first;
    unsigned port;
    int hub_pid;
} wanted;

static struct {
    struct sv_loop loop;
    struct sv_timer *timer;
    struct client *clients;
    enum phase phase;
    size_t started, live, ended, lost; /* lost: ended after they were live, before the end of the hold */
    uint64_t begin, connected, phase_end;
    struct cost before, after_connect, after_hold;
    char first_error[128];
} run;

/* ---- what the hub costs ---- */

static double cpu_seconds(int pid)
{
    char path[64], line[1024];
    unsigned long user = 0, system = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    file = fopen(path, "r");
    if (file) {
        const char *rest = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;

        if (rest) {
            sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
        }
        fclose(file);
    }
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void read_memory(int pid, struct cost *cost)
{
    char path[64], line[256];
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "Rss: %ld", &cost->rss_kb);
        sscanf(line, "Pss: %ld", &cost->pss_kb);
    }
    if (file) {
        fclose(file);
    }
}

static struct cost measure_hub(void)
{
    struct cost cost = {0};

    if (wanted.hub_pid) {
        cost.cpu_seconds = cpu_seconds(wanted.hub_pid);
        read_memory(wanted.hub_pid, &cost);
    }
    return cost;
}

/* ---- one client ---- */

static void note_error(const char *text)
{
    if (!run.first_error[0]) {
        snprintf(run.first_error, sizeof run.first_error, "%s", text);
    }
}

static void flush(struct client *client)
{
    uint8_t room[SV_LINK_HEADROOM + SV_SESSION_FLUSH_MAX];
    size_t n;

    if (!client->link || client->closing || client->link->blocked) {
        return;
    }
    n = sv_session_flush(&client->session, run.loop.now, room + SV_LINK_HEADROOM, SV_SESSION_FLUSH_MAX);
    if (n > 0) {
        client->link->ops->send(client->link, room + SV_LINK_HEADROOM, n);
    }
}

static void close_link(struct client *client, enum sv_link_close how)
{
    if (client->link && !client->closing) {
        client->closing = true;
        client->link->ops->close(client->link, how);
    }
}

static void give_up(struct client *client, const char *why)
{
    note_error(why);
    close_link(client, SV_CLOSE_SILENT);
}

static void take(struct client *client, uint8_t *frame, size_t len)
{
    struct sv_received received;

    sv_session_receive(&client->session, run.loop.now, frame, len, &received);
    switch (received.event) {
    case SV_SESSION_ON_LIVE:
        client->live_at = sv_clock_now();
        run.live++;
        break;
    case SV_SESSION_ON_DISCONNECT:
        give_up(client, sv_disconnect_text(received.code));
        break;
    case SV_SESSION_ON_OFFENCE:
    case SV_SESSION_ON_FATAL:
        give_up(client, "the hub's bytes make no sense");
        break;
    default:
        break;
    }
}

static void on_open(struct sv_link *link)
{
    struct client *client = link->owner;
    struct sv_session_config config = {
        .private_key = client->private_key,
        .public_key = client->public_key,
        .server_key = wanted.server_key,
        .hello = {.capabilities = SV_CAP_BATCH | SV_CAP_GSO_TCP | SV_CAP_RESUME | SV_CAP_REKEY,
                  .software = "bench",
                  .has_instance = true},
    };

    memcpy(config.hello.instance, client->instance, sizeof client->instance);
    sv_frame_reader_init(&client->reader);
    sv_session_init(&client->session, &config, run.loop.now);
    client->has_session = true;
    flush(client);
}

static void on_bytes(struct sv_link *link, uint8_t *bytes, size_t len)
{
    struct client *client = link->owner;
    uint8_t *frame;
    size_t frame_len;
    int error;

    for (;;) {
        client->reader.max_payload = sv_session_max_payload(&client->session);
        error = sv_frame_next(&client->reader, &bytes, &len, &frame, &frame_len);
        if (error) {
            break;
        }
        take(client, frame, frame_len);
    }
    if (error != SV_E_AGAIN) {
        give_up(client, "a frame of the hub is too long");
    }
    flush(client);
}

static void on_writable(struct sv_link *link)
{
    flush(link->owner);
}

static void end_client(struct client *client)
{
    client->link = NULL;
    client->ended = true;
    run.ended++;
    if (client->live_at && run.phase != CLOSING) {
        run.lost++;
    }
    if (client->has_session) {
        sv_frame_reader_clear(&client->reader);
        sv_session_clear(&client->session);
    }
}

static void on_closed(struct sv_link *link, int error, const char *text)
{
    if (run.phase != CLOSING) {
        note_error(*text ? text : error ? sv_strerror(error) : "the hub closed the connection");
    }
    end_client(link->owner);
}

static const struct sv_link_sink sink = {
    .on_open = on_open, .on_bytes = on_bytes, .on_writable = on_writable, .on_closed = on_closed};

static void start_client(size_t index)
{
    struct client *client = &run.clients[index];
    struct in_addr address = {htonl(ntohl(wanted.first.s_addr) + (uint32_t)index)};
    char host[INET_ADDRSTRLEN], url[64];
    struct sv_ws_client_config config = {
        .url = url, .timeout_ns = 10 * SV_NS_PER_S, .sink = &sink, .owner = client};

    snprintf(url, sizeof url, "ws://%s:%u/", inet_ntop(AF_INET, &address, host, sizeof host), wanted.port);
    client->started_at = sv_clock_now();
    if (sv_ws_client_connect(&client->link, &run.loop, &config) != 0) {
        note_error(sv_error_detail());
        end_client(client);
    }
}

/* ---- the course of a run ---- */

/* Clients that are live, were, or never will be. */
static size_t settled(void)
{
    return run.live + run.ended - run.lost;
}

/* How many should have been started by now. */
static size_t due(uint64_t now)
{
    if (wanted.rate <= 0) {
        return settled() + IN_FLIGHT;
    }
    return (size_t)((double)(now - run.begin) / 1e9 * wanted.rate) + 1;
}

static void start_due(uint64_t now)
{
    size_t until = due(now);

    while (run.started < wanted.count && run.started < until) {
        start_client(run.started++);
    }
}

static void serve_deadlines(uint64_t now)
{
    for (size_t i = 0; i < run.started; i++) {
        struct client *client = &run.clients[i];

        if (client->has_session && !client->ended && sv_session_deadline(&client->session) <= now) {
            if (sv_session_on_timer(&client->session, now) == SV_SESSION_ON_DEAD) {
                give_up(client, "the hub does not answer");
            }
            flush(client);
        }
    }
}

static void close_all(void)
{
    for (size_t i = 0; i < run.started; i++) {
        struct client *client = &run.clients[i];

        if (client->link && client->has_session) {
            sv_session_disconnect(&client->session, SV_DISCONNECT_NORMAL, NULL);
            flush(client);
            close_link(client, SV_CLOSE_GRACEFUL);
        }
    }
}

static void enter(enum phase phase, uint64_t now, double seconds)
{
    run.phase = phase;
    run.phase_end = now + (uint64_t)(seconds * 1e9);
}

static void on_tick(void *ctx)
{
    uint64_t now = sv_clock_now();

    (void)ctx;
    serve_deadlines(now);
    if (run.phase == CONNECTING) {
        start_due(now);
        if (settled() == wanted.count) {
            run.connected = now;
            run.after_connect = measure_hub();
            enter(HOLDING, now, wanted.hold);
        }
    } else if (run.phase == HOLDING && now >= run.phase_end) {
        run.after_hold = measure_hub();
        enter(CLOSING, now, CLOSE_SECONDS);
        close_all();
    } else if (run.phase == CLOSING && (run.ended == wanted.count || now >= run.phase_end)) {
        sv_timer_close(run.timer);
        sv_loop_stop(&run.loop);
        return;
    }
    sv_timer_set(run.timer, now + SCAN_MS * SV_NS_PER_MS);
}

/* Between ticks too: a client that is done makes room for the next at once. */
static void on_sleep(void *ctx)
{
    (void)ctx;
    if (run.phase == CONNECTING && wanted.rate <= 0) {
        start_due(run.loop.now);
    }
}

/* ---- results ---- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static size_t latencies(double *ms)
{
    size_t n = 0;

    for (size_t i = 0; i < wanted.count; i++) {
        const struct client *client = &run.clients[i];

        if (client->live_at) {
            ms[n++] = (double)(client->live_at - client->started_at) / 1e6;
        }
    }
    qsort(ms, n, sizeof *ms, ascending);
    return n;
}

static double percentile(const double *ms, size_t n, double part)
{
    return n ? ms[(size_t)(part * (double)(n - 1))] : 0;
}

static void print_cost(void)
{
    const struct cost *costs[] = {&run.before, &run.after_connect, &run.after_hold};
    double live = run.live ? (double)run.live : 1;

    printf(", \"rss_kb\": [%ld, %ld, %ld]", costs[0]->rss_kb, costs[1]->rss_kb, costs[2]->rss_kb);
    printf(", \"pss_kb\": [%ld, %ld, %ld]", costs[0]->pss_kb, costs[1]->pss_kb, costs[2]->pss_kb);
    printf(", \"kb_per_client\": %.2f", (double)(run.after_hold.pss_kb - run.before.pss_kb) / live);
    printf(", \"connect_cpu_seconds\": %.3f, \"hold_cpu_seconds\": %.3f",
           run.after_connect.cpu_seconds - run.before.cpu_seconds,
           run.after_hold.cpu_seconds - run.after_connect.cpu_seconds);
}

static int print_result(void)
{
    double *ms = calloc(wanted.count, sizeof *ms);
    double seconds = (double)(run.connected - run.begin) / 1e9;
    size_t n;

    if (!ms) {
        return 1;
    }
    n = latencies(ms);
    printf("{\"clients\": %zu, \"live\": %zu, \"failed\": %zu, \"lost\": %zu", wanted.count, run.live,
           wanted.count - run.live, run.lost);
    printf(", \"seconds\": %.3f, \"handshakes_per_second\": %.1f", seconds, (double)run.live / seconds);
    printf(", \"latency_ms\": {\"p50\": %.2f, \"p95\": %.2f, \"p99\": %.2f, \"max\": %.2f}",
           percentile(ms, n, 0.5), percentile(ms, n, 0.95), percentile(ms, n, 0.99), percentile(ms, n, 1));
    if (wanted.hub_pid) {
        print_cost();
    }
    printf(", \"aead\": \"%s\"}\n", sv_aead_name());
    free(ms);
    if (run.first_error[0]) {
        fprintf(stderr, "clients: first error: %s\n", run.first_error);
    }
    return run.live == wanted.count && run.lost == 0 ? 0 : 1;
}

/* ---- start ---- */

static void die(const char *what)
{
    fprintf(stderr, "clients: %s\n", what);
    exit(2);
}

static void make_keys(void)
{
    run.clients = calloc(wanted.count, sizeof *run.clients);
    if (!run.clients) {
        die("out of memory");
    }
    for (size_t i = 0; i < wanted.count; i++) {
        struct client *client = &run.clients[i];

        sv_x25519_generate(client->private_key, client->public_key);
        sv_random(client->instance, sizeof client->instance);
        for (size_t b = 0; b < SV_KEY; b++) {
            printf("%02x", client->public_key[b]);
        }
        putchar('\n');
    }
    fflush(stdout);
}

static bool wait_for_go(void)
{
    char line[16];

    return fgets(line, sizeof line, stdin) != NULL;
}

static void allow_files(size_t count)
{
    struct rlimit limit = {count + FILES_BESIDES, count + FILES_BESIDES}, now;

    if (getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur >= limit.rlim_cur) {
        return;
    }
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        die("the limit of open files is too low");
    }
}

static void parse_key(const char *hex)
{
    for (size_t i = 0; i < SV_KEY; i++) {
        if (strlen(hex) != 2 * SV_KEY || sscanf(hex + 2 * i, "%2hhx", &wanted.server_key[i]) != 1) {
            die("--server-key: 64 hex digits expected");
        }
    }
}

static void parse_option(int name, const char *value)
{
    switch (name) {
    case 'n':
        wanted.count = (size_t)atol(value);
        break;
    case 'r':
        wanted.rate = atof(value);
        break;
    case 't':
        wanted.hold = atof(value);
        break;
    case 'k':
        parse_key(value);
        break;
    case 'a':
        if (inet_pton(AF_INET, value, &wanted.first) != 1) {
            die("--first-address: an IPv4 address expected");
        }
        break;
    case 'p':
        wanted.port = (unsigned)atoi(value);
        break;
    case 'h':
        wanted.hub_pid = atoi(value);
        break;
    case 'e':
        printf("%s\n", sv_aead_name());
        exit(0);
    default:
        die("usage: see the top of clients.c");
    }
}

static void parse_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"count", required_argument, NULL, 'n'},
        {"rate", required_argument, NULL, 'r'},
        {"hold", required_argument, NULL, 't'},
        {"server-key", required_argument, NULL, 'k'},
        {"first-address", required_argument, NULL, 'a'},
        {"port", required_argument, NULL, 'p'},
        {"hub-pid", required_argument, NULL, 'h'},
        {"aead", no_argument, NULL, 'e'},
        {NULL, 0, NULL, 0},
    };
    int name;

    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        parse_option(name, optarg);
    }
    if (wanted.count < 1 || wanted.count > COUNT_MAX || !wanted.port) {
        die("--count and --port are needed");
    }
}

int main(int argc, char **argv)
{
    if (sv_crypto_init() != 0 || sv_aead_init() != 0) {
        die("no AEAD works here");
    }
    parse_options(argc, argv);
    allow_files(wanted.count);
    make_keys();
    if (!wait_for_go() || sv_loop_init(&run.loop, NULL, NULL, on_sleep) != 0) {
        die("no loop, or nobody said go");
    }
    run.timer = sv_timer_new(&run.loop, on_tick, NULL);
    run.before = measure_hub();
    run.begin = sv_clock_now();
    sv_timer_set(run.timer, run.begin);
    sv_loop_run(&run.loop);
    return print_result();
}
