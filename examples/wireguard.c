/* A WireGuard device inside a C program.
 *
 *     wireguard PORT PEER_PUBLIC_KEY ALLOWED_IP [ENDPOINT] < file-with-the-private-key
 *
 *     wireguard 51820 aGVsbG8... 10.9.0.2/32 192.0.2.7:51820 < device.key
 *
 * One peer; it may be any WireGuard, the kernel's or a phone's. The device takes the lines of the cross-platform configuration
 * interface, keys in hex. At Ctrl-C it says what the peer sent and got. The interface's address is the program's to set.
 */
#include <poll.h>
#include <signal.h>
#include <smartvpn/smartvpn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MTU = 1420, LINES = 1024 };

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static void die(const char *what)
{
    fprintf(stderr, "wireguard: %s\n", what);
    exit(1);
}

/* Base64, as people have keys, to hex, as the interface wants them. */
static void to_hex(char hex[2 * SV_KEY_SIZE + 1], const char *base64)
{
    uint8_t key[SV_KEY_SIZE];

    if (sv_key_parse(key, base64)) {
        die("a key is not 32 bytes in base64");
    }
    for (size_t i = 0; i < sizeof key; i++) {
        snprintf(hex + 2 * i, 3, "%02x", key[i]);
    }
    explicit_bzero(key, sizeof key);
}

static void configure(sv_engine *engine, char **argv, const char *endpoint)
{
    char line[128], own[2 * SV_KEY_SIZE + 1], peer[2 * SV_KEY_SIZE + 1], text[LINES];
    int length, error;

    if (!fgets(line, sizeof line, stdin)) {
        die("no private key on stdin");
    }
    line[strcspn(line, "\r\n")] = '\0';
    to_hex(own, line);
    to_hex(peer, argv[2]);
    length = snprintf(text, sizeof text, "private_key=%s\nlisten_port=%s\npublic_key=%s\nallowed_ip=%s\n",
                      own, argv[1], peer, argv[3]);
    if (endpoint && length > 0 && length < LINES) {
        length += snprintf(text + length, sizeof text - (size_t)length, "endpoint=%s\n", endpoint);
    }
    error = length > 0 && length < LINES ? sv_wg_set(engine, text, (size_t)length) : -1;
    explicit_bzero(text, sizeof text);
    explicit_bzero(line, sizeof line);
    explicit_bzero(own, sizeof own);
    if (error) {
        die("the device refuses its settings: look at PORT, ALLOWED_IP and ENDPOINT");
    }
}

/* The lines that count; the rest of what the device tells has the private key in it. */
static void print_counters(sv_engine *engine)
{
    char *text, *rest, *line;
    size_t length;

    if (sv_wg_get(engine, &text, &length)) {
        return;
    }
    for (rest = text; (line = strsep(&rest, "\n"));) {
        if (strncmp(line, "rx_bytes=", 9) == 0 || strncmp(line, "tx_bytes=", 9) == 0) {
            printf("%s\n", line);
        }
    }
    sv_wg_text_free(text, length);
}

static void follow(sv_engine *engine)
{
    static const char *const states[] = {"disconnected", "connecting",   "handshaking",
                                         "connected",    "reconnecting", "error"};
    struct pollfd ready = {.fd = sv_engine_event_fd(engine), .events = POLLIN};
    sv_event event;

    while (!stopped) {
        poll(&ready, 1, -1);
        while (sv_engine_next_event(engine, &event)) {
            if (event.type == SV_EVENT_STATE) {
                printf("state: %s\n", states[event.state]);
            }
            stopped |= event.type == SV_EVENT_GONE;
        }
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    sv_wg_config config = {.mtu = MTU};
    sv_engine *engine;

    if (argc != 4 && argc != 5) {
        die("usage: wireguard PORT PEER_PUBLIC_KEY ALLOWED_IP [ENDPOINT] < PRIVATE_KEY_FILE");
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (sv_wg_open(&engine, &config)) {
        die(sv_error_detail());
    }
    configure(engine, argv, argc == 5 ? argv[4] : NULL);
    printf("device: %s\n", sv_engine_tun_name(engine));
    fflush(stdout);
    if (argc == 5) {
        sv_wg_connect(engine);
    }
    follow(engine);
    print_counters(engine);
    sv_engine_close(engine);
    return 0;
}
