/* UDP packets per second, many a system call, since iperf3's own limit is one packet a call.
 *
 *     udp_pps receive PORT                               counts until a second passes without a packet
 *     udp_pps send ADDRESS PORT SECONDS SIZE SEGMENTS    as fast as it goes, SEGMENTS packets in each send
 *
 * SEGMENTS above 1 uses UDP_SEGMENT. Each prints one JSON line: packets, and seconds between the first and
 * the last.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum {
    BATCH = 32,
    DATAGRAM_MAX = 65535,
    PAYLOAD_MAX = 65507,
    SEGMENTS_MAX = 64, /* UDP_MAX_SEGMENTS of older kernels */
    BUFFER = 8 * 1024 * 1024,
    START_SECONDS = 20, /* a receiver whose sender never comes gives up */
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void print_result(const char *what, uint64_t packets, double seconds)
{
    printf("{\"%s\": %llu, \"seconds\": %.6f}\n", what, (unsigned long long)packets, seconds);
}

static int udp_socket(int buffer_option)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), size = BUFFER;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, buffer_option, &size, sizeof size) < 0) {
        die("socket");
    }
    return fd;
}

/* ---- sender ---- */

struct batch {
    struct mmsghdr messages[BATCH];
    struct iovec iov[BATCH];
    uint8_t payload[DATAGRAM_MAX]; /* all send the same bytes */
};

static void fill_batch(struct batch *batch, struct sockaddr_in *to, size_t len)
{
    for (size_t i = 0; i < BATCH; i++) {
        batch->iov[i] = (struct iovec){batch->payload, len};
        batch->messages[i].msg_hdr = (struct msghdr){
            .msg_name = to, .msg_namelen = sizeof *to, .msg_iov = &batch->iov[i], .msg_iovlen = 1};
    }
}

static void send_for(int fd, struct batch *batch, double seconds, size_t segments)
{
    double start = now(), end = start;
    uint64_t datagrams = 0;

    while (end - start < seconds) {
        int n = sendmmsg(fd, batch->messages, BATCH, 0);

        if (n < 0 && errno != ENOBUFS && errno != ECONNREFUSED) {
            die("sendmmsg");
        }
        datagrams += n > 0 ? (uint64_t)n : 0;
        end = now();
    }
    print_result("sent", datagrams * segments, end - start);
}

static int run_sender(char **argv)
{
    static struct batch batch;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    size_t size = (size_t)atoi(argv[3]), segments = (size_t)atoi(argv[4]);
    int segment = (int)size;
    int fd = udp_socket(SO_SNDBUF);

    if (inet_pton(AF_INET, argv[0], &to.sin_addr) != 1 || size < 1 || segments < 1 ||
        segments > SEGMENTS_MAX || size * segments > PAYLOAD_MAX) {
        fprintf(stderr, "udp_pps: bad address, size or number of segments\n");
        return 2;
    }
    if (segments > 1 && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment) < 0) {
        die("UDP_SEGMENT");
    }
    fill_batch(&batch, &to, size * segments);
    send_for(fd, &batch, atof(argv[2]), segments);
    return 0;
}

/* ---- receiver ---- */

struct inbox {
    struct mmsghdr messages[BATCH];
    struct iovec iov[BATCH];
    uint8_t payload[BATCH][DATAGRAM_MAX];
    uint8_t control[BATCH][CMSG_SPACE(sizeof(int))];
};

static void reset_inbox(struct inbox *inbox)
{
    for (size_t i = 0; i < BATCH; i++) {
        inbox->iov[i] = (struct iovec){inbox->payload[i], DATAGRAM_MAX};
        inbox->messages[i].msg_hdr = (struct msghdr){.msg_iov = &inbox->iov[i],
                                                     .msg_iovlen = 1,
                                                     .msg_control = inbox->control[i],
                                                     .msg_controllen = sizeof inbox->control[i]};
    }
}

/* How many datagrams were merged into this one. */
static uint64_t merged_count(struct mmsghdr *message)
{
    int segment = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message->msg_hdr); c; c = CMSG_NXTHDR(&message->msg_hdr, c)) {
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            memcpy(&segment, CMSG_DATA(c), sizeof segment);
        }
    }
    return segment > 0 ? (message->msg_len + (unsigned)segment - 1) / (unsigned)segment : 1;
}

static void set_patience(int fd, time_t seconds)
{
    struct timeval patience = {.tv_sec = seconds};

    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0) {
        die("SO_RCVTIMEO");
    }
}

static int count_received(int fd)
{
    static struct inbox inbox;
    uint64_t packets = 0;
    double first = 0, last = 0;

    set_patience(fd, START_SECONDS);
    for (;;) {
        reset_inbox(&inbox);
        int n = recvmmsg(fd, inbox.messages, BATCH, MSG_WAITFORONE, NULL);
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) {
            die("recvmmsg");
        }
        last = now();
        if (packets == 0) {
            first = last;
            set_patience(fd, 1);
        }
        for (int i = 0; i < n; i++) {
            packets += merged_count(&inbox.messages[i]);
        }
    }
    print_result("received", packets, last - first);
    return packets > 0 ? 0 : 1;
}

static int run_receiver(const char *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int fd = udp_socket(SO_RCVBUFFORCE), on = 1;

    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 ||
        setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on) < 0) {
        die("bind");
    }
    printf("ready\n");
    fflush(stdout);
    return count_received(fd);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "receive") == 0) {
        return run_receiver(argv[2]);
    }
    if (argc == 7 && strcmp(argv[1], "send") == 0) {
        return run_sender(argv + 2);
    }
    fprintf(stderr, "usage: udp_pps receive PORT | udp_pps send ADDRESS PORT SECONDS SIZE SEGMENTS\n");
    return 2;
}
