/* A tunnel from a C program.
 *
 *     client URL SERVER_PUBLIC_KEY < file-with-the-private-key
 *
 * Connects, says what happens, one line each, and ends at Ctrl-C. The library makes the TUN device; its addresses and routes
 * are the program's to set: here they are only printed.
 */
#include <poll.h>
#include <signal.h>
#include <smartvpn/smartvpn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static void die(const char *what)
{
    fprintf(stderr, "client: %s\n", what);
    exit(1);
}

static void read_private_key(uint8_t key[SV_KEY_SIZE])
{
    char line[128];

    if (!fgets(line, sizeof line, stdin)) {
        die("no private key on stdin");
    }
    line[strcspn(line, "\r\n")] = '\0';
    if (sv_key_parse(key, line)) {
        die("what is on stdin is no key in base64");
    }
    explicit_bzero(line, sizeof line);
}

static void print_settings(sv_engine *engine)
{
    sv_client_settings settings;

    if (sv_client_get_settings(engine, &settings)) {
        return;
    }
    printf("settings: device %s address %s %s mtu %u\n", sv_engine_tun_name(engine), settings.address,
           settings.address6, settings.mtu);
    for (size_t i = 0; i < settings.route_count; i++) {
        printf("route: %s\n", settings.routes[i]);
    }
}

static void print_event(sv_engine *engine, const sv_event *event)
{
    static const char *const states[] = {"disconnected", "connecting",   "handshaking",
                                         "connected",    "reconnecting", "error"};

    if (event->type == SV_EVENT_STATE) {
        printf("state: %s%s%s\n", states[event->state], *event->reason ? ": " : "", event->reason);
    } else if (event->type == SV_EVENT_SETTINGS) {
        print_settings(engine);
    }
    fflush(stdout);
}

/* Until a signal, or a refusal that no further attempt would change. */
static void follow(sv_engine *engine)
{
    struct pollfd ready = {.fd = sv_engine_event_fd(engine), .events = POLLIN};
    sv_event event;

    while (!stopped) {
        poll(&ready, 1, -1);
        while (sv_engine_next_event(engine, &event)) {
            print_event(engine, &event);
            stopped |= event.type == SV_EVENT_STATE && event.state == SV_CLIENT_ERROR;
        }
    }
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    sv_client_config config = {0};
    sv_engine *engine;

    if (argc != 3) {
        die("usage: client URL SERVER_PUBLIC_KEY < PRIVATE_KEY_FILE");
    }
    config.server_url = argv[1];
    if (sv_key_parse(config.server_key, argv[2])) {
        die("SERVER_PUBLIC_KEY is no key in base64");
    }
    read_private_key(config.private_key);
    if (getrandom(config.instance, sizeof config.instance, 0) != sizeof config.instance) {
        die("no randomness");
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (sv_client_open(&engine, &config)) {
        die(sv_error_detail());
    }
    explicit_bzero(config.private_key, sizeof config.private_key);
    follow(engine);
    sv_engine_close(engine);
    return 0;
}
