/* The gate on real sockets: what passes, what is left on the socket, and what is closed when. */
#include "transport/proxy_gate.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/c/check.h"
#include "transport/proxy_header.h"

#define V1 "PROXY TCP4 198.51.100.7 192.0.2.1 4321 443\r\n"
#define REST "GET / HTTP/1.1\r\n\r\n"
#define V2_LOCAL "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"

static struct sv_loop loop;
static struct sv_proxy_gate gate;
static struct sv_proxy_visitor passed;
static unsigned passes, wakes;
static const uint8_t peer[16] = {[10] = 0xFF, 0xFF, 127, 0, 0, 1},
                     source[16] = {[10] = 0xFF, 0xFF, 198, 51, 100, 7};

static void on_pass(void *ctx, const struct sv_proxy_visitor *visitor)
{
    CHECK(ctx == &gate);
    passed = *visitor;
    passes++;
}

static void on_wake(void *ctx)
{
    (void)ctx;
    wakes++;
}

static void open_gate(uint64_t patience)
{
    passes = wakes = 0;
    passed = (struct sv_proxy_visitor){.fd = -1};
    CHECK_EQ(sv_loop_init(&loop, NULL, on_wake, NULL), 0);
    CHECK_EQ(sv_proxy_gate_init(&gate, &loop, patience, on_pass, &gate), 0);
}

static void close_gate(void)
{
    sv_proxy_gate_clear(&gate);
    sv_loop_clear(&loop);
    if (passed.fd >= 0) {
        close(passed.fd);
    }
}

/* A TCP connection over loopback: [0] the proxy's end, [1] what accept gave. */
static void connect_pair(int fds[2])
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    CHECK_EQ(bind(listener, (struct sockaddr *)&addr, sizeof addr), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(connect(fds[0], (struct sockaddr *)&addr, sizeof addr), 0);
    setsockopt(fds[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    CHECK(fds[1] >= 0);
    close(listener);
}

static void enter_at(int fd, uint64_t accepted_at)
{
    struct sv_proxy_visitor visitor = {.fd = fd, .port = 7, .accepted_at = accepted_at};

    memcpy(visitor.peer, peer, 16);
    memcpy(visitor.source, peer, 16);
    sv_proxy_gate_enter(&gate, &visitor);
}

static void enter(int fd)
{
    enter_at(fd, sv_clock_now());
}

/* Turns the loop until no more than so many wait, for 20 s at most. */
static void wait_until_left(size_t count)
{
    uint64_t until = sv_clock_now() + 20 * SV_NS_PER_S;

    while (gate.count > count && sv_clock_now() < until) {
        uv_run(&loop.uv, UV_RUN_NOWAIT);
        usleep(1000);
    }
    CHECK_EQ(gate.count, count);
}

static void wait_until_empty(void)
{
    wait_until_left(0);
}

static void turn_for(unsigned ms)
{
    for (unsigned i = 0; i < ms; i++) {
        uv_run(&loop.uv, UV_RUN_NOWAIT);
        usleep(1000);
    }
}

static void check_through(const uint8_t from[16], unsigned port, const char *left)
{
    char got[64] = "";
    int wanted = 0;
    socklen_t len = sizeof wanted;

    CHECK_EQ(passes, 1);
    CHECK_MEM(passed.source, from, 16);
    CHECK_MEM(passed.peer, peer, 16);
    CHECK_EQ(passed.port, port);
    CHECK_EQ(recv(passed.fd, got, sizeof got - 1, MSG_DONTWAIT), strlen(left));
    CHECK_STR(got, left);
    CHECK_EQ(getsockopt(passed.fd, SOL_SOCKET, SO_RCVLOWAT, &wanted, &len), 0);
    CHECK_EQ(wanted, 1);
}

static void check_closed(int fd)
{
    char byte;

    CHECK_EQ(passes, 0);
    CHECK(recv(fd, &byte, 1, 0) <= 0);
}

/* Writes the bytes in pieces of that size, the loop turning after each. */
static void write_in_pieces(int fd, const char *bytes, size_t len, size_t piece)
{
    for (size_t at = 0; at < len; at += piece) {
        size_t n = len - at < piece ? len - at : piece;

        CHECK_EQ(write(fd, bytes + at, n), n);
        turn_for(3);
    }
}

static void pass_in_pieces(const char *bytes, size_t len, size_t piece, const uint8_t from[16], unsigned port)
{
    int fds[2];

    open_gate(5 * SV_NS_PER_S);
    connect_pair(fds);
    enter(fds[1]);
    CHECK_EQ(gate.count, 1);
    write_in_pieces(fds[0], bytes, len, piece);
    wait_until_empty();
    check_through(from, port, REST);
    close(fds[0]);
    close_gate();
}

static void a_header_is_taken_off_to_the_byte(void)
{
    pass_in_pieces(V1 REST, strlen(V1 REST), 1000, source, 4321);
    pass_in_pieces(V2_LOCAL REST, sizeof V2_LOCAL REST - 1, 1000, peer, 7);
}

static void a_header_may_come_in_pieces(void)
{
    size_t header = strlen(V1);

    for (size_t piece = 7; piece < header; piece += 11) {
        int fds[2];

        open_gate(5 * SV_NS_PER_S);
        connect_pair(fds);
        enter(fds[1]);
        write_in_pieces(fds[0], V1, header, piece);
        wait_until_empty();
        CHECK_EQ(write(fds[0], REST, strlen(REST)), strlen(REST));
        usleep(20000);
        check_through(source, 4321, REST);
        close(fds[0]);
        close_gate();
    }
}

static void other_bytes_pass_untouched(void)
{
    pass_in_pieces(REST, strlen(REST), 1000, peer, 7);
}

/* Bytes that are there already at the call are judged in it. */
static void what_is_there_is_not_waited_for(void)
{
    int fds[2];

    open_gate(5 * SV_NS_PER_S);
    connect_pair(fds);
    CHECK_EQ(write(fds[0], V1 REST, strlen(V1 REST)), strlen(V1 REST));
    usleep(20000);
    enter(fds[1]);
    CHECK_EQ(gate.count, 0);
    check_through(source, 4321, REST);
    close(fds[0]);
    close_gate();
}

static void a_bad_header_is_closed(void)
{
    int fds[2];

    open_gate(5 * SV_NS_PER_S);
    connect_pair(fds);
    enter(fds[1]);
    CHECK_EQ(write(fds[0], "PROXY TCP9 1 2 3 4\r\n", 20), 20);
    wait_until_empty();
    check_closed(fds[0]);
    close(fds[0]);
    close_gate();
}

static void a_header_cut_off_is_closed(const char *bytes)
{
    int fds[2];

    open_gate(5 * SV_NS_PER_S);
    connect_pair(fds);
    enter(fds[1]);
    CHECK_EQ(write(fds[0], bytes, strlen(bytes)), strlen(bytes));
    turn_for(20);
    CHECK_EQ(gate.count, 1);
    shutdown(fds[0], SHUT_WR);
    wait_until_empty();
    check_closed(fds[0]);
    close(fds[0]);
    close_gate();
}

static void a_peer_that_goes_is_noticed(void)
{
    a_header_cut_off_is_closed("");
    a_header_cut_off_is_closed("PRO");
    a_header_cut_off_is_closed("PROXY TCP4 198.51");
}

static void on_alarm(void *ctx)
{
    *(bool *)ctx = true;
}

/* Bytes that are not enough, and silence: the loop sleeps until the alarm. */
static void half_a_header_does_not_keep_the_loop_awake(void)
{
    struct sv_timer *alarm;
    bool rang = false;
    int fds[2];

    open_gate(5 * SV_NS_PER_S);
    alarm = sv_timer_new(&loop, on_alarm, &rang);
    connect_pair(fds);
    enter(fds[1]);
    CHECK_EQ(write(fds[0], "PROXY TCP4 ", 11), 11);
    turn_for(20);
    wakes = 0;
    sv_timer_set(alarm, sv_clock_now() + 100 * SV_NS_PER_MS);
    while (!rang) {
        uv_run(&loop.uv, UV_RUN_ONCE);
    }
    CHECK_EQ(gate.count, 1);
    CHECK(wakes <= 2);
    sv_timer_close(alarm);
    close(fds[0]);
    close_gate();
}

/* Each in its own time, from its accept: so far apart that no stall of the machine brings them together. */
static void patience_ends(void)
{
    int first[2], second[2];
    uint64_t began = sv_clock_now();

    open_gate(200 * SV_NS_PER_MS);
    connect_pair(first);
    connect_pair(second);
    enter_at(first[1], began);
    enter_at(second[1], began + 3 * SV_NS_PER_S);
    CHECK_EQ(gate.count, 2);
    wait_until_left(1);
    CHECK(sv_clock_now() >= began + 200 * SV_NS_PER_MS);
    check_closed(first[0]);
    wait_until_empty();
    check_closed(second[0]);
    close(first[0]);
    close(second[0]);
    close_gate();
}

static void dripping_wins_no_time(void)
{
    static const char line[] = "PROXY UNKNOWN ";
    int fds[2];
    uint64_t began = sv_clock_now();
    size_t sent = 0;

    open_gate(300 * SV_NS_PER_MS);
    connect_pair(fds);
    enter(fds[1]);
    while (gate.count && sv_clock_now() < began + 20 * SV_NS_PER_S) {
        if (sent < SV_PROXY_HEADER_V1_MAX - 10) {
            send(fds[0], sent < sizeof line - 1 ? line + sent : "x", 1, MSG_NOSIGNAL);
            sent++;
        }
        turn_for(20);
    }
    CHECK_EQ(gate.count, 0);
    CHECK_EQ(passes, 0);
    close(fds[0]);
    close_gate();
}

static void clearing_closes_who_waits(void)
{
    int fds[3][2];

    open_gate(5 * SV_NS_PER_S);
    for (size_t i = 0; i < 3; i++) {
        connect_pair(fds[i]);
        enter(fds[i][1]);
    }
    CHECK_EQ(gate.count, 3);
    /* The one in the middle leaves on its own. */
    CHECK_EQ(write(fds[1][0], REST, strlen(REST)), strlen(REST));
    wait_until_left(2);
    CHECK_EQ(passes, 1);
    passes = 0;
    sv_proxy_gate_clear(&gate);
    CHECK_EQ(gate.count, 0);
    check_closed(fds[0][0]);
    check_closed(fds[2][0]);
    for (size_t i = 0; i < 3; i++) {
        close(fds[i][0]);
    }
    close_gate();
}

int main(void)
{
    RUN(a_header_is_taken_off_to_the_byte);
    RUN(a_header_may_come_in_pieces);
    RUN(other_bytes_pass_untouched);
    RUN(what_is_there_is_not_waited_for);
    RUN(a_bad_header_is_closed);
    RUN(a_peer_that_goes_is_noticed);
    RUN(half_a_header_does_not_keep_the_loop_awake);
    RUN(patience_ends);
    RUN(dripping_wins_no_time);
    RUN(clearing_closes_who_waits);
    return CHECK_DONE("test_transport_proxy_gate");
}
