/* A QUIC server whose UDP socket takes nothing for a while: a small send buffer, and a neighbour that does not answer ARP, so that packets wait in the
 * kernel. Its clients are in another process and network namespace. */
#include <smartvpn/base.h>

#ifdef SV_HAVE_QUIC

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/c/quic_fixture.h"
#include "transport/quic_server.h"

enum { MUCH = 300000, TURNS_MAX = 200, TIMES = 3 };

static const char address[] = "10.98.0.1:7000";
static struct quic_end first, second;

static void shell(const char *format, int number)
{
    char command[256];

    snprintf(command, sizeof command, format, number);
    CHECK_EQ(system(command), 0);
}

/* ---- the clients: each says when it has got all that it waits for ---- */

static void say(struct quic_end *end, const char *text)
{
    CHECK_EQ(quic_send(end, text, strlen(text)), 0);
}

static int clients(int go)
{
    char byte;

    CHECK_EQ(read(go, &byte, 1), 1);
    shell("ip link set lo up; ip address add 10.98.0.2/24 dev outer; ip link set outer up", 0);
    quic_open_loop();
    quic.idle = 300 * SV_NS_PER_S; /* a keepalive would wake the server's side */
    quic_dial_to(&first, address, NULL);
    QUIC_WAIT(first.opened);
    say(&first, "1");
    QUIC_WAIT(first.received_len == 1);
    quic_dial_to(&second, address, NULL);
    QUIC_WAIT(second.opened);
    say(&second, "2");
    QUIC_WAIT(second.received_len == 1);
    for (size_t i = 1; i <= TIMES; i++) {
        QUIC_WAIT(second.received_len == 1 + 4 * i);
        say(&second, "k");
        QUIC_WAIT(first.received_len == 1 + MUCH * i);
        say(&first, "k");
    }
    while (!first.closed || !second.closed) {
        uv_run(&quic.loop.uv, UV_RUN_ONCE);
    }
    return CHECK_DONE("quic_stuck, clients");
}

/* ---- the server ---- */

static void adopt(struct quic_end *end)
{
    QUIC_WAIT(quic.accepted.received_len == 1);
    *end = quic.accepted;
    end->link->owner = end;
    quic.accepted = (struct quic_end){0};
    quic_end_reset(&quic.accepted);
    say(end, "!");
}

static bool is_stuck(void)
{
    return quic.server->side.tx.stuck;
}

static void push(const uint8_t *bytes, size_t len)
{
    CHECK_EQ(quic_send(&first, bytes, len), 0);
    for (unsigned i = 0; i < 20 && !first.link->datagrams_blocked; i++) {
        first.link->ops->send_datagram(first.link, bytes, 1000);
    }
    first.link->ops->flush(first.link);
}

/* The loop's turns in half a second. */
static unsigned turns(void)
{
    unsigned count = 0;

    quic.timed_out = false;
    sv_timer_set(quic.timer, sv_clock_now() + SV_NS_PER_S / 2);
    while (!quic.timed_out) {
        uv_run(&quic.loop.uv, UV_RUN_ONCE);
        count++;
    }
    return count;
}

static void a_full_socket_is_waited_for(pid_t other)
{
    static const uint8_t much[MUCH];

    for (size_t i = 1; i <= TIMES; i++) {
        shell("nsenter -t %d -n ip link set outer arp off", (int)other);
        shell("ip neighbour flush dev outer", 0);
        push(much, MUCH);
        QUIC_WAIT(is_stuck());
        CHECK_EQ(quic_send(&second, "late", 4), 0);
        if (i == TIMES) { /* before that the stream alone must wake it */
            CHECK_EQ(second.link->ops->send_datagram(second.link, much, 100), SV_E_AGAIN);
            CHECK(second.link->datagrams_blocked);
        }
        CHECK(turns() < TURNS_MAX); /* it waits, and does not try again and again */
        shell("nsenter -t %d -n ip link set outer arp on", (int)other);
        QUIC_WAIT(second.received_len == 1 + i && first.received_len == 1 + i);
        QUIC_WAIT(!second.link->datagrams_blocked && (i < TIMES || second.writable));
        CHECK(!is_stuck());
    }
    CHECK(!first.closed && !second.closed);
}

static void serve(pid_t other)
{
    int least = 1;

    quic_open_loop();
    quic.idle = 300 * SV_NS_PER_S;
    CHECK_EQ(quic_open_server_at(address), 0);
    CHECK_EQ(setsockopt(quic.server->udp.fd4, SOL_SOCKET, SO_SNDBUF, &least, sizeof least), 0);
    adopt(&first);
    adopt(&second);
    a_full_socket_is_waited_for(other);
    quic_close_all();
    free(first.received);
    free(second.received);
}

int main(void)
{
    int ready[2], go[2], status = 1;
    char byte = 0;
    pid_t child;

    if (unshare(CLONE_NEWNET)) {
        fprintf(stderr, "quic_stuck: network namespaces need root: %s\n", strerror(errno));
        return 1;
    }
    alarm(280);
    if (pipe(ready) || pipe(go)) {
        return 1;
    }
    child = fork();
    if (child == 0) {
        CHECK_EQ(unshare(CLONE_NEWNET), 0);
        CHECK_EQ(write(ready[1], &byte, 1), 1);
        return clients(go[0]);
    }
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    shell("ip link set lo up; ip link add outer type veth peer name outer netns %d", (int)child);
    shell("ip address add 10.98.0.1/24 dev outer; ip link set outer up", 0);
    CHECK_EQ(write(go[1], &byte, 1), 1);
    serve(child);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return CHECK_DONE("test_transport_quic_stuck");
}

#else

#include "tests/c/check.h"
#include "transport/quic.h"

int main(void)
{
    CHECK(!sv_quic_available());
    return CHECK_DONE("test_transport_quic_stuck, without QUIC");
}

#endif
