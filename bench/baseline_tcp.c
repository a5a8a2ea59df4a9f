/* The limit that tunnels over TCP are measured against: the TUN's super-packets over one TCP connection,
 * without cipher, session or rules.
 *
 *     baseline_tcp listen|connect ADDRESS:PORT TUN MTU
 *
 * A frame is length:4 (host order), then the kernel's offload header and the packet as the TUN gave them.
 * Both ends trust the wire, which no product may. Addresses of the TUN are the caller's to set; it is
 * there when "ready" is printed.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <smartvpn/base.h>

#include "io/socket.h"
#include "io/tun.h"

enum {
    LENGTH = 4,
    FRAME_MAX = LENGTH + 10 + 65535,
    BATCH = 64 * 1024,   /* more is not read from the TUN before it is sent */
    CREDIT = 128 * 1024, /* sent between two confirmations that the socket is writable */
    IN_SIZE = 256 * 1024,
    CONNECT_TRIES = 100,
    CONNECT_PAUSE_US = 50000,
};

struct pipe {
    int tun, socket;
    bool blocked; /* the TUN is not read until the socket is writable */
    size_t credit_used;
    size_t out_at, out_len; /* what the socket has not taken yet */
    size_t in_len;          /* a frame in pieces */
    uint8_t out[BATCH + FRAME_MAX];
    uint8_t in[IN_SIZE];
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void die_of(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "baseline_tcp: %s: %s %s\n", what, sv_strerror(error), sv_error_detail());
        exit(1);
    }
}

/* ---- TUN to socket ---- */

static void send_rest(struct pipe *pipe)
{
    while (pipe->out_at < pipe->out_len) {
        ssize_t n = send(pipe->socket, pipe->out + pipe->out_at, pipe->out_len - pipe->out_at, MSG_NOSIGNAL);

        if (n < 0 && errno == EAGAIN) {
            pipe->blocked = true;
            return;
        }
        if (n < 0) {
            die("send");
        }
        pipe->out_at += (size_t)n;
    }
    pipe->credit_used += pipe->out_len;
    pipe->out_at = pipe->out_len = 0;
    pipe->blocked = pipe->credit_used >= CREDIT;
}

static bool read_frame(struct pipe *pipe)
{
    uint8_t *frame = pipe->out + pipe->out_len;
    ssize_t n = read(pipe->tun, frame + LENGTH, FRAME_MAX - LENGTH);

    if (n < 0 && errno != EAGAIN) {
        die("read TUN");
    }
    if (n <= 0) {
        return false;
    }
    memcpy(frame, &(uint32_t){(uint32_t)n}, LENGTH);
    pipe->out_len += LENGTH + (size_t)n;
    return true;
}

static void pump_out(struct pipe *pipe)
{
    while (pipe->out_len < BATCH && read_frame(pipe)) {
    }
    send_rest(pipe);
}

/* ---- socket to TUN ---- */

static size_t write_frames(const struct pipe *pipe)
{
    size_t at = 0;

    while (pipe->in_len - at >= LENGTH) {
        uint32_t len;

        memcpy(&len, pipe->in + at, LENGTH);
        if (pipe->in_len - at - LENGTH < len) {
            break;
        }
        /* A packet that the kernel refuses is lost, as on any network. */
        if (write(pipe->tun, pipe->in + at + LENGTH, len) < 0 && errno != EINVAL && errno != EAGAIN) {
            die("write TUN");
        }
        at += LENGTH + len;
    }
    return at;
}

static void pump_in(struct pipe *pipe)
{
    ssize_t n = recv(pipe->socket, pipe->in + pipe->in_len, IN_SIZE - pipe->in_len, 0);
    size_t done;

    if (n == 0) {
        exit(0);
    }
    if (n < 0) {
        if (errno != EAGAIN) {
            die("recv");
        }
        return;
    }
    pipe->in_len += (size_t)n;
    done = write_frames(pipe);
    pipe->in_len -= done;
    memmove(pipe->in, pipe->in + done, pipe->in_len);
}

static void run(struct pipe *pipe)
{
    for (;;) {
        struct pollfd fds[2] = {
            {.fd = pipe->socket, .events = (short)(POLLIN | (pipe->blocked ? POLLOUT : 0))},
            {.fd = pipe->blocked ? -1 : pipe->tun, .events = POLLIN},
        };

        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            die("poll");
        }
        if (fds[0].revents & POLLOUT) {
            pipe->credit_used = 0;
            send_rest(pipe);
        }
        if (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) {
            pump_in(pipe);
        }
        if (fds[1].revents & POLLIN) {
            pump_out(pipe);
        }
    }
}

/* ---- the connection ---- */

static int accept_one(const struct sockaddr_storage *addr, socklen_t addr_len)
{
    struct sockaddr_storage peer;
    struct pollfd ready = {.events = POLLIN};
    int fd = -1;

    die_of(sv_listen(&ready.fd, addr, addr_len, false), "listen");
    while (sv_accept(ready.fd, &fd, &peer) != 0) {
        poll(&ready, 1, -1);
    }
    close(ready.fd);
    return fd;
}

/* The other end may not listen yet. */
static int connect_one(const struct sockaddr_storage *addr, socklen_t addr_len)
{
    for (int i = 0; i < CONNECT_TRIES; i++) {
        int fd = socket(addr->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0) {
            die("socket");
        }
        if (connect(fd, (const struct sockaddr *)addr, addr_len) == 0) {
            if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
                die("fcntl");
            }
            return fd;
        }
        close(fd);
        usleep(CONNECT_PAUSE_US);
    }
    die("connect");
    return -1;
}

int main(int argc, char **argv)
{
    static struct pipe pipe;
    struct sockaddr_storage addr;
    socklen_t addr_len;
    struct sv_tun tun;

    if (argc != 5 || sv_sockaddr_parse(&addr, &addr_len, argv[2]) != 0) {
        fprintf(stderr, "usage: baseline_tcp listen|connect ADDRESS:PORT TUN MTU\n");
        return 2;
    }
    die_of(sv_tun_open(&tun, argv[3], 1), "TUN");
    die_of(sv_tun_up(&tun, (unsigned)atoi(argv[4])), "TUN");
    printf("ready\n");
    fflush(stdout);
    pipe.tun = tun.queues[0];
    pipe.socket = strcmp(argv[1], "listen") == 0 ? accept_one(&addr, addr_len) : connect_one(&addr, addr_len);
    sv_tcp_tune(pipe.socket);
    run(&pipe);
}
