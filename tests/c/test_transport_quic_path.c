/* QUIC links whose addresses change, whose peers die or restart, and one port for several workers. */
#include <signal.h>
#include <smartvpn/base.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/c/quic_fixture.h"

enum { REBINDS = 24, WORKERS = 2, CLIENTS = 16, FLOW = 64, LATE_MAX = 10000000 };

static void exchange(struct quic_end *client, const char *text)
{
    size_t before = quic.accepted.datagrams, bytes = quic.accepted.received_len;
    size_t len = strlen(text);

    CHECK_EQ(quic_send_datagram(client, text, len), 0);
    CHECK_EQ(quic_send(client, text, len), 0);
    QUIC_WAIT(quic.accepted.datagrams == before + 1 && quic.accepted.received_len == bytes + len);
}

/* 24 rebinds in a row: the link lives, its owner is asked about each new address, and nothing is lost. */
static void a_link_moves_with_its_client(void)
{
    unsigned moves = 0;

    quic_open_pair();
    exchange(&quic.dialed, "before");
    for (unsigned i = 0; i < REBINDS; i++) {
        uint16_t before = quic.accepted.link->remote_port;

        sv_quic_client_rebind(quic.dialed.link);
        exchange(&quic.dialed, "meanwhile");
        QUIC_WAIT(quic.accepted.link->remote_port != before);
        moves += quic.accepted.link->remote_port != before;
        exchange(&quic.dialed, "after");
        CHECK_EQ(quic_send(&quic.accepted, "back", 4), 0);
        QUIC_WAIT(quic.dialed.received_len == 4u * (i + 1));
    }
    CHECK_EQ(moves, REBINDS);
    CHECK(quic.accepted.paths_asked >= REBINDS);
    CHECK(!quic.accepted.closed && !quic.dialed.closed);
    quic_close_all();
}

/* Packets on their way all the time, both ways: the path loses none, and so do the moves. */
static void no_datagram_is_lost_by_moving(void)
{
    uint8_t bytes[900] = {0};
    size_t sent = 0;

    quic_open_pair();
    exchange(&quic.dialed, "before");
    for (unsigned i = 0; i < REBINDS; i++) {
        uint16_t before = quic.accepted.link->remote_port;
        unsigned late = 0;

        for (unsigned j = 0; j < 2 * FLOW || quic.accepted.link->remote_port == before; j++) {
            if (j == FLOW) {
                sv_quic_client_rebind(quic.dialed.link);
            }
            if (sent < quic.dialed.datagrams + FLOW && sent < quic.accepted.datagrams + FLOW) {
                CHECK_EQ(quic_send_datagram(&quic.dialed, bytes, sizeof bytes), 0);
                CHECK_EQ(quic_send_datagram(&quic.accepted, bytes, sizeof bytes), 0);
                sent++;
            } else if (++late == LATE_MAX) {
                break;
            }
            uv_run(&quic.loop.uv, UV_RUN_NOWAIT);
        }
        CHECK(quic.accepted.link->remote_port != before);
    }
    QUIC_WAIT(quic.accepted.datagrams == sent + 1 && quic.dialed.datagrams == sent);
    quic_close_all();
}

/* Asked for again before the last one is done, and more often than there are connection IDs. */
static void rebinds_in_one_turn_end_at_the_last(void)
{
    uint16_t before;

    quic_open_pair();
    exchange(&quic.dialed, "before");
    before = quic.accepted.link->remote_port;
    for (unsigned i = 0; i < REBINDS; i++) {
        sv_quic_client_rebind(quic.dialed.link);
    }
    QUIC_WAIT(quic.accepted.link->remote_port != before);
    exchange(&quic.dialed, "after");
    quic_close_all();
}

static void a_path_that_is_refused_ends_the_link(void)
{
    quic_open_pair();
    exchange(&quic.dialed, "before");
    quic.accepted.refuse_paths = true;
    sv_quic_client_rebind(quic.dialed.link);
    QUIC_WAIT(quic.accepted.closed);
    CHECK_EQ(quic.accepted.error, SV_E_REFUSED);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, 0);
    quic_close_all();
}

/* ---- another process that may be killed ---- */

static void serve_until_killed(int port_pipe)
{
    uint16_t port;

    quic_open_loop();
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
    port = sv_quic_server_port(quic.server);
    CHECK_EQ(write(port_pipe, &port, sizeof port), sizeof port);
    for (;;) {
        uv_run(&quic.loop.uv, UV_RUN_ONCE);
    }
}

static pid_t serve_elsewhere(char address[64])
{
    uint16_t port = 0;
    int pipes[2];
    pid_t child;

    CHECK_EQ(pipe(pipes), 0);
    child = fork();
    if (child == 0) {
        serve_until_killed(pipes[1]);
    }
    CHECK_EQ(read(pipes[0], &port, sizeof port), sizeof port);
    close(pipes[0]);
    close(pipes[1]);
    snprintf(address, 64, "127.0.0.1:%u", port);
    return child;
}

static void kill_server(pid_t child)
{
    kill(child, SIGKILL);
    CHECK_EQ(waitpid(child, NULL, 0), child);
}

/* A server that was killed and is there again is noticed at the next packet, not at the idle timeout. */
static void a_restarted_server_is_noticed(void)
{
    char address[64];
    uint64_t began;
    pid_t child;

    quic_open_loop(); /* the certificate is the child's too */
    quic_close_all();
    child = serve_elsewhere(address);
    quic_open_loop();
    quic_dial_to(&quic.dialed, address, quic.hash);
    QUIC_WAIT(quic.dialed.opened);
    kill_server(child);
    CHECK_EQ(quic_open_server_at(address), 0);
    began = sv_clock_now();
    CHECK_EQ(quic_send(&quic.dialed, "anybody there?", 14), 0);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, SV_E_CLOSED);
    CHECK_STR(quic.dialed.why, "the other side does not know the connection any more");
    CHECK(sv_clock_now() - began < quic.idle / 2);
    CHECK(sv_quic_server_counters(quic.server)->unknown > 0);
    quic_close_all();
}

/* The client's PING keeps an idle link alive; a dead server ends it after the idle timeout. */
static void only_the_dead_time_out(void)
{
    char address[64];
    pid_t child;

    quic.idle = SV_NS_PER_S;
    child = serve_elsewhere(address);
    quic.idle = SV_NS_PER_S;
    quic_open_loop();
    quic_dial_to(&quic.dialed, address, NULL);
    QUIC_WAIT(quic.dialed.opened);
    quic_turn(3 * SV_NS_PER_S);
    CHECK(!quic.dialed.closed);
    kill_server(child);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, SV_E_TIMEOUT);
    CHECK_STR(quic.dialed.why, "nothing came from the other side for the idle timeout");
    quic_close_all();
}

/* ---- several workers on one port ---- */

static void open_workers(struct sv_quic_server *servers[WORKERS])
{
    struct sv_quic_server_config config = {
        .listen_addr = "127.0.0.1:0",
        .cert = quic.cert,
        .key = quic.key,
        .idle_timeout = quic.idle,
        .secret = quic.secret,
        .worker_count = WORKERS,
        .sink = &quic_accept_sink,
    };
    char address[64];

    for (size_t i = 0; i < WORKERS; i++) {
        config.worker = i;
        CHECK_EQ(sv_quic_server_open(&servers[i], &quic.loop, &config), 0);
        snprintf(address, sizeof address, "127.0.0.1:%u", sv_quic_server_port(servers[0]));
        config.listen_addr = address;
    }
}

/* Clients spread over the workers, and stay on theirs from whatever address they come. */
static void workers_share_a_port(void)
{
    struct sv_quic_server *servers[WORKERS];
    static struct quic_end ends[CLIENTS];
    char address[64];
    uint64_t accepted[WORKERS], strays = 0;
    size_t opened = 0;

    quic_open_loop();
    open_workers(servers);
    snprintf(address, sizeof address, "127.0.0.1:%u", sv_quic_server_port(servers[0]));
    for (size_t i = 0; i < CLIENTS; i++) {
        quic_dial_to(&ends[i], address, quic.hash);
        QUIC_WAIT(ends[i].opened);
        opened += ends[i].opened;
    }
    CHECK_EQ(opened, CLIENTS);
    for (size_t i = 0; i < WORKERS; i++) {
        accepted[i] = sv_quic_server_counters(servers[i])->accepted;
        CHECK(accepted[i] > 0);
    }
    CHECK_EQ(accepted[0] + accepted[1], CLIENTS);
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < CLIENTS; i++) {
            sv_quic_client_rebind(ends[i].link);
            exchange(&ends[i], "moving");
            exchange(&ends[i], "moved");
        }
    }
    for (size_t i = 0; i < CLIENTS; i++) {
        CHECK(!ends[i].closed);
        ends[i].link->ops->close(ends[i].link, SV_CLOSE_SILENT);
        QUIC_WAIT(ends[i].closed);
        free(ends[i].received);
        ends[i].received = NULL;
    }
    for (size_t i = 0; i < WORKERS; i++) {
        strays += sv_quic_server_counters(servers[i])->strays;
        CHECK_EQ(sv_quic_server_counters(servers[i])->accepted, accepted[i]);
        sv_quic_server_close(servers[i]);
    }
    CHECK_EQ(strays, 0);
    quic_close_all();
}

int main(void)
{
    RUN(a_link_moves_with_its_client);
    RUN(no_datagram_is_lost_by_moving);
    RUN(rebinds_in_one_turn_end_at_the_last);
    RUN(a_path_that_is_refused_ends_the_link);
    RUN(a_restarted_server_is_noticed);
    RUN(only_the_dead_time_out);
    RUN(workers_share_a_port);
    return CHECK_DONE("test_transport_quic_path");
}
