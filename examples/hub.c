/* A hub from a C program.
 *
 *     hub LISTEN SUBNET NAME=PUBLIC_KEY... < file-with-the-private-key
 *
 *     hub 0.0.0.0:8080 10.8.0.0/24 alice=aGVsbG8... bob=d29ybGQ... < hub.key
 *
 * Accepts the named clients, says who comes and goes, one line each, and at Ctrl-C what was carried. The library makes the TUN
 * device; its addresses and routes are the program's to set: here they are only printed.
 */
#include <poll.h>
#include <signal.h>
#include <smartvpn/smartvpn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static void die(const char *what)
{
    fprintf(stderr, "hub: %s\n", what);
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

/* NAME=PUBLIC_KEY; the hub gives the client the lowest free address. */
static void add_client(sv_engine *engine, const char *argument)
{
    char name[SV_CLIENT_ID_SIZE] = "", address[SV_ADDR_TEXT_SIZE], address6[SV_ADDR_TEXT_SIZE];
    const char *key = strchr(argument, '=');
    sv_client_entry entry = {.client_id = name, .priority = 100};

    if (!key || key == argument || (size_t)(key - argument) >= sizeof name) {
        die("a client is NAME=PUBLIC_KEY");
    }
    memcpy(name, argument, (size_t)(key - argument));
    if (sv_key_parse(entry.public_key, key + 1)) {
        die("a PUBLIC_KEY is no key in base64");
    }
    if (sv_hub_put_client(engine, &entry, address, address6)) {
        die(sv_error_detail());
    }
    printf("client: %s %s\n", name, address);
}

static void print_event(const sv_event *event)
{
    switch (event->type) {
    case SV_EVENT_SESSION_STARTED:
        printf("started: %s\n", event->client_id);
        break;
    case SV_EVENT_SESSION_ENDED:
        printf("ended: %s: %s\n", event->client_id, event->reason);
        break;
    case SV_EVENT_ERROR:
        printf("error: %s\n", event->reason);
        break;
    default:
        break;
    }
    fflush(stdout);
}

static void follow(sv_engine *engine)
{
    struct pollfd ready = {.fd = sv_engine_event_fd(engine), .events = POLLIN};
    sv_event event;

    while (!stopped) {
        poll(&ready, 1, -1);
        while (sv_engine_next_event(engine, &event)) {
            print_event(&event);
        }
    }
}

static void print_statistics(sv_engine *engine)
{
    sv_statistics sums;

    sv_engine_statistics(engine, &sums);
    printf("carried: %llu packets to clients, %llu from them\n", (unsigned long long)sums.packets_sent,
           (unsigned long long)sums.packets_received);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    sv_server_config config = {0};
    sv_engine *engine;

    if (argc < 4) {
        die("usage: hub LISTEN SUBNET NAME=PUBLIC_KEY... < PRIVATE_KEY_FILE");
    }
    config.listen_addr = argv[1];
    config.subnet = argv[2];
    read_private_key(config.private_key);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (sv_server_open(&engine, &config)) {
        die(sv_error_detail());
    }
    explicit_bzero(config.private_key, sizeof config.private_key);
    for (int i = 3; i < argc; i++) {
        add_client(engine, argv[i]);
    }
    printf("listening: port %u device %s\n", sv_engine_port(engine), sv_engine_tun_name(engine));
    fflush(stdout);
    follow(engine);
    print_statistics(engine);
    sv_engine_close(engine);
    return 0;
}
