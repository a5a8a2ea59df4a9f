/* A hub and a client as engines, each in a network namespace of its own, joined by a veth pair: packets cross while entries, limits and
 * sessions change under them. Made for the sanitizers: the workers, the control thread and the callers meet here. Over WebSocket, or what
 * test_engine_tunnel_quic.c makes of it. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <smartvpn/smartvpn.h>

#include "tests/c/check.h"

#ifdef OVER_QUIC
static const bool over_quic = true;
#else
static const bool over_quic = false;
#endif

enum { CERTIFICATE_MAX = 8192 };
enum { PORT = 7443, ECHO_PORT = 9, CHURN = 400, KICKS = 6, PIECE = 20000, BURST = 16, WAIT_MS = 40000 };

/* Times that the hub's half waits for pieces, and so how many the client's has checked at least. */
enum { PHASES = KICKS + 2 };

static uint8_t hub_private[32], hub_public[32], alice_private[32], alice_public[32];
static atomic_bool traffic_ends, moved;
static atomic_size_t echoed; /* bytes of the connection, in the hub's process */

static void shell(const char *format, const char *name, int number)
{
    char command[512];

    snprintf(command, sizeof command, format, name, number);
    CHECK_EQ(system(command), 0);
}

static void nap(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Events up to and including one of that type; false: none came in time. */
static bool await_event(sv_engine *engine, sv_event_type type, sv_client_state state, sv_event *event)
{
    for (int waited = 0; waited < WAIT_MS; waited += 10) {
        while (sv_engine_next_event(engine, event)) {
            if (event->type == type && (type != SV_EVENT_STATE || event->state == state)) {
                return true;
            }
        }
        poll(&(struct pollfd){.fd = sv_engine_event_fd(engine), .events = POLLIN}, 1, 10);
    }
    return false;
}

/* ---- traffic ---- */

static struct sockaddr_in echo_address(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(ECHO_PORT)};

    inet_pton(AF_INET, "10.96.0.1", &address.sin_addr);
    return address;
}

static void *echo_connection(void *arg)
{
    static char bytes[65536];
    int fd = (int)(intptr_t)arg;
    ssize_t n;

    while ((n = recv(fd, bytes, sizeof bytes, 0)) > 0 && send(fd, bytes, (size_t)n, MSG_NOSIGNAL) == n) {
        atomic_fetch_add(&echoed, (size_t)n);
    }
    close(fd);
    return NULL;
}

/* Until a whole piece went there and back: the client sends the next one only after it has checked the last, so two pieces' bytes hold the end of one
 * and the beginning of another. */
static void await_a_piece(void)
{
    size_t enough = atomic_load(&echoed) + 2 * PIECE;

    for (int waited = 0; waited < WAIT_MS && atomic_load(&echoed) < enough; waited += 2) {
        nap(2);
    }
    CHECK(atomic_load(&echoed) >= enough);
}

/* A signal that comes just before a blocking call does not interrupt it. */
static void interrupt_until_joined(pthread_t thread)
{
    while (pthread_tryjoin_np(thread, NULL)) {
        pthread_kill(thread, SIGUSR1);
        nap(10);
    }
}

static void *echo_datagrams(void *arg)
{
    static char bytes[65536];
    int fd = (int)(intptr_t)arg;
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    ssize_t n;

    while ((n = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &len)) >= 0 &&
           !atomic_load(&traffic_ends)) {
        sendto(fd, bytes, (size_t)n, 0, (struct sockaddr *)&from, len);
        len = sizeof from;
    }
    close(fd);
    return NULL;
}

static int bound(int type)
{
    struct sockaddr_in address = echo_address();
    const struct timeval patience = {.tv_sec = 1};
    int fd = socket(AF_INET, type, 0);

    address.sin_addr.s_addr = INADDR_ANY;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (type == SOCK_DGRAM) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    }
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* What comes back is what was sent, whatever happens to the session meanwhile. */
static void *check_echo(void *arg)
{
    static uint8_t sent[PIECE], back[PIECE];
    struct sockaddr_in address = echo_address();
    size_t *pieces = arg;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    while (!atomic_load(&traffic_ends)) {
        for (size_t i = 0; i < PIECE; i++) {
            sent[i] = (uint8_t)(i * 7 + *pieces);
        }
        if (send(fd, sent, PIECE, MSG_NOSIGNAL) != PIECE || recv(fd, back, PIECE, MSG_WAITALL) != PIECE) {
            break;
        }
        CHECK_MEM(sent, back, PIECE);
        ++*pieces;
    }
    close(fd);
    return NULL;
}

static void take_echoes(int fd, size_t count)
{
    static char back[9000];

    while (count && poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 50) == 1) {
        count -= recv(fd, back, sizeof back, MSG_DONTWAIT) >= 0;
    }
}

/* In bursts, each when the last has come back, or is lost: more than the tunnel carries would starve the connection, whose pieces are waited for. */
static void *blast_datagrams(void *arg)
{
    static const char bytes[9000];
    struct sockaddr_in address = echo_address();
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    for (size_t i = 1; !atomic_load(&traffic_ends); i++) {
        sendto(fd, bytes, i * 31 % sizeof bytes, 0, (struct sockaddr *)&address, sizeof address);
        if (i % BURST == 0) {
            take_echoes(fd, BURST);
        }
    }
    close(fd);
    return arg;
}

/* ---- the client's half, a process of its own ---- */

static sv_engine *open_client(void)
{
    sv_client_config config = {.transport = over_quic ? SV_CLIENT_QUIC : SV_CLIENT_WEBSOCKET,
                               .server_url = over_quic ? NULL : "ws://10.97.0.1:7443/any/path",
                               .quic_addr = over_quic ? "10.97.0.1:7443" : NULL,
                               .instance = {1},
                               .tun_name = "etc0"};
    sv_engine *engine;

    memcpy(config.server_key, hub_public, 32);
    memcpy(config.private_key, alice_private, 32);
    CHECK_EQ(sv_client_open(&engine, &config), 0);
    return engine;
}

static int client_half(int go)
{
    sv_client_settings settings;
    sv_statistics statistics;
    sv_event event;
    size_t pieces = 0;
    pthread_t echo, blast;
    char byte;

    CHECK_EQ(read(go, &byte, 1), 1);
    shell("ip link set lo up; ip address add 10.97.0.2/24 dev outer; ip link set outer up", "", 0);
    sv_engine *engine = open_client();
    CHECK(await_event(engine, SV_EVENT_STATE, SV_CLIENT_CONNECTED, &event));
    CHECK_EQ(sv_client_get_settings(engine, &settings), 0);
    CHECK_STR(settings.address, "10.96.0.2/24");
    CHECK_STR(settings.server_addr, "10.97.0.1");
    CHECK_EQ(settings.mtu, 1420);
    shell("ip address add 10.96.0.2/24 dev %s; ip link set etc0 mtu 1420 up", sv_engine_tun_name(engine), 0);
    pthread_create(&echo, NULL, check_echo, &pieces);
    pthread_create(&blast, NULL, blast_datagrams, NULL);
    for (int kick = 0; kick < KICKS; kick++) {
        CHECK(await_event(engine, SV_EVENT_STATE, SV_CLIENT_RECONNECTING, &event));
        CHECK_EQ(event.code, 6);
        CHECK_STR(event.reason, "kicked");
        CHECK(await_event(engine, SV_EVENT_STATE, SV_CLIENT_CONNECTED, &event));
    }
    CHECK(await_event(engine, SV_EVENT_STATE, SV_CLIENT_ERROR, &event));
    CHECK_EQ(event.code, 4);
    CHECK_EQ(sv_client_get_state(engine), SV_CLIENT_ERROR);
    atomic_store(&traffic_ends, true);
    shell("ip link set etc0 down", "", 0);
    interrupt_until_joined(echo);
    pthread_join(blast, NULL);
    CHECK(pieces >= PHASES);
    sv_engine_statistics(engine, &statistics);
    CHECK(statistics.bytes_sent > pieces * PIECE);
    CHECK(statistics.bytes_received > pieces * PIECE);
    sv_engine_close(engine);
    return CHECK_DONE("engine_tunnel, client");
}

/* ---- the hub's half ---- */

static sv_engine *open_hub(void)
{
    static char cert[CERTIFICATE_MAX], key[CERTIFICATE_MAX];
    sv_server_config config = {
        .listen_addr = "10.97.0.1:7443", .subnet = "10.96.0.0/24", .workers = 2, .tun_name = "eth_hub"};
    sv_engine *engine;

    if (over_quic) {
        CHECK_EQ(sv_make_certificate(cert, key), 0);
        config.quic_listen_addr = config.listen_addr;
        config.quic_cert = cert;
        config.quic_key = key;
    }
    memcpy(config.private_key, hub_private, 32);
    CHECK_EQ(sv_server_open(&engine, &config), 0);
    CHECK_EQ(over_quic ? sv_engine_quic_port(engine) : sv_engine_port(engine), PORT);
    shell("ip address add 10.96.0.1/24 dev %s; ip link set eth_hub mtu 1420 up", sv_engine_tun_name(engine),
          0);
    return engine;
}

static int put(sv_engine *engine, const char *id, const uint8_t key[32], const char *const *denied,
               size_t denied_count)
{
    sv_client_entry entry = {
        .client_id = id, .destination_deny = denied, .destination_deny_count = denied_count};
    char addr4[SV_ADDR_TEXT_SIZE], addr6[SV_ADDR_TEXT_SIZE];

    memcpy(entry.public_key, key, 32);
    return sv_hub_put_client(engine, &entry, addr4, addr6);
}

static void churn_others(sv_engine *engine, int turn)
{
    uint8_t key[32] = {(uint8_t)turn, (uint8_t)(turn >> 8), 1};
    char id[32];

    snprintf(id, sizeof id, "client-%d", turn);
    CHECK_EQ(put(engine, id, key, NULL, 0), 0);
    if (turn >= 200) {
        snprintf(id, sizeof id, "client-%d", turn - 200);
        CHECK_EQ(sv_hub_remove_client(engine, id, 4), 0);
    }
}

static void churn_alice(sv_engine *engine, int turn)
{
    static const char *const denied[] = {"192.0.2.1", "192.0.2.0/25", "198.51.100.*",
                                         "203.0.113.7-203.0.113.99", "2001:db8::/32"};
    sv_session_info info;
    sv_statistics statistics;
    size_t count;

    CHECK_EQ(put(engine, "alice", alice_public, denied, (size_t)turn % 6), 0);
    CHECK_EQ(sv_hub_set_rate_limit(engine, "alice", turn % 3 ? 50000000 + (uint64_t)turn : 0, 200000), 0);
    CHECK_EQ(sv_hub_sessions(engine, "alice", &info, 1, &count), 0);
    CHECK_EQ(count, 1);
    CHECK_STR(info.assigned_ip, "10.96.0.2");
    sv_engine_statistics(engine, &statistics);
    CHECK_EQ(statistics.active_sessions, 1);
}

static void bad_calls_change_nothing(sv_engine *engine)
{
    static const char *const bad[] = {"192.0.2.300"};

    CHECK_EQ(put(engine, "alice", alice_public, bad, 1), SV_E_INVALID);
    CHECK(strstr(sv_error_detail(), "192.0.2.300") != NULL);
    CHECK_EQ(put(engine, "mallory", alice_public, NULL, 0), SV_E_EXISTS);
    CHECK_EQ(sv_hub_remove_client(engine, "nobody", 4), SV_E_NOT_FOUND);
    CHECK_EQ(sv_hub_disconnect(engine, "nobody", NULL, 6), SV_E_NOT_FOUND);
    CHECK_EQ(sv_hub_disconnect(engine, "alice", (const uint8_t[16]){0}, 6), SV_E_NOT_FOUND);
    CHECK_EQ(sv_hub_set_rate_limit(engine, "nobody", 1, 1), SV_E_NOT_FOUND);
}

static void checks_change_nothing(sv_engine *engine)
{
    sv_client_entry entry = {.client_id = "bob", .public_key = {7}};
    char addr4[SV_ADDR_TEXT_SIZE], addr6[SV_ADDR_TEXT_SIZE];
    sv_session_info info;
    size_t count;

    CHECK_EQ(sv_hub_check_client(engine, &entry), 0);
    CHECK_EQ(sv_hub_sessions(engine, "bob", &info, 1, &count), SV_E_NOT_FOUND);
    memcpy(entry.public_key, alice_public, 32);
    CHECK_EQ(sv_hub_check_client(engine, &entry), SV_E_EXISTS);
    entry.client_id = "alice";
    CHECK_EQ(sv_hub_check_client(engine, &entry), 0);
    entry = (sv_client_entry){.client_id = "bob", .public_key = {7}};
    CHECK_EQ(sv_hub_hold_address(engine, "10.96.0.3"), 0);
    CHECK_EQ(sv_hub_hold_address(engine, "10.96.0.3"), SV_E_EXISTS);
    CHECK_EQ(sv_hub_hold_address(engine, "10.96.0.2"), SV_E_EXISTS); /* alice's */
    CHECK_EQ(sv_hub_hold_address(engine, "10.96.0.1"), SV_E_INVALID);
    CHECK_EQ(sv_hub_hold_address(engine, "10.97.0.3"), SV_E_INVALID);
    CHECK_EQ(sv_hub_hold_address(engine, ""), SV_E_INVALID);
    CHECK_EQ(sv_hub_put_client(engine, &entry, addr4, addr6), 0);
    CHECK_STR(addr4, "10.96.0.4");
    sv_hub_release_address(engine, "10.96.0.3");
    sv_hub_release_address(engine, "10.97.0.3");
    entry.assigned_ip = "10.96.0.3";
    CHECK_EQ(sv_hub_put_client(engine, &entry, addr4, addr6), 0);
    CHECK_STR(addr4, "10.96.0.3");
    CHECK_EQ(sv_hub_remove_client(engine, "bob", 4), 0);
}

/* Takes the lowest free address, as a further session does, again and again. */
static void *take_what_is_free(void *arg)
{
    char addr4[SV_ADDR_TEXT_SIZE], addr6[SV_ADDR_TEXT_SIZE];
    sv_client_entry entry = {.client_id = "greedy", .public_key = {8}};
    sv_engine *engine = arg;

    while (!atomic_load(&moved)) {
        CHECK_EQ(sv_hub_put_client(engine, &entry, addr4, addr6), 0);
        CHECK_EQ(sv_hub_remove_client(engine, "greedy", 4), 0);
    }
    return NULL;
}

/* Without a moment in which it is free. */
static void an_address_that_is_held_passes_to_its_client(sv_engine *engine)
{
    static const char *const places[] = {"10.96.0.3", "10.96.0.4"};
    sv_client_entry entry = {.client_id = "bob", .public_key = {7}, .agreed = true};
    char addr4[SV_ADDR_TEXT_SIZE], addr6[SV_ADDR_TEXT_SIZE];
    pthread_t rival;
    int moves = 0;

    pthread_create(&rival, NULL, take_what_is_free, engine);
    for (int turn = 0; moves < 20000; turn++) {
        entry.assigned_ip = places[turn % 2];
        if (sv_hub_hold_address(engine, entry.assigned_ip) == 0) {
            CHECK_EQ(sv_hub_put_client(engine, &entry, addr4, addr6), 0);
            CHECK_STR(addr4, entry.assigned_ip);
            moves++;
        }
    }
    atomic_store(&moved, true);
    pthread_join(rival, NULL);
    CHECK_EQ(sv_hub_hold_address(engine, addr4), SV_E_EXISTS);
    CHECK_EQ(sv_hub_remove_client(engine, "bob", 4), 0);
}

/* What was stored and cannot be put is there no more, and nobody is given its address. */
static void an_agreed_put_that_fails(sv_engine *engine)
{
    static const char *const bad[] = {"192.0.2.300"};
    sv_client_entry entry = {.client_id = "bob", .public_key = {7}, .assigned_ip = "10.96.0.3"};
    char addr4[SV_ADDR_TEXT_SIZE], addr6[SV_ADDR_TEXT_SIZE];

    for (int known = 0; known < 2; known++) {
        if (known) {
            CHECK_EQ(sv_hub_put_client(engine, &entry, addr4, addr6), 0);
        } else {
            CHECK_EQ(sv_hub_hold_address(engine, entry.assigned_ip), 0);
        }
        entry.agreed = true;
        entry.destination_deny = bad;
        entry.destination_deny_count = 1;
        CHECK_EQ(sv_hub_put_client(engine, &entry, addr4, addr6), SV_E_INVALID);
        CHECK_EQ(sv_hub_remove_client(engine, "bob", 4), SV_E_NOT_FOUND);
        entry.agreed = false;
        entry.destination_deny_count = 0;
        CHECK_EQ(sv_hub_put_client(engine, &entry, addr4, addr6), SV_E_EXISTS);
        sv_hub_release_address(engine, entry.assigned_ip);
    }
}

static void serve_echo(pthread_t threads[2])
{
    int listener = bound(SOCK_STREAM), datagrams = bound(SOCK_DGRAM);

    CHECK_EQ(listen(listener, 4), 0);
    pthread_create(&threads[1], NULL, echo_datagrams, (void *)(intptr_t)datagrams);
    pthread_create(&threads[0], NULL, echo_connection, (void *)(intptr_t)accept(listener, NULL, NULL));
    close(listener);
}

static void hub_half(void)
{
    static const char *const everything[] = {"0.0.0.0/0", "::/0"};
    sv_engine *engine = open_hub();
    pthread_t threads[2];
    sv_event event;

    CHECK_EQ(put(engine, "alice", alice_public, NULL, 0), 0);
    CHECK(await_event(engine, SV_EVENT_SESSION_STARTED, 0, &event));
    CHECK_STR(event.client_id, "alice");
    serve_echo(threads);
    bad_calls_change_nothing(engine);
    checks_change_nothing(engine);
    an_address_that_is_held_passes_to_its_client(engine);
    an_agreed_put_that_fails(engine);
    for (int turn = 0; turn < CHURN; turn++) {
        churn_others(engine, turn);
        churn_alice(engine, turn);
        nap(2);
    }
    await_a_piece();
    for (int kick = 0; kick < KICKS; kick++) {
        CHECK_EQ(sv_hub_disconnect(engine, "alice", NULL, 6), 0);
        CHECK(await_event(engine, SV_EVENT_SESSION_ENDED, 0, &event));
        CHECK(await_event(engine, SV_EVENT_SESSION_STARTED, 0, &event));
        await_a_piece();
    }
    for (int turn = 0; turn < CHURN; turn++) {
        churn_alice(engine, turn);
        nap(2);
    }
    await_a_piece();
    CHECK_EQ(put(engine, "alice", alice_public, everything, 2), 0);
    nap(100);
    CHECK_EQ(sv_hub_remove_client(engine, "alice", 4), 0);
    CHECK(await_event(engine, SV_EVENT_SESSION_ENDED, 0, &event));
    CHECK_EQ(event.code, 4);
    atomic_store(&traffic_ends, true);
    shell("ip link set eth_hub down", "", 0);
    interrupt_until_joined(threads[0]);
    pthread_join(threads[1], NULL);
    sv_engine_close(engine);
}

static void interrupted(int number)
{
    (void)number;
}

static void join_namespaces(pid_t client)
{
    shell("ip link set lo up; ip link add outer type veth peer name outer netns %s%d", "", (int)client);
    shell("ip address add 10.97.0.1/24 dev outer; ip link set outer up", "", 0);
}

int main(void)
{
    int ready[2], go[2], status = 1;
    char byte = 0;

    if (over_quic && !sv_engine_has_quic()) {
        CHECK(!sv_engine_has_quic());
        return CHECK_DONE("engine_tunnel, without QUIC");
    }
    if (unshare(CLONE_NEWNET)) {
        fprintf(stderr, "engine_tunnel: network namespaces need root: %s\n", strerror(errno));
        return 1;
    }
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = interrupted}, NULL);
    alarm(280);
    CHECK_EQ(sv_keypair_generate(hub_private, hub_public), 0);
    CHECK_EQ(sv_keypair_generate(alice_private, alice_public), 0);
    if (pipe(ready) || pipe(go)) {
        return 1;
    }
    pid_t client = fork();

    if (client == 0) {
        CHECK_EQ(unshare(CLONE_NEWNET), 0);
        CHECK_EQ(write(ready[1], &byte, 1), 1);
        return client_half(go[0]);
    }
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    join_namespaces(client);
    CHECK_EQ(write(go[1], &byte, 1), 1);
    RUN(hub_half);
    CHECK_EQ(waitpid(client, &status, 0), client);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return CHECK_DONE("engine_tunnel");
}
