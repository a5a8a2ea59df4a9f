/* The server's WebSocket links on libwebsockets: one context per worker, on the worker's own loop. The worker's listener accepts; the
 * socket is handed over once its source is known. */
#include <fcntl.h>
#include <libwebsockets.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/heap.h"
#include "base/log.h"
#include "io/listener.h"
#include "io/socket.h"
#include "transport/proxy_gate.h"
#include "transport/websocket.h"
#include "transport/ws_forwarded.h"
#include "transport/ws_stream.h"
#include "transport/ws_tls.h"
#include "transport/ws_upgrade.h"

enum {
    OPENING_MAX = 1024,   /* links in TLS or upgrade; more are refused */
    FORWARDED_MAX = 8192, /* more than libwebsockets takes of all headers together */
};

static const uint64_t OPEN_WITHIN = 5 * SV_NS_PER_S; /* PROXY header, TLS and upgrade, from accept */
static const uint64_t BLOCKED_AT_MOST = 30 * SV_NS_PER_S;
static const uint64_t CLOSE_WITHIN = SV_NS_PER_S; /* for the peer's answer to a Close */
static const uint64_t VOUCH_EVERY =
    60 * SV_NS_PER_S; /* libwebsockets gives links up that it has not seen alive for 300 s */

struct sv_ws_server {
    struct sv_loop *loop;
    struct lws_context *context;
    struct lws_vhost *vhost;
    struct sv_listener *listener; /* NULL once it has stopped accepting */
    struct sv_timer *timer;
    struct sv_heap deadlines; /* of links: to be open, writable or closed by then */
    uint16_t port;
    const char *tls_cert, *tls_key; /* while the context is made */
    bool (*admit)(void *owner, const uint8_t remote[16]);
    const struct sv_link_sink *sink;
    void *owner;
    const struct sv_prefix *proxies;
    size_t proxy_count;
    struct sv_proxy_gate gate; /* for what proxies bring */
    uint64_t armed_at;         /* when the timer fires: never later than the soonest deadline */
    size_t links, opening;     /* all of them; those that are not open yet */
    struct sv_ws_blocks blocks;
};

struct ws_link {
    struct sv_link link; /* first: the sink's handle */
    struct sv_ws_server *server;
    struct lws *wsi; /* keeps the socket and TLS; after the upgrade the bytes are the stream's */
    struct sv_ws_stream stream;
    struct sv_deadline deadline;
    uint64_t vouched_at;
    bool open, closing;
    bool was_open; /* no longer counted as opening */
};

static struct ws_link *link_of(struct sv_link *link)
{
    return (struct ws_link *)link;
}

/* ---- deadlines ---- */

/* A deadline that moves away leaves the timer as it is: it finds nothing due then, which is cheaper than a system call each time. */
static void arm(struct sv_ws_server *server)
{
    uint64_t next = sv_heap_next(&server->deadlines);

    if (next < server->armed_at) {
        server->armed_at = next;
        sv_timer_set(server->timer, next);
    }
}

static void set_deadline(struct ws_link *link, uint64_t at)
{
    sv_heap_set(&link->server->deadlines, &link->deadline, at);
    arm(link->server);
}

static void kill_link(struct ws_link *link)
{
    link->closing = true;
    sv_ws_stream_stop(&link->stream);
    lws_set_timeout(link->wsi, PENDING_TIMEOUT_CLOSE_SEND, LWS_TO_KILL_ASYNC);
    /* It looks at its timeouts only after it was called for something. */
    lws_cancel_service(link->server->context);
}

static void on_deadline(void *ctx)
{
    struct sv_ws_server *server = ctx;
    struct sv_deadline *due;

    server->armed_at = SV_NEVER;
    while ((due = sv_heap_pop(&server->deadlines, sv_clock_now()))) {
        kill_link(SV_CONTAINER_OF(due, struct ws_link, deadline));
    }
    arm(server);
}

/* ---- operations ---- */

static int op_send(struct sv_link *handle, uint8_t *bytes, size_t len)
{
    struct ws_link *link = link_of(handle);

    return link->closing ? SV_E_CLOSED : sv_ws_stream_send(&link->stream, bytes, len);
}

static void op_close(struct sv_link *handle, enum sv_link_close how)
{
    struct ws_link *link = link_of(handle);

    if (link->closing) {
        return;
    }
    if (how == SV_CLOSE_SILENT) {
        kill_link(link);
        return;
    }
    link->closing = true;
    set_deadline(link, sv_clock_now() + CLOSE_WITHIN);
    sv_ws_stream_say_close(&link->stream);
}

static const struct sv_link_ops server_ops = {.send = op_send, .close = op_close};

/* ---- the stream ---- */

static struct ws_link *link_around(struct sv_ws_stream *stream)
{
    return SV_CONTAINER_OF(stream, struct ws_link, stream);
}

static void on_read(struct sv_ws_stream *stream)
{
    struct ws_link *link = link_around(stream);
    uint64_t now = link->server->loop->now;

    if (now - link->vouched_at >= VOUCH_EVERY) {
        link->vouched_at = now;
        lws_validity_confirmed(link->wsi);
    }
}

static void on_blocked(struct sv_ws_stream *stream)
{
    struct ws_link *link = link_around(stream);

    if (!link->closing) {
        set_deadline(link, link->link.blocked ? link->server->loop->now + BLOCKED_AT_MOST : SV_NEVER);
    }
}

static void on_end(struct sv_ws_stream *stream, int error, const char *why)
{
    (void)error;
    (void)why;
    kill_link(link_around(stream));
}

static const struct sv_ws_stream_hooks stream_hooks = {
    .on_read = on_read, .on_blocked = on_blocked, .on_end = on_end};

/* libwebsockets reads no more, and the stream gets a descriptor of its own, since a libuv loop knows each only once. */
static int take_over(struct ws_link *link)
{
    int fd = fcntl(lws_get_socket_fd(link->wsi), F_DUPFD_CLOEXEC, 0);

    if (fd < 0 || lws_partial_buffered(link->wsi)) {
        close(fd);
        return SV_E_SYSTEM;
    }
    lws_rx_flow_control(link->wsi, 0);
    link->stream = (struct sv_ws_stream){
        .link = &link->link,
        .blocks = &link->server->blocks,
        .hooks = &stream_hooks,
        .fd = fd,
        .ssl = link->server->tls_cert ? lws_get_ssl(link->wsi) : NULL,
        .server = true,
        .answered = true,
    };
    return sv_ws_stream_start(&link->stream, link->server->loop);
}

/* ---- libwebsockets' callbacks ---- */

/* false: the source cannot be told. */
static bool learn_source(struct ws_link *link)
{
    const struct sv_ws_server *server = link->server;
    char list[FORWARDED_MAX];

    if (!sv_ws_is_trusted(server->proxies, server->proxy_count, link->link.remote) ||
        !lws_hdr_total_length(link->wsi, WSI_TOKEN_X_FORWARDED_FOR)) {
        return true;
    }
    if (lws_hdr_copy(link->wsi, list, sizeof list, WSI_TOKEN_X_FORWARDED_FOR) < 0) {
        return false;
    }
    if (sv_ws_forwarded_source(link->link.remote, list, server->proxies, server->proxy_count)) {
        link->link.remote_port = 0;
    }
    return true;
}

/* What RFC 6455 4.2.1 asks of a request and libwebsockets does not look at: GET, HTTP/1.1, version 13, a key of 16 bytes. A PROXY line from
 * somebody who is not trusted, or a second one, is a request line among others to it. */
static bool is_sound(const struct ws_link *link)
{
    char http[16] = "", version[4] = "", key[SV_WS_KEY + 1] = "";

    return lws_hdr_total_length(link->wsi, WSI_TOKEN_PROXY) == 0 &&
           lws_hdr_total_length(link->wsi, WSI_TOKEN_GET_URI) > 0 &&
           lws_hdr_copy(link->wsi, http, sizeof http, WSI_TOKEN_HTTP) > 0 && strcmp(http, "HTTP/1.1") == 0 &&
           lws_hdr_copy(link->wsi, version, sizeof version, WSI_TOKEN_VERSION) > 0 &&
           strcmp(version, "13") == 0 &&
           lws_hdr_copy(link->wsi, key, sizeof key, WSI_TOKEN_KEY) == SV_WS_KEY && sv_ws_is_key(key);
}

static int on_established(struct ws_link *link)
{
    link->was_open = true;
    link->server->opening--;
    if (!link->server->admit(link->server->owner, link->link.remote) || take_over(link)) {
        return -1;
    }
    link->open = true;
    link->vouched_at = link->server->loop->now;
    set_deadline(link, SV_NEVER);
    link->server->sink->on_open(&link->link);
    return 0;
}

static void on_closed(struct ws_link *link)
{
    sv_ws_stream_stop(&link->stream);
    if (link->open) {
        link->open = false;
        link->closing = true;
        link->link.sink->on_closed(&link->link, 0, "");
    }
}

static void on_destroyed(struct ws_link *link)
{
    if (!link->was_open) {
        link->server->opening--;
    }
    link->server->links--;
    on_closed(link);
    if (link->stream.fd > 0) {
        sv_ws_stream_clear(&link->stream);
        close(link->stream.fd);
    }
    sv_heap_remove(&link->server->deadlines, &link->deadline);
    free(link);
}

static int on_http(struct lws *wsi)
{
    lws_return_http_status(wsi, HTTP_STATUS_NOT_FOUND, NULL);
    return -1;
}

static int load_tls(const struct sv_ws_server *server, void *ssl_ctx)
{
    return sv_ws_tls_use(ssl_ctx, server->tls_cert, server->tls_key) != NULL;
}

static int callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    struct ws_link *link = wsi ? lws_get_opaque_user_data(wsi) : NULL;

    (void)in;
    (void)len;
    if (reason == LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS) {
        return load_tls(lws_context_user(lws_get_context(wsi)), user);
    }
    if (reason == LWS_CALLBACK_HTTP) {
        return on_http(wsi);
    }
    if (!link) {
        return 0;
    }
    sv_loop_wake(link->server->loop);
    switch (reason) {
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        return is_sound(link) && learn_source(link) ? 0 : -1;
    case LWS_CALLBACK_ESTABLISHED:
        return on_established(link);
    case LWS_CALLBACK_RECEIVE:
        return -1; /* frames sent before the upgrade was answered */
    case LWS_CALLBACK_CLOSED:
        on_closed(link);
        return 0;
    case LWS_CALLBACK_WSI_DESTROY:
        on_destroyed(link);
        return 0;
    default:
        return 0;
    }
}

static const struct lws_protocols protocols[] = {
    {.name = "smartvpn.v1", .callback = callback},
    {.name = NULL},
};

/* ---- accepting ---- */

static void adopt(void *ctx, const struct sv_proxy_visitor *visitor)
{
    struct sv_ws_server *server = ctx;
    struct ws_link *link = server->admit(server->owner, visitor->source) ? calloc(1, sizeof *link) : NULL;

    if (!link) {
        close(visitor->fd);
        return;
    }
    link->server = server;
    link->link = (struct sv_link){
        .ops = &server_ops,
        .sink = server->sink,
        .owner = server->owner,
        .kind = SV_TRANSPORT_WEBSOCKET,
        .encrypted = server->tls_cert != NULL,
        .remote_port = visitor->port,
        .opened_at = visitor->accepted_at,
    };
    memcpy(link->link.remote, visitor->source, 16);
    memcpy(link->link.path_remote, visitor->peer, 16);
    sv_tcp_tune(visitor->fd);
    link->wsi = lws_adopt_socket_vhost(server->vhost, visitor->fd);
    if (!link->wsi) {
        free(link);
        return;
    }
    lws_set_opaque_user_data(link->wsi, link);
    server->links++;
    server->opening++;
    set_deadline(link, link->link.opened_at + OPEN_WITHIN);
}

static void on_accepted(void *ctx, int fd, const struct sockaddr_storage *peer)
{
    struct sv_ws_server *server = ctx;
    struct sv_proxy_visitor visitor = {.fd = fd, .accepted_at = server->loop->now};

    sv_sockaddr_split(peer, visitor.peer, &visitor.port);
    memcpy(visitor.source, visitor.peer, sizeof visitor.source);
    if (sv_ws_server_opening(server) >= OPENING_MAX || !server->admit(server->owner, visitor.peer)) {
        close(fd);
    } else if (sv_ws_is_trusted(server->proxies, server->proxy_count, visitor.peer)) {
        sv_proxy_gate_enter(&server->gate, &visitor);
    } else {
        adopt(server, &visitor);
    }
}

/* ---- making and ending ---- */

static void log_line(int level, const char *line)
{
    static struct sv_log_limit limit;
    size_t n = strlen(line);

    sv_log_limited(&limit, sv_clock_now(), level == LLL_ERR ? SV_LOG_WARNING : SV_LOG_DEBUG,
                   "libwebsockets: %.*s", (int)(n && line[n - 1] == '\n' ? n - 1 : n), line);
}

/* Before libwebsockets sees them: a context it fails to make leaves handles in the loop whose code it unloads. */
static int check_tls(const struct sv_ws_server *server)
{
    const char *fault = server->tls_cert ? sv_ws_tls_check(server->tls_cert, server->tls_key) : NULL;

    return fault ? sv_fail(SV_E_INVALID, "%s", fault) : 0;
}

static int open_context(struct sv_ws_server *server)
{
    void *loops[] = {&server->loop->uv};
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
        .protocols = protocols,
        .options = LWS_SERVER_OPTION_LIBUV,
        .foreign_loops = loops,
        .pcontext = &server->context,
        .user = server,
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
        .alpn = "http/1.1",
    };

    if (server->tls_cert) {
        info.options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT | LWS_SERVER_OPTION_CREATE_VHOST_SSL_CTX;
    }
    lws_set_log_level(LLL_ERR | LLL_WARN, log_line);
    server->context = lws_create_context(&info);
    if (!server->context) {
        return sv_fail(SV_E_SYSTEM, "cannot make a WebSocket server");
    }
    server->vhost = lws_get_vhost_by_name(server->context, "default");
    return server->vhost ? 0 : sv_fail(SV_E_SYSTEM, "cannot make a WebSocket server");
}

int sv_ws_server_open(struct sv_ws_server **out, struct sv_loop *loop,
                      const struct sv_ws_server_config *config)
{
    struct sv_ws_server *server = calloc(1, sizeof *server);
    int error;

    *out = NULL;
    if (!server) {
        return SV_E_NOMEM;
    }
    server->loop = loop;
    server->tls_cert = config->tls_cert;
    server->tls_key = config->tls_key;
    server->admit = config->admit;
    server->sink = config->sink;
    server->owner = config->owner;
    server->proxies = config->trusted_proxies;
    server->proxy_count = config->trusted_count;
    server->armed_at = SV_NEVER;
    sv_heap_init(&server->deadlines);
    server->timer = sv_timer_new(loop, on_deadline, server);
    error = server->timer ? sv_proxy_gate_init(&server->gate, loop, OPEN_WITHIN, adopt, server) : SV_E_NOMEM;
    if (!error) {
        error = check_tls(server);
    }
    if (!error) {
        error = open_context(server);
    }
    if (!error) {
        error = sv_listener_open(&server->listener, loop, config->listen_addr, config->reuse_port,
                                 on_accepted, server);
    }
    if (error) {
        sv_ws_server_close(server);
        return error;
    }
    server->port = sv_listener_port(server->listener);
    *out = server;
    return 0;
}

uint16_t sv_ws_server_port(const struct sv_ws_server *server)
{
    return server->port;
}

size_t sv_ws_server_opening(const struct sv_ws_server *server)
{
    return server->opening + server->gate.count;
}

void sv_ws_server_stop_accepting(struct sv_ws_server *server)
{
    sv_listener_close(server->listener);
    server->listener = NULL;
    sv_proxy_gate_clear(&server->gate);
}

static void note_closing(uv_handle_t *handle, void *any)
{
    *(bool *)any |= uv_is_closing(handle);
}

/* Turns the loop until all its handles that were closed are gone. */
static void settle(uv_loop_t *loop)
{
    bool any = true;

    while (any) {
        uv_run(loop, UV_RUN_NOWAIT);
        any = false;
        uv_walk(loop, note_closing, &any);
    }
}

/* On a loop of ours libwebsockets only begins to end: its sockets and handles close as the loop turns. Then another call frees what is left,
 * clears server->context and unloads the code that handles still in the loop would call. */
static void destroy_context(struct sv_ws_server *server)
{
    if (server->context) {
        lws_context_destroy(server->context);
    }
    while (server->links) {
        uv_run(&server->loop->uv, UV_RUN_ONCE);
    }
    while (server->context) {
        settle(&server->loop->uv);
        lws_context_destroy(server->context);
    }
}

void sv_ws_server_close(struct sv_ws_server *server)
{
    sv_ws_server_stop_accepting(server);
    destroy_context(server);
    if (server->timer) {
        sv_timer_close(server->timer);
    }
    sv_heap_clear(&server->deadlines);
    sv_ws_blocks_clear(&server->blocks);
    free(server);
}
