/* smartvpn-wg IFACE: a WireGuard interface in user space, for `wg` and `wg-quick`; takes the arguments and variables of `wireguard-go`. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <smartvpn/wg.h>

enum { LOG_SILENT = -1, LOG_ERROR = 0, LOG_DEBUG = 3, USAGE = 2 };

struct options {
    const char *interface;
    bool foreground;
    int log_level;
    sv_wg_config device;
};

static void usage(FILE *to)
{
    fprintf(to, "usage: smartvpn-wg [-f | --foreground] INTERFACE\n"
                "       smartvpn-wg --version\n"
                "\n"
                "Makes a WireGuard interface in user space, to be set up with wg(8) or wg-quick(8).\n"
                "It ends when the interface is deleted or /var/run/wireguard/INTERFACE.sock is removed.\n"
                "\n"
                "  LOG_LEVEL              error (default), verbose, debug or silent\n"
                "  WG_PROCESS_FOREGROUND  1: as --foreground\n"
                "  WG_TUN_FD, WG_UAPI_FD  descriptors of a TUN device and of a listening socket to use\n"
                "  WG_THREADS             how many threads carry packets; default: one per core\n");
}

/* ---- what is asked for ---- */

static int log_level(const char *name)
{
    if (!name || strcmp(name, "error") == 0) {
        return LOG_ERROR;
    }
    return strcmp(name, "silent") == 0 ? LOG_SILENT : LOG_DEBUG;
}

static void descriptor(const char *name, bool *has, int *fd)
{
    const char *text = getenv(name);
    char *end;

    if (!text || !*text) {
        return;
    }
    *fd = (int)strtol(text, &end, 10);
    *has = true;
    if (*end || *fd < 0 || fcntl(*fd, F_GETFD) < 0) {
        fprintf(stderr, "smartvpn-wg: %s=%s is not an open descriptor\n", name, text);
        exit(USAGE);
    }
}

static bool flag(const char *argument, struct options *options)
{
    if (strcmp(argument, "-f") == 0 || strcmp(argument, "--foreground") == 0) {
        options->foreground = true;
        return true;
    }
    if (strcmp(argument, "--version") == 0) {
        printf("smartvpn-wg %s\n", sv_version());
        exit(0);
    }
    if (strcmp(argument, "-h") == 0 || strcmp(argument, "--help") == 0) {
        usage(stdout);
        exit(0);
    }
    return false;
}

static void read_options(struct options *options, int argc, char **argv)
{
    const char *foreground = getenv("WG_PROCESS_FOREGROUND"), *threads = getenv("WG_THREADS");

    for (int i = 1; i < argc; i++) {
        if (flag(argv[i], options)) {
            continue;
        }
        if (argv[i][0] == '-' || options->interface) {
            usage(stderr);
            exit(USAGE);
        }
        options->interface = argv[i];
    }
    if (!options->interface) {
        usage(stderr);
        exit(USAGE);
    }
    options->foreground = options->foreground || (foreground && strcmp(foreground, "1") == 0);
    options->log_level = log_level(getenv("LOG_LEVEL"));
    options->device.tun_name = options->interface;
    options->device.serve = true;
    options->device.workers = threads ? (uint16_t)strtoul(threads, NULL, 10) : 0;
    descriptor("WG_TUN_FD", &options->device.has_tun_fd, &options->device.tun_fd);
    descriptor("WG_UAPI_FD", &options->device.has_socket, &options->device.socket_fd);
}

/* ---- running ---- */

static void silent(void *ctx, int level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)line;
}

static int block_signals(void)
{
    sigset_t wanted;

    sigemptyset(&wanted);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGTERM);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    return signalfd(-1, &wanted, SFD_CLOEXEC);
}

static bool is_gone(sv_engine *engine)
{
    sv_event event;

    while (sv_engine_next_event(engine, &event)) {
        if (event.type == SV_EVENT_GONE) {
            return true;
        }
    }
    return false;
}

static void run(sv_engine *engine, int signals)
{
    struct pollfd fds[2] = {{.fd = signals, .events = POLLIN},
                            {.fd = sv_engine_event_fd(engine), .events = POLLIN}};

    while (!is_gone(engine)) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            return;
        }
        if (fds[0].revents) {
            return;
        }
    }
}

static int open_device(const struct options *options, sv_engine **engine)
{
    int error;

    sv_engine_set_log(options->log_level == LOG_SILENT ? silent : NULL, NULL,
                      options->log_level == LOG_SILENT ? LOG_ERROR : options->log_level);
    error = sv_wg_open(engine, &options->device);
    if (error) {
        fprintf(stderr, "smartvpn-wg: %s: %s\n", options->interface,
                *sv_error_detail() ? sv_error_detail() : sv_strerror(error));
    }
    return error;
}

/* ---- in the background ---- */

/* Until the device is there, or could not be made. */
static int wait_for_child(pid_t child, int ready)
{
    char byte;
    ssize_t n;

    do {
        n = read(ready, &byte, 1);
    } while (n < 0 && errno == EINTR);
    if (n == 1) {
        return 0;
    }
    waitpid(child, NULL, 0);
    return 1;
}

static void leave_terminal(bool keep_errors)
{
    int null = open("/dev/null", O_RDWR);

    if (chdir("/") || null < 0) {
        return;
    }
    dup2(null, STDIN_FILENO);
    if (!keep_errors) {
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
    }
    if (null > STDERR_FILENO) {
        close(null);
    }
}

int main(int argc, char **argv)
{
    struct options options = {0};
    sv_engine *engine = NULL;
    int pipes[2] = {-1, -1}, signals;

    read_options(&options, argc, argv);
    if (!options.foreground) {
        pid_t child;

        if (pipe2(pipes, O_CLOEXEC) || (child = fork()) < 0) {
            perror("smartvpn-wg");
            return 1;
        }
        if (child > 0) {
            close(pipes[1]);
            return wait_for_child(child, pipes[0]);
        }
        close(pipes[0]);
        setsid();
    }
    signals = block_signals();
    if (open_device(&options, &engine)) {
        return 1;
    }
    if (!options.foreground) {
        leave_terminal(options.log_level >= LOG_DEBUG);
        if (write(pipes[1], "", 1) != 1) {
            return 1;
        }
        close(pipes[1]);
    }
    run(engine, signals);
    sv_engine_close(engine);
    return 0;
}
