/* A hub whose name has two addresses, both silent: a client's attempt ends in time and says so, the next one begins by itself, and the first that gets
 * through carries the tunnel. Hub and client in one network namespace, with a hosts file of its own. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include <smartvpn/smartvpn.h>

#include "tests/c/check.h"

enum { ATTEMPT_MS = 600, WAIT_MS = 40000 };

static const char names[] = "fd97::1 hub.example\n10.97.0.1 hub.example\n";
static const char silence[] = "add table inet silent\n"
                              "add chain inet silent in { type filter hook input priority -300; }\n"
                              "add rule inet silent in ip6 daddr fd97::1 tcp dport 7443 counter drop\n"
                              "add rule inet silent in ip daddr 10.97.0.1 tcp dport 7443 counter drop\n";
static uint8_t hub_private[32], hub_public[32], alice_private[32], alice_public[32];

static void shell(const char *command)
{
    CHECK_EQ(system(command), 0);
}

static void write_to(const char *command, const char *text)
{
    FILE *pipe = popen(command, "w");

    CHECK(pipe && fputs(text, pipe) >= 0);
    CHECK_EQ(pclose(pipe), 0);
}

static sv_engine *open_hub(void)
{
    sv_server_config config = {.listen_addr = "[::]:7443", .subnet = "10.96.0.0/24", .workers = 1};
    sv_client_entry entry = {.client_id = "alice"};
    char addr4[SV_ADDR_TEXT_SIZE], addr6[SV_ADDR_TEXT_SIZE];
    sv_engine *engine;

    memcpy(config.private_key, hub_private, 32);
    memcpy(entry.public_key, alice_public, 32);
    CHECK_EQ(sv_server_open(&engine, &config), 0);
    CHECK_EQ(sv_hub_put_client(engine, &entry, addr4, addr6), 0);
    return engine;
}

static sv_engine *open_client(void)
{
    sv_client_config config = {.transport = SV_CLIENT_WEBSOCKET,
                               .server_url = "ws://hub.example:7443/",
                               .handshake_timeout_ms = ATTEMPT_MS};
    sv_engine *engine;

    memcpy(config.server_key, hub_public, 32);
    memcpy(config.private_key, alice_private, 32);
    CHECK_EQ(sv_client_open(&engine, &config), 0);
    return engine;
}

/* The next failure of all there is, or the first session. */
static bool await_outcome(sv_engine *engine, sv_event *event)
{
    for (int waited = 0; waited < WAIT_MS; waited += 10) {
        while (sv_engine_next_event(engine, event)) {
            if (event->type == SV_EVENT_STATE && (event->error || event->state == SV_CLIENT_CONNECTED)) {
                return true;
            }
        }
        poll(&(struct pollfd){.fd = sv_engine_event_fd(engine), .events = POLLIN}, 1, 10);
    }
    return false;
}

static void an_attempt_ends_in_time_and_is_renewed(void)
{
    sv_engine *hub = open_hub(), *client;
    sv_event event;

    write_to("nft -f -", silence);
    client = open_client();
    for (unsigned i = 0; i < 2; i++) {
        CHECK(await_outcome(client, &event));
        CHECK_EQ(event.state, SV_CLIENT_CONNECTING);
        CHECK_EQ(event.error, SV_E_TIMEOUT);
        CHECK(strstr(event.reason, "in time") != NULL);
        if (i == 0) {
            shell("[ $(nft list table inet silent | grep -c 'counter packets [1-9]') = 2 ]");
        }
    }
    shell("nft delete table inet silent");
    do {
        CHECK(await_outcome(client, &event));
    } while (event.error == SV_E_TIMEOUT); /* one was under way */
    CHECK_EQ(event.state, SV_CLIENT_CONNECTED);
    sv_engine_close(client);
    sv_engine_close(hub);
}

int main(void)
{
    char hosts[] = "/tmp/smartvpn-hosts-XXXXXX", command[64];
    int fd = mkstemp(hosts);

    if (fd < 0 || unshare(CLONE_NEWNET | CLONE_NEWNS)) {
        fprintf(stderr, "engine_dial_silent: network namespaces need root: %s\n", strerror(errno));
        return 1;
    }
    CHECK_EQ(write(fd, names, sizeof names - 1), sizeof names - 1);
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK_EQ(mount(hosts, "/etc/hosts", NULL, MS_BIND, NULL), 0);
    close(fd);
    snprintf(command, sizeof command, "rm %s", hosts);
    shell("ip link set lo up; ip address add 10.97.0.1 dev lo; ip address add fd97::1 dev lo nodad");
    sv_keypair_generate(hub_private, hub_public);
    sv_keypair_generate(alice_private, alice_public);
    RUN(an_attempt_ends_in_time_and_is_renewed);
    shell(command);
    return CHECK_DONE("test_engine_dial_silent");
}
