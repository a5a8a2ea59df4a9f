/* How many half-open links a worker of the hub holds, over both transports together: a real hub in a network namespace of its own, and links that say
 * nothing once they are open. */
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <smartvpn/smartvpn.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/c/check.h"
#include "transport/quic.h"

enum { PORT = 7443, MOST = 1024, SOCKETS = 900, LINKS = 160, ATTEMPTS = 20 };

static const char upgrade[] = "GET / HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                              "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                              "Sec-WebSocket-Protocol: smartvpn.v1\r\n\r\n";
static const uint64_t FRESH = 4 * SV_NS_PER_S; /* the hub cuts a link that has said nothing for 5 s */

static sv_engine *engine;
static struct sv_loop loop;
static struct sv_link *links[LINKS];
static int sockets[SOCKETS];
static unsigned opened, refused, closed;

static uint64_t half_open(void)
{
    sv_statistics statistics;

    sv_engine_statistics(engine, &statistics);
    return statistics.half_open;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

/* false: not while links are fresh. */
static bool await_half_open(uint64_t count, uint64_t until)
{
    while (half_open() != count && sv_clock_now() < until) {
        nap();
    }
    return half_open() == count;
}

static void open_hub(void)
{
    static char cert[SV_QUIC_PEM_MAX], key[SV_QUIC_PEM_MAX];
    uint8_t public_key[32];
    sv_server_config config = {.listen_addr = "127.0.0.1:7443",
                               .quic_listen_addr = "127.0.0.1:7443",
                               .quic_cert = cert,
                               .quic_key = key,
                               .subnet = "10.96.0.0/24",
                               .workers = 1,
                               .tun_name = "half_open",
                               .begin_later = true};

    CHECK_EQ(sv_make_certificate(cert, key), 0);
    CHECK_EQ(sv_keypair_generate(config.private_key, public_key), 0);
    CHECK_EQ(sv_server_open(&engine, &config), 0);
}

/* ---- WebSocket ---- */

static int open_socket(void)
{
    struct sockaddr_in hub = {
        .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK_EQ(connect(fd, (struct sockaddr *)&hub, sizeof hub), 0);
    CHECK_EQ(send(fd, upgrade, sizeof upgrade - 1, MSG_NOSIGNAL), sizeof upgrade - 1);
    return fd;
}

static void open_sockets(void)
{
    for (size_t i = 0; i < SOCKETS; i++) {
        sockets[i] = open_socket();
    }
}

static void close_sockets(void)
{
    for (size_t i = 0; i < SOCKETS; i++) {
        close(sockets[i]);
    }
}

/* ---- QUIC ---- */

static void on_open(struct sv_link *link)
{
    (void)link;
    opened++;
}

static void on_closed(struct sv_link *link, int error, const char *why)
{
    (void)why;
    *(struct sv_link **)link->owner = NULL;
    refused += error == SV_E_REFUSED;
    closed++;
}

static void on_bytes(struct sv_link *link, uint8_t *bytes, size_t len)
{
    (void)link;
    (void)bytes;
    (void)len;
}

static void on_writable(struct sv_link *link)
{
    (void)link;
}

static const struct sv_link_sink sink = {
    .on_open = on_open, .on_closed = on_closed, .on_bytes = on_bytes, .on_writable = on_writable};

static void open_links(uint64_t until)
{
    struct sv_quic_client_config config = {.address = "127.0.0.1:7443",
                                           .timeout = 30 * SV_NS_PER_S,
                                           .idle_timeout = 30 * SV_NS_PER_S,
                                           .sink = &sink};

    opened = refused = closed = 0;
    for (size_t i = 0; i < LINKS; i++) {
        config.owner = &links[i];
        CHECK_EQ(sv_quic_client_connect(&links[i], &loop, &config), 0);
    }
    while (opened + closed < LINKS && sv_clock_now() < until) {
        uv_run(&loop.uv, UV_RUN_NOWAIT);
    }
}

static void close_links(void)
{
    for (size_t i = 0; i < LINKS; i++) {
        if (links[i]) {
            links[i]->ops->close(links[i], SV_CLOSE_SILENT);
        }
    }
    while (closed < LINKS) {
        uv_run(&loop.uv, UV_RUN_ONCE);
    }
}

static void what_comes_before_the_beginning_waits(void)
{
    int fd = open_socket();

    CHECK(!await_half_open(1, sv_clock_now() + SV_NS_PER_S / 10));
    CHECK_EQ(sv_server_begin(engine), 0);
    CHECK(await_half_open(1, sv_clock_now() + FRESH));
    CHECK_EQ(sv_server_begin(engine), 0);
    close(fd);
    CHECK(await_half_open(0, sv_clock_now() + FRESH));
}

/* false: the machine was too slow for it, and some had been cut before the last came. */
static bool fill_up(void)
{
    uint64_t until = sv_clock_now() + FRESH;
    bool in_time;

    open_sockets();
    in_time = await_half_open(SOCKETS, until);
    if (in_time) {
        open_links(until);
        in_time = opened + closed == LINKS && sv_clock_now() < until;
    }
    if (in_time) {
        CHECK_EQ(opened, MOST - SOCKETS);
        CHECK_EQ(refused, LINKS - (MOST - SOCKETS));
        CHECK(await_half_open(MOST, until)); /* the hub learns of the last one after its client */
    }
    return in_time;
}

static void both_transports_share_the_places_of_a_worker(void)
{
    bool done = false;

    for (unsigned i = 0; i < ATTEMPTS && !done; i++) {
        done = fill_up();
        close_sockets();
        close_links();
        CHECK(await_half_open(0, sv_clock_now() + 30 * SV_NS_PER_S));
    }
    CHECK(done);
}

/* Those places are free again. */
static void newcomers_are_let_in_afterwards(void)
{
    open_links(sv_clock_now() + 30 * SV_NS_PER_S);
    CHECK_EQ(opened, LINKS);
    close_links();
}

int main(void)
{
    struct rlimit files;

    if (!sv_quic_available()) {
        CHECK(!sv_engine_has_quic());
        return CHECK_DONE("engine_half_open, without QUIC");
    }
    if (unshare(CLONE_NEWNET) || system("ip link set lo up")) {
        fprintf(stderr, "engine_half_open: network namespaces need root: %s\n", strerror(errno));
        return 1;
    }
    alarm(280);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
    CHECK_EQ(sv_loop_init(&loop, NULL, NULL, NULL), 0);
    open_hub();
    sv_engine_close(engine); /* before it has begun */
    open_hub();
    RUN(what_comes_before_the_beginning_waits);
    RUN(both_transports_share_the_places_of_a_worker);
    RUN(newcomers_are_let_in_afterwards);
    sv_engine_close(engine);
    sv_loop_clear(&loop);
    return CHECK_DONE("engine_half_open");
}
