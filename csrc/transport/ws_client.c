/* The client's WebSocket link. libcurl looks the name up, connects (through a proxy where the environment names one) and does TLS; what
 * carries packets afterwards is ours, since libraries parse and mask byte by byte. */
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "io/socket.h"
#include "transport/websocket.h"
#include "transport/ws_frame.h"
#include "transport/ws_pin.h"
#include "transport/ws_upgrade.h"

enum {
    RX_SIZE = 256 * 1024,
    RX_COMPACT = 96 * 1024,         /* free bytes at the end below which a begun message is moved to the front */
    READS_PER_TURN = 8,
    HOST_MAX = 256,
    PATH_MAX_LEN = 1024,
    WAITING_MAX = 4 * 1024 * 1024,  /* bytes a socket refused; more is a link that never drains */
};

enum state { CONNECTING, UPGRADING, OPEN, ENDING, CLOSED };

struct ws_client {
    struct sv_link link;            /* first: the sink's handle */
    struct sv_loop *loop;
    enum state state;
    bool secure, paused;
    bool nested;                    /* TLS inside the TLS of a proxy */
    char host[HOST_MAX], path[PATH_MAX_LEN], key[SV_WS_KEY + 1];
    CURLM *multi;
    CURL *easy;
    SSL *ssl;                       /* curl's, once its handshake is done */
    int fd;
    struct sv_watch *watch;         /* curl's socket while it connects, then ours */
    struct sv_timer *timer;         /* curl's while it connects, then what was left unread, then the end of a close */
    struct sv_timer *patience;      /* of everything until the link is open */
    struct sv_ws_pin pin;
    char why[CURL_ERROR_SIZE];
    int error;
    uint8_t *rx;                    /* RX_SIZE bytes */
    size_t rx_start, rx_end;
    uint64_t payload_left;          /* of the data frame that is being delivered in parts */
    uint64_t message_len;
    bool in_message, message_done;  /* a fragmented message is open; the frame in parts ends it */
    uint8_t *waiting;               /* bytes the socket refused */
    size_t waiting_start, waiting_end, waiting_size;
    size_t credit;
};

static struct ws_client *client_of(struct sv_link *link)
{
    return (struct ws_client *)link;
}

/* ---- the end ---- */

static void free_client(struct ws_client *client)
{
    if (client->watch) {
        sv_watch_close(client->watch);
    }
    if (client->timer) {
        sv_timer_close(client->timer);
    }
    if (client->patience) {
        sv_timer_close(client->patience);
    }
    if (client->easy) {
        curl_multi_remove_handle(client->multi, client->easy);
        curl_easy_cleanup(client->easy);
    }
    if (client->multi) {
        curl_multi_cleanup(client->multi);
    }
    free(client->rx);
    free(client->waiting);
    free(client);
}

/* The last callback comes from the timer, never from within a call of the owner's. */
static void end(struct ws_client *client, int error, const char *why)
{
    if (client->state == CLOSED) {
        return;
    }
    client->state = CLOSED;
    client->error = error;
    if (why) {
        snprintf(client->why, sizeof client->why, "%s", why);
    }
    if (client->watch) {
        sv_watch_set(client->watch, 0);
    }
    sv_timer_set(client->patience, SV_NEVER);
    sv_timer_set(client->timer, 0);
}

static void on_ended(struct ws_client *client)
{
    client->link.sink->on_closed(&client->link, client->error, client->why);
    free_client(client);
}

/* ---- bytes on the socket ---- */

/* >0 bytes, 0: would block, <0: SV_E_CLOSED or SV_E_SYSTEM. */
static ssize_t tls_result(struct ws_client *client, int n)
{
    switch (SSL_get_error(client->ssl, n)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return 0;
    case SSL_ERROR_ZERO_RETURN:
        return SV_E_CLOSED;
    default:
        return SV_E_SYSTEM;
    }
}

static ssize_t socket_read(struct ws_client *client, uint8_t *dst, size_t cap)
{
    ssize_t n;

    if (client->ssl) {
        int got;

        ERR_clear_error();
        got = SSL_read(client->ssl, dst, (int)cap);
        return got > 0 ? got : tls_result(client, got);
    }
    n = recv(client->fd, dst, cap, 0);
    if (n > 0) {
        return n;
    }
    if (n == 0) {
        return SV_E_CLOSED;
    }
    return errno == EAGAIN || errno == EINTR ? 0 : SV_E_SYSTEM;
}

static ssize_t socket_write(struct ws_client *client, const uint8_t *bytes, size_t len)
{
    ssize_t n;

    if (client->ssl) {
        int put;

        ERR_clear_error();
        put = SSL_write(client->ssl, bytes, (int)len);
        return put > 0 ? put : tls_result(client, put);
    }
    n = send(client->fd, bytes, len, MSG_NOSIGNAL);
    if (n >= 0) {
        return n;
    }
    return errno == EAGAIN || errno == EINTR ? 0 : SV_E_SYSTEM;
}

static void wait_writable(struct ws_client *client)
{
    client->link.blocked = true;
    sv_watch_set(client->watch, (client->paused ? 0 : SV_READABLE) | SV_WRITABLE);
}

/* Keeps what the socket refused. */
static int keep(struct ws_client *client, const uint8_t *bytes, size_t len)
{
    size_t have = client->waiting_end - client->waiting_start;

    if (have + len > WAITING_MAX) {
        return SV_E_FULL;
    }
    if (client->waiting_size < have + len || client->waiting_size - client->waiting_end < len) {
        size_t size = client->waiting_size < have + len ? 2 * (have + len) : client->waiting_size;
        uint8_t *bigger = malloc(size);

        if (!bigger) {
            return SV_E_NOMEM;
        }
        if (have) {
            memcpy(bigger, client->waiting + client->waiting_start, have);
        }
        free(client->waiting);
        client->waiting = bigger;
        client->waiting_size = size;
        client->waiting_start = 0;
        client->waiting_end = have;
    }
    memcpy(client->waiting + client->waiting_end, bytes, len);
    client->waiting_end += len;
    return 0;
}

static int write_all(struct ws_client *client, const uint8_t *bytes, size_t len)
{
    if (client->waiting_start == client->waiting_end) {
        while (len) {
            ssize_t n = socket_write(client, bytes, len);

            if (n < 0) {
                return (int)n;
            }
            if (n == 0) {
                break;
            }
            bytes += n;
            len -= (size_t)n;
        }
    }
    if (len) {
        int error = keep(client, bytes, len);

        wait_writable(client);
        return error;
    }
    return 0;
}

/* true: nothing waits any more. */
static bool write_waiting(struct ws_client *client)
{
    while (client->waiting_start < client->waiting_end) {
        ssize_t n = socket_write(client, client->waiting + client->waiting_start, client->waiting_end - client->waiting_start);

        if (n < 0) {
            end(client, (int)n, "the connection was lost");
            return false;
        }
        if (n == 0) {
            return false;
        }
        client->waiting_start += (size_t)n;
    }
    client->waiting_start = client->waiting_end = 0;
    return true;
}

/* ---- operations ---- */

static int op_send(struct sv_link *link, uint8_t *bytes, size_t len)
{
    struct ws_client *client = client_of(link);
    size_t header;
    int error;

    if (client->state != OPEN) {
        return SV_E_CLOSED;
    }
    header = sv_ws_wrap(bytes, len, SV_WS_BINARY);
    error = write_all(client, bytes - header, header + len);
    if (error) {
        end(client, error, "the connection was lost");
        return SV_E_CLOSED;
    }
    client->credit = client->credit > header + len ? client->credit - header - len : 0;
    if (!client->credit) {
        wait_writable(client);
    }
    return 0;
}

/* Bytes that are not the socket's any more, so that it will not wake us for them. */
static bool has_unread(const struct ws_client *client)
{
    return client->rx_start < client->rx_end || (client->ssl && SSL_pending(client->ssl));
}

static void op_pause(struct sv_link *link, bool paused)
{
    struct ws_client *client = client_of(link);

    client->paused = paused;
    if (client->state == OPEN) {
        sv_watch_set(client->watch, (paused ? 0 : SV_READABLE) | (link->blocked ? SV_WRITABLE : 0));
        sv_timer_set(client->timer, !paused && has_unread(client) ? 0 : SV_NEVER);
    }
}

static void send_close(struct ws_client *client)
{
    uint8_t frame[SV_WS_HEADER_MAX + 2] = { [SV_WS_HEADER_MAX] = 1000 >> 8, [SV_WS_HEADER_MAX + 1] = 1000 & 0xFF };
    uint8_t *payload = frame + SV_WS_HEADER_MAX;
    size_t header = sv_ws_wrap(payload, 2, SV_WS_CLOSE);

    write_all(client, payload - header, header + 2);
}

static void op_close(struct sv_link *link, enum sv_link_close how)
{
    struct ws_client *client = client_of(link);

    if (client->state == OPEN && how == SV_CLOSE_GRACEFUL) {
        send_close(client);
        client->state = ENDING;
        sv_timer_set(client->timer, sv_clock_now() + SV_NS_PER_S);
        return;
    }
    end(client, 0, "");
}

static const struct sv_link_ops client_ops = { .send = op_send, .pause = op_pause, .close = op_close };

/* ---- frames ---- */

static void answer_control(struct ws_client *client, const struct sv_ws_header *header, const uint8_t *payload)
{
    uint8_t frame[SV_WS_HEADER_MAX + SV_WS_CONTROL_MAX];
    uint8_t *copy = frame + SV_WS_HEADER_MAX;
    size_t n;

    if (header->opcode == SV_WS_CLOSE) {
        if (client->state == OPEN) {
            send_close(client);
        }
        end(client, 0, "the server closed the connection");
    } else if (header->opcode == SV_WS_PING && client->waiting_end - client->waiting_start < RX_SIZE) {
        memcpy(copy, payload, header->payload_len);
        n = sv_ws_wrap(copy, header->payload_len, SV_WS_PONG);
        write_all(client, copy - n, n + header->payload_len);
    }
}

static void deliver(struct ws_client *client, size_t len)
{
    uint8_t *bytes = client->rx + client->rx_start;

    client->rx_start += len;
    client->payload_left -= len;
    if (client->state == OPEN && len) {
        client->link.sink->on_bytes(&client->link, bytes, len);
    }
}

/* The order of opcodes in a fragmented message, and its length. */
static const char *data_offence(struct ws_client *client, const struct sv_ws_header *header)
{
    if (header->opcode == SV_WS_TEXT) {
        return "the server sent a text message";
    }
    if ((header->opcode == SV_WS_CONTINUATION) != client->in_message) {
        return "the server broke the order of WebSocket fragments";
    }
    client->message_len = client->in_message ? client->message_len : 0;
    if (header->payload_len > SV_WS_MESSAGE_MAX - client->message_len) {
        return "the server sent a message of more than 256 KiB";
    }
    client->message_len += header->payload_len;
    client->in_message = !header->fin;
    return NULL;
}

/* One frame, or as much of it as is there and worth handing on. false: more bytes are needed. */
static bool parse_one(struct ws_client *client)
{
    struct sv_ws_header header;
    size_t have = client->rx_end - client->rx_start;
    const char *offence;
    int n;

    if (client->payload_left) {
        deliver(client, have < client->payload_left ? have : (size_t)client->payload_left);
        return client->rx_end > client->rx_start;
    }
    n = sv_ws_read_header(&header, client->rx + client->rx_start, have);
    if (n < 0) {
        end(client, n, "the server sent a broken WebSocket frame");
    }
    if (n <= 0) {
        return false;
    }
    if (header.opcode >= SV_WS_CLOSE) {
        if (have < (size_t)n + header.payload_len) {
            return false;
        }
        answer_control(client, &header, client->rx + client->rx_start + n);
        client->rx_start += (size_t)n + (size_t)header.payload_len;
        return true;
    }
    /* Whole frames are handed on in place; only what cannot fit the buffer goes in parts. */
    if (have < (size_t)n + header.payload_len && (size_t)n + header.payload_len <= RX_SIZE) {
        return false;
    }
    offence = data_offence(client, &header);
    if (offence) {
        end(client, SV_E_PROTOCOL, offence);
        return false;
    }
    client->rx_start += (size_t)n;
    client->payload_left = header.payload_len;
    deliver(client, have - (size_t)n < header.payload_len ? have - (size_t)n : (size_t)header.payload_len);
    return client->rx_end > client->rx_start;
}

static bool may_parse(const struct ws_client *client)
{
    return (client->state == OPEN || client->state == ENDING) && !client->paused && client->rx_start < client->rx_end;
}

static void parse(struct ws_client *client)
{
    while (may_parse(client) && parse_one(client)) {
    }
    if (client->rx_start == client->rx_end) {
        client->rx_start = client->rx_end = 0;
    } else if (RX_SIZE - client->rx_end < RX_COMPACT) {
        memmove(client->rx, client->rx + client->rx_start, client->rx_end - client->rx_start);
        client->rx_end -= client->rx_start;
        client->rx_start = 0;
    }
}

static void finish_upgrade(struct ws_client *client)
{
    char why[SV_WS_WHY];
    int n = sv_ws_read_answer((const char *)client->rx, client->rx_end, client->key, why);

    if (n < 0) {
        end(client, n, why);
    } else if (n > 0) {
        client->rx_start = (size_t)n;
        client->state = OPEN;
        sv_timer_set(client->patience, SV_NEVER);
        client->link.sink->on_open(&client->link);
    }
}

static bool may_read(const struct ws_client *client, int reads)
{
    return client->state != CLOSED && !client->paused &&
           (reads < READS_PER_TURN || (client->ssl && SSL_pending(client->ssl)));
}

static void end_lost(struct ws_client *client, int error)
{
    if (client->state == UPGRADING) {
        end(client, SV_E_UNREACHABLE,
            client->secure ? "the server closed the connection instead of answering the WebSocket upgrade"
                           : "the server closed the connection instead of answering the WebSocket upgrade: "
                             "it may expect wss://");
    } else {
        end(client, client->state == ENDING ? 0 : error, "the server closed the connection");
    }
}

static void on_readable(struct ws_client *client)
{
    for (int i = 0; may_read(client, i); i++) {
        size_t room = RX_SIZE - client->rx_end;
        ssize_t n = socket_read(client, client->rx + client->rx_end, room);

        if (n < 0) {
            end_lost(client, (int)n);
            return;
        }
        if (n == 0) {
            return;
        }
        client->rx_end += (size_t)n;
        if (client->state == UPGRADING) {
            finish_upgrade(client);
        }
        parse(client);
        if ((size_t)n < room && !client->ssl) {
            return;     /* the socket is empty; TLS gives one record at a time */
        }
    }
}

static void on_ready(void *ctx, int events)
{
    struct ws_client *client = ctx;

    if ((events & SV_WRITABLE) && client->link.blocked && write_waiting(client)) {
        client->link.blocked = false;
        client->credit = SV_LINK_CREDIT;
        sv_watch_set(client->watch, client->paused ? 0 : SV_READABLE);
        if (client->state == OPEN) {
            client->link.sink->on_writable(&client->link);
        }
    }
    if ((events & SV_READABLE) && client->state != CLOSED) {
        on_readable(client);
    }
}

/* ---- connecting ---- */

static void begin_upgrade(struct ws_client *client)
{
    char request[SV_WS_REQUEST_MAX];
    size_t n = sv_ws_write_request(request, client->key, client->host, client->path);

    client->rx = malloc(RX_SIZE);
    client->watch = sv_watch_new(client->loop, client->fd, on_ready, client);
    if (!client->rx || !client->watch || !n) {
        end(client, n ? SV_E_NOMEM : SV_E_INVALID, n ? "out of memory" : "serverUrl has a path that is too long");
        return;
    }
    client->state = UPGRADING;
    client->credit = SV_LINK_CREDIT;
    sv_watch_set(client->watch, SV_READABLE);
    if (write_all(client, (const uint8_t *)request, n)) {
        end(client, SV_E_CLOSED, "the connection was lost");
    }
}

static void learn_socket(struct ws_client *client)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof addr;
    curl_socket_t fd = CURL_SOCKET_BAD;

    curl_easy_getinfo(client->easy, CURLINFO_ACTIVESOCKET, &fd);
    client->fd = fd;
    /* curl's own BIO works within curl's calls only. */
    if (client->ssl && !SSL_set_fd(client->ssl, fd)) {
        client->ssl = NULL;
    }
    if (getpeername(fd, (struct sockaddr *)&addr, &len) == 0) {
        sv_sockaddr_split(&addr, client->link.remote, &client->link.remote_port);
        memcpy(client->link.path_remote, client->link.remote, 16);
    }
    sv_tcp_tune(fd);
}

static void on_connect_failed(struct ws_client *client, CURLcode code)
{
    const char *why = client->pin.refused ? "the server's certificate does not match serverCertHash"
                      : client->why[0]    ? NULL
                                          : curl_easy_strerror(code);
    int error = code == CURLE_PEER_FAILED_VERIFICATION || client->pin.refused ? SV_E_AUTH
                : code == CURLE_OPERATION_TIMEDOUT                            ? SV_E_TIMEOUT
                                                                              : SV_E_UNREACHABLE;

    end(client, error, why);
}

static void check_connected(struct ws_client *client)
{
    int left;
    CURLMsg *message;

    while (client->state == CONNECTING && (message = curl_multi_info_read(client->multi, &left))) {
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        if (message->data.result != CURLE_OK) {
            on_connect_failed(client, message->data.result);
            return;
        }
        if (client->watch) {
            sv_watch_close(client->watch);
            client->watch = NULL;
        }
        sv_timer_set(client->timer, SV_NEVER);
        learn_socket(client);
        if (client->nested) {
            end(client, SV_E_UNSUPPORTED, "a proxy that is itself reached by TLS (https://) is not supported");
            return;
        }
        if (client->fd < 0 || (client->secure && !client->ssl)) {
            end(client, SV_E_SYSTEM, "no socket after connecting");
            return;
        }
        begin_upgrade(client);
    }
}

static void on_curl_socket(void *ctx, int events)
{
    struct ws_client *client = ctx;
    int running;
    int flags = (events & SV_READABLE ? CURL_CSELECT_IN : 0) | (events & SV_WRITABLE ? CURL_CSELECT_OUT : 0);

    curl_multi_socket_action(client->multi, client->fd, flags, &running);
    check_connected(client);
}

/* While it connects, curl has one socket at a time but for the race of address families, where the newest is watched and the timer drives the rest. */
static int curl_watches(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    struct ws_client *client = ctx;

    (void)easy;
    (void)socket_ctx;
    if (client->state != CONNECTING) {
        return 0;
    }
    if (client->watch && (fd != client->fd || what == CURL_POLL_REMOVE)) {
        if (fd != client->fd && what == CURL_POLL_REMOVE) {
            return 0;
        }
        sv_watch_close(client->watch);
        client->watch = NULL;
    }
    if (what == CURL_POLL_REMOVE) {
        return 0;
    }
    client->fd = fd;
    if (!client->watch) {
        client->watch = sv_watch_new(client->loop, fd, on_curl_socket, client);
    }
    if (client->watch) {
        sv_watch_set(client->watch, (what & CURL_POLL_IN ? SV_READABLE : 0) | (what & CURL_POLL_OUT ? SV_WRITABLE : 0));
    }
    return 0;
}

static int curl_times(CURLM *multi, long timeout_ms, void *ctx)
{
    struct ws_client *client = ctx;

    (void)multi;
    if (client->state == CONNECTING) {
        sv_timer_set(client->timer, timeout_ms < 0 ? SV_NEVER : sv_clock_now() + (uint64_t)timeout_ms * SV_NS_PER_MS);
    }
    return 0;
}

static void on_timer(void *ctx)
{
    struct ws_client *client = ctx;
    int running;

    if (client->state == CLOSED) {
        on_ended(client);
    } else if (client->state == ENDING) {
        end(client, 0, "");
    } else if (client->state == CONNECTING) {
        curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &running);
        check_connected(client);
    } else {
        parse(client);
        on_readable(client);
    }
}

static void on_patience_ended(void *ctx)
{
    struct ws_client *client = ctx;

    end(client, SV_E_TIMEOUT, client->state == CONNECTING ? "no connection in time" : "no WebSocket upgrade in time");
}

/* ---- making ---- */

/* curl gets http(s)://host:port/ with the default port of ws(s); host and path are kept for the upgrade. */
static int split_url(struct ws_client *client, const char *url, char *http_url, size_t size)
{
    CURLU *parts = curl_url();
    const char *rest = NULL;
    char *host = NULL, *port = NULL, *path = NULL, *query = NULL;
    int error = SV_E_INVALID;

    if (strncasecmp(url, "ws://", 5) == 0) {
        rest = url + 5;
    } else if (strncasecmp(url, "wss://", 6) == 0) {
        rest = url + 6;
        client->secure = true;
    }
    if (parts && rest) {
        snprintf(http_url, size, "%s://%s", client->secure ? "https" : "http", rest);
        if (!curl_url_set(parts, CURLUPART_URL, http_url, 0) && !curl_url_get(parts, CURLUPART_HOST, &host, 0) &&
            !curl_url_get(parts, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) && !curl_url_get(parts, CURLUPART_PATH, &path, 0)) {
            bool has_query = !curl_url_get(parts, CURLUPART_QUERY, &query, 0);
            bool usual = strcmp(port, client->secure ? "443" : "80") == 0;

            snprintf(client->host, sizeof client->host, usual ? "%s" : "%s:%s", host, port);
            error = snprintf(client->path, sizeof client->path, "%s%s%s", path, has_query ? "?" : "", has_query ? query : "") <
                            (int)sizeof client->path
                        ? 0
                        : SV_E_INVALID;
            snprintf(http_url, size, "%s://%s:%s/", client->secure ? "https" : "http", host, port);
        }
    }
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(query);
    curl_url_cleanup(parts);
    return error ? sv_fail(error, "serverUrl: not a ws:// or wss:// address") : 0;
}

/* curl has no call that tells the SSL of a connection that is done. */
static void on_tls_progress(const SSL *ssl, int where, int result)
{
    struct ws_client *client = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    (void)result;
    if (where & SSL_CB_HANDSHAKE_DONE) {
        client->nested = client->ssl && client->ssl != ssl;
        client->ssl = (SSL *)(uintptr_t)ssl;
    }
}

static CURLcode on_ssl_ctx(CURL *easy, void *ssl_ctx, void *ctx)
{
    struct ws_client *client = ctx;

    (void)easy;
    SSL_CTX_set_app_data(ssl_ctx, client);
    SSL_CTX_set_info_callback(ssl_ctx, on_tls_progress);
    SSL_CTX_set_mode(ssl_ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (client->pin.set) {
        sv_ws_pin_install(&client->pin, ssl_ctx);
    }
    return CURLE_OK;
}

static int set_options(struct ws_client *client, const char *url, const struct sv_ws_client_config *config)
{
    CURL *easy = client->easy;

    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTPPROXYTUNNEL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, client->why);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(config->timeout_ns / SV_NS_PER_MS));
    if (config->cert_hash) {
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);     /* the pin's callback looks at names where they count */
    }
    curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, client);
    if (curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, on_ssl_ctx) && client->secure) {
        return sv_fail(SV_E_UNSUPPORTED, "serverUrl: wss:// needs a libcurl that uses OpenSSL");
    }
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, curl_watches);
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, curl_times);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
    return curl_multi_add_handle(client->multi, easy) == CURLM_OK ? 0 : SV_E_NOMEM;
}

static int make_handles(struct ws_client *client, const struct sv_ws_client_config *config)
{
    client->multi = curl_multi_init();
    client->easy = curl_easy_init();
    client->timer = sv_timer_new(client->loop, on_timer, client);
    client->patience = sv_timer_new(client->loop, on_patience_ended, client);
    if (!client->multi || !client->easy || !client->timer || !client->patience) {
        return SV_E_NOMEM;
    }
    sv_timer_set(client->patience, client->link.opened_at + config->timeout_ns);
    return 0;
}

int sv_ws_client_connect(struct sv_link **link, struct sv_loop *loop, const struct sv_ws_client_config *config)
{
    struct ws_client *client = calloc(1, sizeof *client);
    char url[HOST_MAX + PATH_MAX_LEN];
    int error;

    if (!client) {
        return SV_E_NOMEM;
    }
    client->loop = loop;
    client->fd = -1;
    client->link = (struct sv_link){
        .ops = &client_ops,
        .sink = config->sink,
        .owner = config->owner,
        .kind = SV_TRANSPORT_WEBSOCKET,
        .opened_at = sv_clock_now(),
    };
    error = split_url(client, config->url, url, sizeof url);
    client->link.encrypted = client->secure;
    sv_ws_pin_init(&client->pin, config->cert_hash, config->pin_strict, client->host);
    if (!error) {
        error = make_handles(client, config);
    }
    if (!error) {
        error = set_options(client, url, config);
    }
    if (error) {
        free_client(client);
        return error;
    }
    *link = &client->link;
    return 0;
}
