/* Addresses in text, listeners and what they say when they cannot listen, accept, and the options of a connection. */
#include "io/socket.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <smartvpn/base.h>
#include <unistd.h>

#include "base/error.h"
#include "tests/c/check.h"

/* The text as the parser understands it. */
static void check_parsed(const char *text, const char *expected)
{
    struct sockaddr_storage addr;
    socklen_t len = 0;
    uint8_t ip[16];
    uint16_t port = 0;
    char shown[64];

    CHECK_EQ(sv_sockaddr_parse(&addr, &len, text), 0);
    CHECK_EQ(len, addr.ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
    sv_sockaddr_split(&addr, ip, &port);
    CHECK_STR(sv_sockaddr_format(shown, sizeof shown, ip, port), expected);
}

static void addresses_are_parsed_and_printed(void)
{
    check_parsed("192.0.2.1:443", "192.0.2.1:443");
    check_parsed("0.0.0.0:0", "0.0.0.0:0");
    check_parsed("255.255.255.255:65535", "255.255.255.255:65535");
    check_parsed("localhost:80", "127.0.0.1:80");
    check_parsed(":443", "[::]:443");
    check_parsed("[::]:443", "[::]:443");
    check_parsed("[2001:DB8:0:0::1]:8443", "[2001:db8::1]:8443");
    check_parsed("[::ffff:192.0.2.1]:1", "192.0.2.1:1");
}

static void wrong_addresses_are_refused(void)
{
    static const char *const wrong[] = {
        "",
        ":",
        "192.0.2.1",
        "192.0.2.1:",
        "192.0.2.1:x",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:+1",
        "192.0.2.1: 1",
        "192.0.2.1:1 ",
        "192.0.2:1",
        "192.0.2.256:1",
        "hub.example:1",
        "::1:443",
        "[::1]",
        "[::1:1",
        "[::g]:1",
        "[192.0.2.1]:1",
        "[]:1",
        "192.0.2.1:184467440737095516161",
        "[2001:0db8:0000:0000:0000:0000:0000:0001:0000:0000:0000:0000:0000:0000]:1",
    };
    struct sockaddr_storage addr;
    socklen_t len;

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK_EQ(sv_sockaddr_parse(&addr, &len, wrong[i]), SV_E_INVALID);
    }
    CHECK_EQ(sv_sockaddr_parse(&addr, &len, NULL), SV_E_INVALID);
}

static int listen_on(const char *text, bool reuse_port, int *fd, uint16_t *port)
{
    struct sockaddr_storage addr;
    socklen_t len;
    uint8_t ip[16];
    int error = sv_sockaddr_parse(&addr, &len, text);

    error = error ? error : sv_listen(fd, &addr, len, reuse_port);
    if (!error) {
        len = sizeof addr;
        CHECK_EQ(getsockname(*fd, (struct sockaddr *)&addr, &len), 0);
        sv_sockaddr_split(&addr, ip, port);
    }
    return error;
}

static int connect_to(const char *host, uint16_t port)
{
    struct sockaddr_storage addr;
    socklen_t len;
    char text[64];
    int fd;

    snprintf(text, sizeof text, "%s:%u", host, port);
    CHECK_EQ(sv_sockaddr_parse(&addr, &len, text), 0);
    fd = socket(addr.ss_family, SOCK_STREAM, 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&addr, len), 0);
    return fd;
}

static int accept_one(int listener, struct sockaddr_storage *peer)
{
    struct pollfd ready = {.fd = listener, .events = POLLIN};
    int fd = -1;

    CHECK_EQ(poll(&ready, 1, 20000), 1);
    CHECK_EQ(sv_accept(listener, &fd, peer), 0);
    return fd;
}

static void check_accepts(int listener, const char *host, uint16_t port)
{
    struct sockaddr_storage peer, own;
    socklen_t len = sizeof own;
    int near = connect_to(host, port), far = accept_one(listener, &peer);
    uint8_t ip[16], own_ip[16];
    uint16_t peer_port = 0, own_port = 1;
    char byte;

    getsockname(near, (struct sockaddr *)&own, &len);
    sv_sockaddr_split(&peer, ip, &peer_port);
    sv_sockaddr_split(&own, own_ip, &own_port);
    CHECK_MEM(ip, own_ip, 16);
    CHECK_EQ(peer_port, own_port);
    CHECK_EQ(recv(far, &byte, 1, 0), -1); /* it does not block */
    close(near);
    close(far);
}

static void a_listener_accepts(void)
{
    struct sockaddr_storage peer;
    uint16_t port;
    int listener, fd;

    CHECK_EQ(listen_on("127.0.0.1:0", false, &listener, &port), 0);
    CHECK(port != 0);
    CHECK_EQ(sv_accept(listener, &fd, &peer), SV_E_AGAIN);
    check_accepts(listener, "127.0.0.1", port);
    CHECK_EQ(sv_accept(listener, &fd, &peer), SV_E_AGAIN);
    close(listener);
    CHECK_EQ(sv_accept(listener, &fd, &peer), SV_E_SYSTEM);
}

static void no_host_means_both_families(void)
{
    uint16_t port;
    int listener;

    CHECK_EQ(listen_on(":0", false, &listener, &port), 0);
    check_accepts(listener, "127.0.0.1", port);
    check_accepts(listener, "[::1]", port);
    close(listener);
}

static void a_taken_port_is_named(void)
{
    char text[64], words[128];
    uint16_t port;
    int listener, other;

    CHECK_EQ(listen_on("127.0.0.1:0", false, &listener, &port), 0);
    snprintf(text, sizeof text, "127.0.0.1:%u", port);
    CHECK_EQ(listen_on(text, false, &other, &port), SV_E_IN_USE);
    snprintf(words, sizeof words, "cannot listen on %s: Address already in use", text);
    CHECK_STR(sv_error_detail(), words);
    close(listener);
}

static void a_foreign_address_is_refused_in_words(void)
{
    uint16_t port;
    int listener;

    CHECK_EQ(listen_on("192.0.2.1:0", false, &listener, &port), SV_E_SYSTEM);
    CHECK_STR(sv_error_detail(), "cannot listen on 192.0.2.1:0: Cannot assign requested address");
}

static void workers_share_a_port(void)
{
    char text[64];
    uint16_t port, same;
    int one, other, third;

    CHECK_EQ(listen_on("127.0.0.1:0", true, &one, &port), 0);
    snprintf(text, sizeof text, "127.0.0.1:%u", port);
    CHECK_EQ(listen_on(text, true, &other, &same), 0);
    CHECK_EQ(same, port);
    CHECK_EQ(listen_on(text, false, &third, &same), SV_E_IN_USE);
    close(one);
    close(other);
}

static int option(int fd, int name)
{
    int value = -1;
    socklen_t len = sizeof value;

    CHECK_EQ(getsockopt(fd, IPPROTO_TCP, name, &value, &len), 0);
    return value;
}

static void connections_are_tuned(void)
{
    uint16_t port;
    int listener, fd;

    CHECK_EQ(listen_on("127.0.0.1:0", false, &listener, &port), 0);
    fd = connect_to("127.0.0.1", port);
    sv_tcp_tune(fd);
    CHECK_EQ(option(fd, TCP_NODELAY), 1);
    CHECK_EQ(option(fd, TCP_NOTSENT_LOWAT), 128 * 1024);
    CHECK_EQ(option(fd, TCP_USER_TIMEOUT), 30000);
    close(fd);
    close(listener);
}

int main(void)
{
    RUN(addresses_are_parsed_and_printed);
    RUN(wrong_addresses_are_refused);
    RUN(a_listener_accepts);
    RUN(no_host_means_both_families);
    RUN(a_taken_port_is_named);
    RUN(a_foreign_address_is_refused_in_words);
    RUN(workers_share_a_port);
    RUN(connections_are_tuned);
    return CHECK_DONE("test_io_socket");
}
