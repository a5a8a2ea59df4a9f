/* The client's link against the real server: back-pressure, the end, and servers that are none. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <smartvpn/base.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/socket.h"
#include "tests/c/tls_certificate.h"
#include "tests/c/ws_fixture.h"

enum { MESSAGE = 10 * 1024, MESSAGES = 40 }; /* more than sockets take: the server is blocked on the way */

static struct tls_certificate hub;

static void turn_for(unsigned ms)
{
    for (unsigned i = 0; i < ms; i++) {
        uv_run(&ws.loop.uv, UV_RUN_NOWAIT);
        usleep(1000);
    }
}

static void open_pair(bool secure)
{
    ws_open_loop();
    CHECK_EQ(ws_open_server(secure ? hub.cert : NULL, secure ? hub.key : NULL, NULL, 0), 0);
    ws_dial(secure ? "wss://127.0.0.1:%u/" : "ws://127.0.0.1:%u/", secure ? hub.hash : NULL, secure,
            sv_ws_server_port(ws.server));
    ws_wait(&ws.dialed.opened);
    ws_wait(&ws.accepted.opened);
}

/* Messages of every awkward length, up and down, in pieces that no read or record matches: all bytes arrive in order. */
static void check_lengths(bool secure)
{
    static const size_t lengths[] = {1, 125, 126, 127, 4000, 16384, 16385, 65535, 65536, 70000, 131072};
    static uint8_t bytes[SV_LINK_HEADROOM + 131072];
    size_t sent = 0, wrong = 0;

    open_pair(secure);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (unsigned way = 0; way < 2; way++) {
            struct ws_end *from = way ? &ws.accepted : &ws.dialed;

            memset(bytes + SV_LINK_HEADROOM, (int)i + 1, lengths[i]);
            CHECK_EQ(from->link->ops->send(from->link, bytes + SV_LINK_HEADROOM, lengths[i]), 0);
        }
        sent += lengths[i];
        ws_wait_received(&ws.dialed, sent);
        ws_wait_received(&ws.accepted, sent);
    }
    for (size_t i = 0, at = 0; i < sizeof lengths / sizeof *lengths; at += lengths[i++]) {
        for (size_t k = 0; k < lengths[i]; k++) {
            wrong += ws.dialed.received[at + k] != i + 1 || ws.accepted.received[at + k] != i + 1;
        }
    }
    CHECK_EQ(wrong, 0);
    ws_close_all();
}

static void messages_of_all_lengths_arrive(void)
{
    check_lengths(false);
}

static void messages_of_all_lengths_arrive_over_tls(void)
{
    check_lengths(true);
}

static void a_graceful_end_is_told_to_both(void)
{
    open_pair(true);
    ws.dialed.link->ops->close(ws.dialed.link, SV_CLOSE_GRACEFUL);
    CHECK(!ws.dialed.closed);
    ws_wait(&ws.accepted.closed);
    ws_wait(&ws.dialed.closed);
    CHECK_EQ(ws.dialed.error, 0);
    ws_close_all();
}

static int listen_on(struct sockaddr_in *addr, int backlog)
{
    socklen_t len = sizeof *addr;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK_EQ(bind(listener, (struct sockaddr *)addr, sizeof *addr), 0);
    CHECK_EQ(listen(listener, backlog), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)addr, &len), 0);
    return listener;
}

static int accept_at(int listener)
{
    int fd = -1;

    for (unsigned i = 0; i < 20000 && fd < 0; i++) {
        turn_for(1);
        fd = accept(listener, NULL, NULL);
    }
    return fd;
}

/* A listener that answers the first bytes with these and closes. */
static void check_answer(const char *answer, int error, const char *words)
{
    struct sockaddr_in addr;
    int listener = listen_on(&addr, 1), fd;
    char request[4096];

    ws_open_loop();
    ws_dial("ws://127.0.0.1:%u/", NULL, false, ntohs(addr.sin_port));
    fd = accept_at(listener);
    turn_for(50);
    CHECK(recv(fd, request, sizeof request, 0) > 0);
    CHECK_EQ(write(fd, answer, strlen(answer)), strlen(answer));
    close(fd);
    ws_wait(&ws.dialed.closed);
    CHECK(!ws.dialed.opened);
    CHECK_EQ(ws.dialed.error, error);
    CHECK_STR(ws.dialed.why, words);
    ws_close_all();
    close(listener);
}

static void what_is_no_hub_is_told_in_words(void)
{
    check_answer(
        "", SV_E_UNREACHABLE,
        "the server closed the connection instead of answering the WebSocket upgrade: it may expect wss://");
    check_answer("HTTP/1.1 403 Forbidden\r\n\r\n", SV_E_REFUSED,
                 "the server answered HTTP 403 instead of a WebSocket upgrade");
    check_answer("SSH-2.0-OpenSSH_9.2\r\n", SV_E_PROTOCOL, "the server does not speak HTTP/1.1");
}

/* ms without an acknowledgement after which the client's socket ends, which is in this state. */
static unsigned silence_in(int state)
{
    for (int fd = 3; fd < 256; fd++) {
        struct tcp_info info = {0};
        socklen_t len = sizeof info;
        unsigned ms = 0;
        socklen_t size = sizeof ms;

        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_state == state &&
            getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, &size) == 0 && ms) {
            return ms;
        }
    }
    return 0;
}

static void check_silence(const char *url, const char *proxy)
{
    struct sockaddr_in addr;
    int listener = listen_on(&addr, 1), fd;
    char text[64], byte;

    snprintf(text, sizeof text, "http://127.0.0.1:%u", ntohs(addr.sin_port));
    CHECK_EQ(proxy ? setenv(proxy, text, 1) : 0, 0);
    ws_open_loop();
    ws_dial(url, NULL, false, ntohs(addr.sin_port));
    fd = accept_at(listener);
    for (unsigned i = 0; i < 20000 && recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 1; i++) {
        turn_for(1);
    }
    CHECK_EQ(silence_in(TCP_ESTABLISHED), SV_TCP_SILENCE_MS);
    close(fd);
    ws_wait(&ws.dialed.closed);
    CHECK_EQ(proxy ? unsetenv(proxy) : 0, 0);
    ws_close_all();
    close(listener);
}

/* TLS and proxies may pause for longer. */
static void only_the_connect_is_given_up_soon(void)
{
    struct sockaddr_in addr;
    int listener = listen_on(&addr, 0), first = socket(AF_INET, SOCK_STREAM, 0);

    CHECK_EQ(connect(first, (struct sockaddr *)&addr, sizeof addr), 0); /* now it takes no more */
    ws_open_loop();
    ws_dial("wss://127.0.0.1:%u/", NULL, false, ntohs(addr.sin_port));
    turn_for(50);
    CHECK_EQ(silence_in(TCP_SYN_SENT), 2000);
    ws_close_all();
    close(first);
    close(listener);
    check_silence("ws://127.0.0.1:%u/", NULL);
    check_silence("wss://127.0.0.1:%u/", NULL);
    check_silence("wss://hub.example:%u/", "https_proxy");
    check_silence("ws://hub.example:%u/", "http_proxy");
}

int main(void)
{
    tls_certificate_make(&hub, "IP:127.0.0.1");
    RUN(messages_of_all_lengths_arrive);
    RUN(messages_of_all_lengths_arrive_over_tls);
    RUN(a_graceful_end_is_told_to_both);
    RUN(what_is_no_hub_is_told_in_words);
    RUN(only_the_connect_is_given_up_soon);
    return CHECK_DONE("test_transport_ws_client");
}
