/* A listener hands over what it accepts, and rests while the process is out of files. */
#include "io/listener.h"

#include <arpa/inet.h>
#include <smartvpn/base.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "io/socket.h"
#include "tests/c/check.h"

struct host {
    struct sv_loop loop;
    struct sv_listener *listener;
    struct sv_timer *end;
    size_t accepted, wakes;
    int last;
    uint8_t peer[16];
};

static void on_wake(void *ctx)
{
    struct host *host = ctx;

    host->wakes++;
}

static void on_end(void *ctx)
{
    struct host *host = ctx;

    sv_loop_stop(&host->loop);
}

static void on_accepted(void *ctx, int fd, const struct sockaddr_storage *peer)
{
    struct host *host = ctx;
    uint16_t port;

    sv_sockaddr_split(peer, host->peer, &port);
    host->accepted++;
    host->last = fd;
    sv_loop_stop(&host->loop);
}

static void host_begin(struct host *host)
{
    *host = (struct host){.last = -1};
    CHECK_EQ(sv_loop_init(&host->loop, host, on_wake, NULL), 0);
    CHECK_EQ(sv_listener_open(&host->listener, &host->loop, "127.0.0.1:0", false, on_accepted, host), 0);
    CHECK(sv_listener_port(host->listener) != 0);
    host->end = sv_timer_new(&host->loop, on_end, host);
    CHECK(host->end);
}

static void host_finish(struct host *host)
{
    sv_listener_close(host->listener);
    sv_timer_close(host->end);
    sv_loop_clear(&host->loop);
}

static void run_for(struct host *host, uint64_t ns)
{
    sv_timer_set(host->end, sv_clock_now() + ns);
    sv_loop_run(&host->loop);
}

static void reach(const struct host *host, int fd)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(sv_listener_port(host->listener)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    CHECK_EQ(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
}

static void connections_are_handed_over(void)
{
    struct host host;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    host_begin(&host);
    reach(&host, fd);
    run_for(&host, 10 * SV_NS_PER_S);
    CHECK_EQ(host.accepted, 1);
    CHECK_EQ(host.peer[12], 127);
    close(host.last);
    close(fd);
    host_finish(&host);
}

/* No file can be opened any more while it is in force. */
static struct rlimit forbid_files(void)
{
    struct rlimit before, none;
    int next = dup(0);

    CHECK(next >= 0);
    close(next);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){(rlim_t)next, before.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    return before;
}

static void it_rests_while_there_are_no_files(void)
{
    struct rlimit before;
    struct host host;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    host_begin(&host);
    before = forbid_files();
    reach(&host, fd);
    run_for(&host, SV_NS_PER_S / 2);
    CHECK_EQ(host.accepted, 0);
    CHECK(host.wakes < 50);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    run_for(&host, 10 * SV_NS_PER_S);
    CHECK_EQ(host.accepted, 1);
    close(host.last);
    close(fd);
    host_finish(&host);
}

static void faults_are_told_in_words(void)
{
    struct host host;
    struct sv_listener *second;
    char taken[32];

    host_begin(&host);
    CHECK_EQ(sv_listener_open(&second, &host.loop, "nowhere", false, on_accepted, &host), SV_E_INVALID);
    CHECK_STR(sv_error_detail(), "listenAddr: 'nowhere' is not host:port");
    snprintf(taken, sizeof taken, "127.0.0.1:%u", sv_listener_port(host.listener));
    CHECK_EQ(sv_listener_open(&second, &host.loop, taken, false, on_accepted, &host), SV_E_IN_USE);
    CHECK(!second);
    sv_listener_close(NULL);
    host_finish(&host);
}

int main(void)
{
    RUN(connections_are_handed_over);
    RUN(it_rests_while_there_are_no_files);
    RUN(faults_are_told_in_words);
    return CHECK_DONE("test_io_listener");
}
