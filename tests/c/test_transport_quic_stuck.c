/* A QUIC server, then a client, whose UDP socket takes nothing for a while: a small send buffer, and a neighbour that does not answer ARP, so that
 * packets wait in the kernel. The clients are in another process and network namespace. */
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

enum { MUCH = 300000, TURNS_MAX = 100, TIMES = 3 };

static const char address[] = "10.98.0.1:7000";
static struct quic_end first, second;

static void shell(const char *format, int number)
{
    char command[256];

    snprintf(command, sizeof command, format, number);
    CHECK_EQ(system(command), 0);
}

/* An ARP request each 50 ms, and for longer than anything here lasts: what waits for its answer does not get lost. */
static void be_patient(void)
{
    shell("cd /proc/sys/net/ipv4/neigh/outer && echo 50 >retrans_time_ms && echo 1200 >mcast_solicit", 0);
}

/* What goes to the other process, in whose namespace the neighbour is, waits in the kernel. */
static void stop_answers(pid_t other)
{
    shell("nsenter -t %d -n ip link set outer arp off", (int)other);
    shell("ip neighbour flush dev outer", 0);
}

static void let_answer(pid_t other)
{
    shell("nsenter -t %d -n ip link set outer arp on", (int)other);
}

static bool is_stuck(const struct quic_end *end)
{
    return ((const struct sv_quic_conn *)end->link)->side->tx.stuck;
}

/* More than the socket takes. */
static void push(struct quic_end *end)
{
    static const uint8_t much[MUCH];

    CHECK_EQ(quic_send(end, much, sizeof much), 0);
    for (unsigned i = 0; i < 20 && !end->link->datagrams_blocked; i++) {
        end->link->ops->send_datagram(end->link, much, 1000);
    }
    end->link->ops->flush(end->link);
    QUIC_WAIT(is_stuck(end));
}

static void shrink_buffer(int fd)
{
    int least = 1;

    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof least), 0);
}

/* ---- the clients: each says when it has got all that it waits for ---- */

static void say(struct quic_end *end, const char *text)
{
    CHECK_EQ(quic_send(end, text, strlen(text)), 0);
}

static void shrink_all_buffers(void)
{
    int kind = 0;
    socklen_t size = sizeof kind;

    for (int fd = 3; fd < 256; fd++) {
        if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &kind, &size) == 0 && kind == IPPROTO_UDP) {
            shrink_buffer(fd);
        }
    }
}

/* Its sockets are gone with the link, and are not before. */
static void leave_with_a_full_socket(void)
{
    quic_dial_to(&second, address, NULL);
    QUIC_WAIT(second.opened);
    say(&second, "3");
    QUIC_WAIT(second.received_len == 1);
    shrink_all_buffers();
    stop_answers(getppid());
    push(&second);
    second.link->ops->close(second.link, SV_CLOSE_SILENT);
    quic_turn(SV_NS_PER_S / 20);
    CHECK(!second.closed);
    let_answer(getppid());
    QUIC_WAIT(second.closed);
}

static void come_in(struct quic_end *end)
{
    quic_dial_to(end, address, NULL);
    QUIC_WAIT(end->opened);
    say(end, "n");
    QUIC_WAIT(end->received_len == 1);
}

/* Nothing but the server's last word ends them within this time. */
static void stay_until_told(void)
{
    come_in(&first);
    come_in(&second);
    QUIC_WAIT(first.closed && second.closed);
    CHECK_EQ(first.error, 0);
    CHECK_STR(second.why, "the other side closed the connection");
    CHECK_EQ(second.error, 0);
}

static int clients(int go)
{
    char byte;

    CHECK_EQ(read(go, &byte, 1), 1);
    shell("ip link set lo up; ip address add 10.98.0.2/24 dev outer; ip link set outer up", 0);
    be_patient();
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
    QUIC_WAIT(second.closed); /* no keepalive, timeout or reset would end it within this time */
    CHECK_EQ(second.error, 0);
    CHECK_STR(second.why, "the other side closed the connection");
    say(&first, "k");
    QUIC_WAIT(first.closed); /* told nothing, it asked */
    CHECK_EQ(first.error, SV_E_CLOSED);
    leave_with_a_full_socket();
    stay_until_told();
    return CHECK_DONE("quic_stuck, clients");
}

/* ---- the server ---- */

static void adopt(struct quic_end *end)
{
    QUIC_WAIT(quic.accepted.received_len == 1);
    free(end->received);
    *end = quic.accepted;
    end->link->owner = end;
    quic.accepted = (struct quic_end){0};
    quic_end_reset(&quic.accepted);
    say(end, "!");
}

/* The loop's turns in a fifth of a second. */
static unsigned turns(void)
{
    unsigned count = 0;

    quic.timed_out = false;
    sv_timer_set(quic.timer, sv_clock_now() + SV_NS_PER_S / 5);
    while (!quic.timed_out) {
        uv_run(&quic.loop.uv, UV_RUN_ONCE);
        count++;
    }
    return count;
}

static void a_full_socket_is_waited_for(pid_t other)
{
    static const uint8_t bytes[100];

    for (size_t i = 1; i <= TIMES; i++) {
        stop_answers(other);
        push(&first);
        CHECK_EQ(quic_send(&second, "late", 4), 0);
        if (i == TIMES) { /* before that the stream alone must wake it */
            CHECK_EQ(second.link->ops->send_datagram(second.link, bytes, sizeof bytes), SV_E_AGAIN);
            CHECK(second.link->datagrams_blocked);
        }
        CHECK(turns() < TURNS_MAX); /* it waits, and does not try again and again */
        let_answer(other);
        QUIC_WAIT(second.received_len == 1 + i && first.received_len == 1 + i);
        QUIC_WAIT(!second.link->datagrams_blocked && (i < TIMES || second.writable));
        CHECK(!is_stuck(&first));
    }
    CHECK(!first.closed && !second.closed);
}

static void a_last_word_waits_for_room(pid_t other)
{
    stop_answers(other);
    push(&first);
    second.link->ops->close(second.link, SV_CLOSE_SILENT);
    quic_turn(SV_NS_PER_S / 20);
    CHECK(!second.closed);
    let_answer(other);
    QUIC_WAIT(second.closed);
    QUIC_WAIT(first.received_len == 2 + TIMES); /* the client was told, and says so */
}

static void it_waits_for_a_second_at_most(pid_t other)
{
    struct sv_quic_side *side = &quic.server->side;

    stop_answers(other);
    push(&first);
    first.link->ops->close(first.link, SV_CLOSE_SILENT);
    QUIC_WAIT(first.closed);
    CHECK(side->tx.stuck && !side->work);
    let_answer(other);
}

static void a_client_says_its_last_word_too(void)
{
    adopt(&second);
    QUIC_WAIT(second.closed);
    CHECK_EQ(second.error, 0);
    CHECK_STR(second.why, "the other side closed the connection");
}

/* One that goes tells its links first: it waits for room, a second at most. */
static void a_server_that_goes_waits_for_room(pid_t other)
{
    adopt(&first);
    adopt(&second);
    stop_answers(other);
    push(&first);
    shell("(sleep 0.2; nsenter -t %d -n ip link set outer arp on) &", (int)other);
    sv_quic_server_close(quic.server);
    quic.server = NULL;
    CHECK(first.closed && second.closed);
}

static void serve(pid_t other)
{
    quic_open_loop();
    quic.idle = 300 * SV_NS_PER_S;
    CHECK_EQ(quic_open_server_at(address), 0);
    shrink_buffer(quic.server->udp.fd4);
    adopt(&first);
    adopt(&second);
    a_full_socket_is_waited_for(other);
    a_last_word_waits_for_room(other);
    it_waits_for_a_second_at_most(other);
    a_client_says_its_last_word_too();
    a_server_that_goes_waits_for_room(other);
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
    be_patient();
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
