/* A path with delay and loss between two network namespaces: a TUN device in each, and this program between them. Packets are dropped singly, as
 * routers do, in a reproducible order; what waits is bounded.
 *
 *     lossy_path NAMESPACE NAMESPACE DEVICE DELAY_US LOSS_PER_10000      (each way)
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PACKET = 2048, WAITING = 8192, READS = 64 };

struct packet {
    uint64_t due; /* ns */
    ssize_t len;
    uint8_t bytes[PACKET];
};

struct way {
    int from, to;
    size_t first, count;
    struct packet *line; /* WAITING of them, in the order of coming */
};

static uint64_t delay, state = 88172645463325252u;
static unsigned loss;

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64 (Marsaglia, 2003) */
static bool is_lost(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % 10000 < loss;
}

static int fail(const char *what)
{
    perror(what);
    exit(1);
}

static int open_tun(const char *space, const char *device)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    char path[256];
    int fd;

    snprintf(path, sizeof path, "/run/netns/%s", space);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET)) {
        return fail(path);
    }
    close(fd);
    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
    return fd < 0 || ioctl(fd, TUNSETIFF, &request) ? fail("/dev/net/tun") : fd;
}

static void take_in(struct way *way)
{
    for (int i = 0; i < READS; i++) {
        struct packet *packet = &way->line[(way->first + way->count) % WAITING];
        uint8_t refused[PACKET];
        bool full = way->count == WAITING;
        ssize_t n = read(way->from, full ? refused : packet->bytes, PACKET);

        if (n <= 0) {
            return;
        }
        if (!full && !is_lost()) {
            packet->len = n;
            packet->due = now() + delay;
            way->count++;
        }
    }
}

static void let_out(struct way *way)
{
    uint64_t at = now();

    while (way->count && way->line[way->first].due <= at) {
        struct packet *packet = &way->line[way->first];

        if (write(way->to, packet->bytes, (size_t)packet->len) < 0) {
            return; /* not yet up; it goes with the next turn */
        }
        way->first = (way->first + 1) % WAITING;
        way->count--;
    }
}

static struct timespec until_next(const struct way ways[2])
{
    uint64_t at = now(), wait = 100000000u;

    for (int i = 0; i < 2; i++) {
        if (ways[i].count) {
            uint64_t due = ways[i].line[ways[i].first].due;
            uint64_t left = due > at ? due - at : 0;

            wait = left < wait ? left : wait;
        }
    }
    return (struct timespec){.tv_nsec = (long)wait};
}

int main(int argc, char **argv)
{
    struct way ways[2] = {{.first = 0}};

    if (argc != 6) {
        fprintf(stderr, "usage: %s NAMESPACE NAMESPACE DEVICE DELAY_US LOSS_PER_10000\n", argv[0]);
        return 2;
    }
    delay = strtoull(argv[4], NULL, 10) * 1000;
    loss = (unsigned)strtoul(argv[5], NULL, 10);
    ways[0].from = ways[1].to = open_tun(argv[1], argv[3]);
    ways[0].to = ways[1].from = open_tun(argv[2], argv[3]);
    for (int i = 0; i < 2; i++) {
        ways[i].line = calloc(WAITING, sizeof *ways[i].line);
        if (!ways[i].line) {
            return fail("memory");
        }
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct pollfd fds[2] = {{.fd = ways[0].from, .events = POLLIN},
                                {.fd = ways[1].from, .events = POLLIN}};
        struct timespec wait = until_next(ways);

        ppoll(fds, 2, &wait, NULL);
        for (int i = 0; i < 2; i++) {
            take_in(&ways[i]);
            let_out(&ways[i]);
        }
    }
}
