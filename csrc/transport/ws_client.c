/* The client's WebSocket link. libcurl looks the name up, connects (through a proxy where the environment names one) and does TLS; what
 * carries packets afterwards is ours, since libraries parse and mask byte by byte. */
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/heap.h"
#include "base/log.h"
#include "io/socket.h"
#include "transport/websocket.h"
#include "transport/ws_pin.h"
#include "transport/ws_stream.h"
#include "transport/ws_tls.h"
#include "transport/ws_upgrade.h"
#include "transport/ws_url.h"

enum {
    IP4_TCP = 40, /* bytes of headers */
    IP6_TCP = 60,
    TIMESTAMPS = 12,
    SILENCE_MS = 2000,       /* after that an address is left, and the name's next is tried */
    SILENCE_AGAIN_MS = 7000, /* the same, when all addresses were silent */
};

enum state { CONNECTING, UPGRADING, OPEN, ENDING, CLOSED };

struct ws_client {
    struct sv_link link; /* first: the sink's handle */
    struct sv_loop *loop;
    enum state state;
    bool nested; /* TLS inside the TLS of a proxy */
    struct sv_ws_url url;
    char key[SV_WS_KEY + 1];
    struct curl_slist *resolved;
    CURLM *multi;
    CURL *easy;
    SSL *ssl; /* curl's, once its handshake is done */
    int fd;
    struct sv_watch *watch;    /* curl's socket while it connects */
    struct sv_timer *timer;    /* curl's while it connects, then the end of a close */
    struct sv_timer *patience; /* of everything until the link is open */
    struct sv_ws_pin pin;
    int max_segment;
    unsigned silence_ms;
    char why[CURL_ERROR_SIZE];
    int error;
    struct sv_ws_blocks blocks;
    struct sv_ws_stream stream; /* once connected */
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
    sv_ws_stream_clear(&client->stream);
    sv_ws_blocks_clear(&client->blocks);
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
    curl_slist_free_all(client->resolved);
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
    sv_ws_stream_stop(&client->stream);
    sv_timer_set(client->patience, SV_NEVER);
    sv_timer_set(client->timer, 0);
}

static void on_ended(struct ws_client *client)
{
    client->link.sink->on_closed(&client->link, client->error, client->why);
    free_client(client);
}

/* ---- operations ---- */

static int op_send(struct sv_link *link, uint8_t *bytes, size_t len)
{
    struct ws_client *client = client_of(link);

    return client->state == OPEN ? sv_ws_stream_send(&client->stream, bytes, len) : SV_E_CLOSED;
}

static void op_close(struct sv_link *link, enum sv_link_close how)
{
    struct ws_client *client = client_of(link);

    if (client->state == OPEN && how == SV_CLOSE_GRACEFUL) {
        client->state = ENDING;
        sv_timer_set(client->timer, sv_clock_now() + SV_NS_PER_S);
        sv_ws_stream_say_close(&client->stream);
        return;
    }
    end(client, 0, "");
}

/* The IP packet that a full segment makes: what TCP knows of the path, by the other end's word and by what got lost. */
static void op_measure(struct sv_link *link)
{
    const struct ws_client *client = client_of(link);
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    uint32_t headers = sv_addr_is4(link->path_remote) ? IP4_TCP : IP6_TCP;

    if (client->fd >= 0 && getsockopt(client->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0) {
        headers += info.tcpi_options & TCPI_OPT_TIMESTAMPS ? TIMESTAMPS : 0;
        link->path_mtu = (uint16_t)(info.tcpi_snd_mss + headers < UINT16_MAX ? info.tcpi_snd_mss + headers
                                                                             : UINT16_MAX);
    }
}

static const struct sv_link_ops client_ops = {.send = op_send, .close = op_close, .measure = op_measure};

/* ---- the stream ---- */

static struct ws_client *client_around(struct sv_ws_stream *stream)
{
    return SV_CONTAINER_OF(stream, struct ws_client, stream);
}

static int on_answer(struct sv_ws_stream *stream, const uint8_t *bytes, size_t len)
{
    struct ws_client *client = client_around(stream);
    char why[SV_WS_WHY];
    int n = sv_ws_read_answer((const char *)bytes, len, client->key, why);

    if (n < 0) {
        end(client, n, why);
    } else if (n > 0) {
        client->state = OPEN;
        sv_timer_set(client->patience, SV_NEVER);
        client->link.sink->on_open(&client->link);
    }
    return n;
}

static void on_stream_end(struct sv_ws_stream *stream, int error, const char *why)
{
    struct ws_client *client = client_around(stream);

    if (client->state == UPGRADING) {
        end(client, SV_E_UNREACHABLE,
            client->url.secure
                ? "the server closed the connection instead of answering the WebSocket upgrade"
                : "the server closed the connection instead of answering the WebSocket upgrade: "
                  "it may expect wss://");
    } else {
        end(client, client->state == ENDING ? 0 : error, why);
    }
}

static void ignore(struct sv_ws_stream *stream)
{
    (void)stream;
}

static const struct sv_ws_stream_hooks stream_hooks = {
    .on_answer = on_answer,
    .on_read = ignore,
    .on_blocked = ignore,
    .on_end = on_stream_end,
};

/* ---- connecting ---- */

static void begin_upgrade(struct ws_client *client)
{
    char request[SV_WS_REQUEST_MAX];
    size_t n = sv_ws_write_request(request, client->key, client->url.authority, client->url.path);

    client->stream = (struct sv_ws_stream){
        .link = &client->link,
        .blocks = &client->blocks,
        .hooks = &stream_hooks,
        .fd = client->fd,
        .ssl = client->ssl,
    };
    if (!n || sv_ws_stream_start(&client->stream, client->loop)) {
        end(client, n ? SV_E_NOMEM : SV_E_INVALID,
            n ? "out of memory" : "serverUrl has a path that is too long");
        return;
    }
    client->state = UPGRADING;
    if (sv_ws_stream_write(&client->stream, (const uint8_t *)request, n)) {
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
    if (getpeername(fd, (struct sockaddr *)&addr, &len) == 0) {
        sv_sockaddr_split(&addr, client->link.remote, &client->link.remote_port);
        memcpy(client->link.path_remote, client->link.remote, 16);
        op_measure(&client->link);
    }
    sv_tcp_tune(fd);
}

/* All addresses were silent: some may have been slow, or what was sent to them lost. */
static bool begin_again(struct ws_client *client, CURLcode code)
{
    long why = 0;

    curl_easy_getinfo(client->easy, CURLINFO_OS_ERRNO, &why);
    if ((code != CURLE_COULDNT_CONNECT && code != CURLE_OPERATION_TIMEDOUT) || why != ETIMEDOUT) {
        return false;
    }
    client->silence_ms = SILENCE_AGAIN_MS;
    client->why[0] = 0;
    curl_multi_remove_handle(client->multi, client->easy);
    return curl_multi_add_handle(client->multi, client->easy) == CURLM_OK;
}

/* In words of a config, where there are some; NULL: what curl wrote. */
static const char *told(const struct ws_client *client, CURLcode code)
{
    if (client->pin.refused) {
        return "the server's certificate does not match serverCertHash";
    }
    /* OpenSSL's words for an answer that is no TLS record. */
    if (code == CURLE_SSL_CONNECT_ERROR && strstr(client->why, "wrong version number")) {
        return "the server does not speak TLS there: it may expect ws://";
    }
    return client->why[0] ? NULL : curl_easy_strerror(code);
}

static void on_connect_failed(struct ws_client *client, CURLcode code)
{
    int error = code == CURLE_PEER_FAILED_VERIFICATION || client->pin.refused ? SV_E_AUTH
                : code == CURLE_OPERATION_TIMEDOUT                            ? SV_E_TIMEOUT
                                                                              : SV_E_UNREACHABLE;

    end(client, error, told(client, code));
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
            CURLcode code = message->data.result; /* the message ends with a new beginning */

            if (!begin_again(client, code)) {
                on_connect_failed(client, code);
            }
            return;
        }
        if (client->watch) {
            sv_watch_close(client->watch);
            client->watch = NULL;
        }
        sv_timer_set(client->timer, SV_NEVER);
        learn_socket(client);
        if (client->nested) {
            end(client, SV_E_UNSUPPORTED,
                "a proxy that is itself reached by TLS (https://) is not supported");
            return;
        }
        if (client->fd < 0 || (client->url.secure && !client->ssl)) {
            end(client, SV_E_SYSTEM, "no socket after connecting");
            return;
        }
        begin_upgrade(client);
    }
}

/* The short silence is for the TCP connect alone: a handshake on a lossy path, or a proxy that looks names up, may pause for longer. */
static void be_patient_once_connected(int fd)
{
    unsigned patience = SV_TCP_SILENCE_MS;
    struct tcp_info info = {0};
    socklen_t len = sizeof info;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_state == TCP_ESTABLISHED) {
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof patience);
    }
}

/* When an address has failed, curl goes to the next one only at another call, and this alone tells the new socket as well. */
static void take_next_address(struct ws_client *client)
{
    int running;

    if (client->state == CONNECTING) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        curl_multi_socket_all(client->multi, &running);
#pragma GCC diagnostic pop
    }
}

static void on_curl_socket(void *ctx, int events)
{
    struct ws_client *client = ctx;
    int running;
    int flags = (events & SV_READABLE ? CURL_CSELECT_IN : 0) | (events & SV_WRITABLE ? CURL_CSELECT_OUT : 0);

    be_patient_once_connected(client->fd);
    curl_multi_socket_action(client->multi, client->fd, flags, &running);
    take_next_address(client);
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
    be_patient_once_connected(fd);
    if (!client->watch) {
        client->watch = sv_watch_new(client->loop, fd, on_curl_socket, client);
    }
    if (client->watch) {
        sv_watch_set(client->watch,
                     (what & CURL_POLL_IN ? SV_READABLE : 0) | (what & CURL_POLL_OUT ? SV_WRITABLE : 0));
    }
    return 0;
}

static int curl_times(CURLM *multi, long timeout_ms, void *ctx)
{
    struct ws_client *client = ctx;

    (void)multi;
    if (client->state == CONNECTING) {
        sv_timer_set(client->timer,
                     timeout_ms < 0 ? SV_NEVER : sv_clock_now() + (uint64_t)timeout_ms * SV_NS_PER_MS);
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
    }
}

static void on_patience_ended(void *ctx)
{
    struct ws_client *client = ctx;

    end(client, SV_E_TIMEOUT,
        client->state == CONNECTING ? "no connection in time" : "no WebSocket upgrade in time");
}

/* ---- making ---- */

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
    sv_ws_tls_prefer(ssl_ctx);
    SSL_CTX_set_mode(ssl_ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (client->pin.set) {
        sv_ws_pin_install(&client->pin, ssl_ctx);
    }
    return CURLE_OK;
}

/* Before the connect: the SYN tells the segment to the other end, and is given up after the silence. */
static int on_socket(void *ctx, curl_socket_t fd, curlsocktype purpose)
{
    const struct ws_client *client = ctx;

    (void)purpose;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &client->silence_ms, sizeof client->silence_ms);
    if (client->max_segment) {
        setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &client->max_segment, sizeof client->max_segment);
    }
    return CURL_SOCKOPT_OK;
}

/* What curl is told it need not look up, as it would on a thread that its end waits for. */
static int set_addresses(struct ws_client *client, const struct sv_addresses *addresses)
{
    char entry[SV_WS_RESOLVED_MAX];

    if (addresses && sv_ws_url_resolve(entry, &client->url, addresses)) {
        client->resolved = curl_slist_append(NULL, entry);
        if (!client->resolved) {
            return SV_E_NOMEM;
        }
        curl_easy_setopt(client->easy, CURLOPT_RESOLVE, client->resolved);
    }
#if LIBCURL_VERSION_NUM >= 0x075700
    curl_easy_setopt(client->easy, CURLOPT_QUICK_EXIT, 1L); /* a proxy's name is still for curl */
#endif
    return 0;
}

static int set_options(struct ws_client *client, const struct sv_ws_client_config *config)
{
    CURL *easy = client->easy;

    if (set_addresses(client, config->addresses)) {
        return SV_E_NOMEM;
    }
    curl_easy_setopt(easy, CURLOPT_URL, client->url.http);
    curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTPPROXYTUNNEL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, client->why);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(config->timeout_ns / SV_NS_PER_MS));
    curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_socket);
    curl_easy_setopt(easy, CURLOPT_SOCKOPTDATA, client);
    if (config->cert_hash) {
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST,
                         0L); /* the pin's callback looks at names where they count */
    }
    curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, client);
    if (curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, on_ssl_ctx) && client->url.secure) {
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

int sv_ws_client_connect(struct sv_link **link, struct sv_loop *loop,
                         const struct sv_ws_client_config *config)
{
    struct ws_client *client = calloc(1, sizeof *client);
    int error;

    if (!client) {
        return SV_E_NOMEM;
    }
    client->loop = loop;
    client->fd = -1;
    client->max_segment = config->max_segment;
    client->silence_ms = SILENCE_MS;
    client->link = (struct sv_link){
        .ops = &client_ops,
        .sink = config->sink,
        .owner = config->owner,
        .kind = SV_TRANSPORT_WEBSOCKET,
        .opened_at = sv_clock_now(),
    };
    error = sv_ws_url_split(&client->url, config->url);
    client->link.encrypted = client->url.secure;
    sv_ws_pin_init(&client->pin, config->cert_hash, config->pin_strict, client->url.authority);
    if (!error) {
        error = make_handles(client, config);
    }
    if (!error) {
        error = set_options(client, config);
    }
    if (error) {
        free_client(client);
        return error;
    }
    *link = &client->link;
    return 0;
}
