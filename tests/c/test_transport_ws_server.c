/* The server's links: whose address they carry, what is refused before they open, and that they end before the server does. */
#include <arpa/inet.h>
#include <errno.h>
#include <smartvpn/base.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "policy/prefix.h"
#include "tests/c/ws_fixture.h"

enum { OPENING_MAX = 1024 };

#define REQUEST                                                                       \
    "GET /any HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

static void open_plain(const char *trusted, const char *also)
{
    static struct sv_prefix proxies[2];

    CHECK_EQ(sv_prefix_parse(&proxies[0], trusted), 0);
    CHECK_EQ(sv_prefix_parse(&proxies[1], also), 0);
    ws_open_loop();
    CHECK_EQ(ws_open_server(NULL, NULL, proxies, 2), 0);
}

static int connect_raw(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons(sv_ws_server_port(ws.server)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK_EQ(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

static int say(const char *text)
{
    int fd = connect_raw();

    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
    return fd;
}

/* Turns the loop until the server has closed fd; whatever it answered before is passed over. */
static void wait_closed(int fd)
{
    uint64_t until = sv_clock_now() + 20 * SV_NS_PER_S;
    char bytes[4096];
    ssize_t n;

    do {
        uv_run(&ws.loop.uv, UV_RUN_NOWAIT);
        usleep(1000);
        n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    } while ((n > 0 || (n < 0 && errno == EAGAIN)) && sv_clock_now() < until);
    CHECK(n == 0 || (n < 0 && errno == ECONNRESET));
}

static void check_remote(const char *before, const char *lines, const char *expected)
{
    char text[8192], shown[64];
    int fd;

    open_plain("127.0.0.0/8", "192.0.2.0/24");
    snprintf(text, sizeof text, "%s" REQUEST "%s\r\n", before, lines);
    fd = say(text);
    ws_wait(&ws.accepted.opened);
    CHECK_STR(sv_addr_format(shown, sizeof shown, ws.accepted.remote), expected);
    CHECK_MEM(ws.admit_last, ws.accepted.remote, 16);
    ws_close_all();
    close(fd);
}

static void a_trusted_peer_tells_the_source(void)
{
    check_remote("", "", "127.0.0.1");
    check_remote("", "X-Forwarded-For: 198.51.100.7\r\n", "198.51.100.7");
    check_remote("", "x-forwarded-for: 203.0.113.1, 198.51.100.7\r\n", "198.51.100.7");
    check_remote("", "X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-For: 198.51.100.7\r\n", "198.51.100.7");
    check_remote("", "X-Forwarded-For: 198.51.100.7:4321\r\n", "198.51.100.7");
    check_remote("", "X-Forwarded-For: 2001:db8::7\r\n", "2001:db8::7");
    check_remote("", "X-Forwarded-For: [2001:db8::7]:4321\r\n", "2001:db8::7");
}

/* The rightmost entry that is not a trusted proxy. */
static void trusted_proxies_are_passed_over(void)
{
    check_remote("", "X-Forwarded-For: 203.0.113.1, 198.51.100.7, 192.0.2.9, 192.0.2.8\r\n", "198.51.100.7");
    check_remote("", "X-Forwarded-For: 192.0.2.9\r\n", "192.0.2.9");
    check_remote("", "X-Forwarded-For: unknown, 192.0.2.9\r\n", "192.0.2.9");
    check_remote("", "X-Forwarded-For: 198.51.100.7, unknown\r\n", "127.0.0.1");
}

/* Behind a PROXY header X-Forwarded-For counts only when the source it names is a trusted proxy itself. */
static void both_follow_one_rule(void)
{
    check_remote("PROXY TCP4 198.51.100.7 192.0.2.1 1 2\r\n", "X-Forwarded-For: 203.0.113.1\r\n",
                 "198.51.100.7");
    check_remote("PROXY TCP4 192.0.2.8 192.0.2.1 1 2\r\n", "X-Forwarded-For: 203.0.113.1\r\n", "203.0.113.1");
    check_remote("PROXY UNKNOWN\r\n", "X-Forwarded-For: 203.0.113.1\r\n", "203.0.113.1");
}

static void check_refused_by(const char *trusted, const char *text)
{
    int fd;

    open_plain(trusted, trusted);
    fd = say(text);
    wait_closed(fd);
    CHECK(!ws.accepted.opened);
    ws_close_all();
    close(fd);
}

static void strangers_have_no_proxy_header(void)
{
    check_refused_by("192.0.2.0/24", "PROXY TCP4 198.51.100.7 192.0.2.1 1 2\r\n" REQUEST "\r\n");
    check_refused_by("192.0.2.0/24", "PROXY UNKNOWN\r\n" REQUEST "\r\n");
    check_refused_by("127.0.0.0/8", "PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n" REQUEST "\r\n");
    check_refused_by("127.0.0.0/8", "PROXY TCP4 x y 1 2\r\n" REQUEST "\r\n");
}

/* A list too long to be read whole has an end that is not known: nobody may hide behind it. */
#define ASKING(version, key) ASKING_BY("GET", version, key)
#define ASKING_BY(method, version, key)                                                        \
    method " / HTTP/" version "\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
           "Sec-WebSocket-Key: " key "\r\nSec-WebSocket-Version: 13\r\n\r\n"

/* RFC 6455, section 4.2.1. */
static void unsound_requests_are_refused(void)
{
    check_refused_by("192.0.2.0/24", ASKING("1.0", "dGhlIHNhbXBsZSBub25jZQ=="));
    check_refused_by("192.0.2.0/24", ASKING("9.9", "dGhlIHNhbXBsZSBub25jZQ=="));
    check_refused_by("192.0.2.0/24",
                     "GET / HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    check_refused_by("192.0.2.0/24", ASKING("1.1", "short"));
    check_refused_by("192.0.2.0/24", ASKING_BY("POST", "1.1", "dGhlIHNhbXBsZSBub25jZQ=="));
    check_refused_by("192.0.2.0/24", ASKING("1.1", "dGhlIHNhbXBsZSBub25jZQ=dGhlIHNhbXBsZSBub25jZQ=="));
}

static void a_list_without_an_end_is_refused(void)
{
    static char text[16384];
    size_t n = (size_t)snprintf(text, sizeof text, REQUEST "X-Forwarded-For: ");

    memset(text + n, '1', 6000);
    snprintf(text + n + 6000, sizeof text - n - 6000, ", 198.51.100.7\r\n\r\n");
    check_refused_by("127.0.0.0/8", text);
}

static void a_long_list_is_read_to_its_end(void)
{
    static char line[4096];
    size_t n = (size_t)snprintf(line, sizeof line, "X-Forwarded-For: ");

    memset(line + n, '1', 1500);
    snprintf(line + n + 1500, sizeof line - n - 1500, ", 198.51.100.7\r\n");
    check_remote("", line, "198.51.100.7");
}

/* Those whose PROXY header is awaited count as opening links; what is over the bound is closed at once. */
static void opening_links_are_bounded(const char *trusted)
{
    static int fds[OPENING_MAX + 1];
    struct rlimit files = {4096, 4096};

    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
    open_plain(trusted, trusted);
    for (size_t i = 0; i <= OPENING_MAX; i++) {
        fds[i] = connect_raw();
        uv_run(&ws.loop.uv, UV_RUN_NOWAIT);
    }
    wait_closed(fds[OPENING_MAX]);
    CHECK_EQ(recv(fds[0], &(char){0}, 1, MSG_DONTWAIT), -1);
    CHECK_EQ(errno, EAGAIN);
    close(fds[0]);
    for (unsigned i = 0; i < 200; i++) {
        uv_run(&ws.loop.uv, UV_RUN_NOWAIT);
        usleep(1000);
    }
    fds[0] = say(REQUEST "\r\n");
    ws_wait(&ws.accepted.opened);
    ws_close_all();
    for (size_t i = 0; i <= OPENING_MAX; i++) {
        close(fds[i]);
    }
}

static void opening_links_are_bounded_at_the_gate(void)
{
    opening_links_are_bounded("127.0.0.0/8");
}

static void opening_links_are_bounded_behind_it(void)
{
    opening_links_are_bounded("192.0.2.0/24");
}

/* Links in every state, among them one that waits at the gate: all are told and gone when close returns. */
static void a_server_may_end_at_any_time(void)
{
    int waiting, opening;

    open_plain("127.0.0.0/8", "192.0.2.0/24");
    ws_dial("ws://127.0.0.1:%u/", NULL, false, sv_ws_server_port(ws.server));
    ws_wait(&ws.dialed.opened);
    ws_wait(&ws.accepted.opened);
    waiting = say("PROXY ");
    opening = say("GET / HT");
    for (unsigned i = 0; i < 50; i++) {
        uv_run(&ws.loop.uv, UV_RUN_NOWAIT);
        usleep(1000);
    }
    sv_ws_server_close(ws.server);
    ws.server = NULL;
    CHECK(ws.accepted.closed);
    ws_wait(&ws.dialed.closed);
    ws_close_all();
    close(waiting);
    close(opening);
}

int main(void)
{
    RUN(a_trusted_peer_tells_the_source);
    RUN(trusted_proxies_are_passed_over);
    RUN(both_follow_one_rule);
    RUN(strangers_have_no_proxy_header);
    RUN(unsound_requests_are_refused);
    RUN(a_list_without_an_end_is_refused);
    RUN(a_long_list_is_read_to_its_end);
    RUN(opening_links_are_bounded_at_the_gate);
    RUN(opening_links_are_bounded_behind_it);
    RUN(a_server_may_end_at_any_time);
    return CHECK_DONE("test_transport_ws_server");
}
