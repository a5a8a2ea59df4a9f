/* /var/run/wireguard/NAME.sock: requests of `wg`, each ended by an empty line, and their answers. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "engine/wg_control.h"

#define FOLDER "/var/run/wireguard"

enum {
    BACKLOG = 16,
    CLIENTS_MAX = 32,
    REQUEST_MAX = 64 << 20, /* bytes: some millions of allowed IPs */
    READ_ROOM = 64 * 1024,
};

struct client {
    struct sv_wg_socket *server;
    struct client *prev, *next;
    struct sv_watch *watch;
    int fd;
    char *request; /* what came and was not answered yet */
    size_t len, room;
    size_t scanned; /* no end of a request lies before it */
    char *answer;
    size_t answer_len, answer_sent;
};

struct sv_wg_socket {
    struct sv_loop *loop;
    sv_engine *engine;
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    ino_t inode;
    int fd, inotify;
    struct sv_watch *watch, *inotify_watch;
    struct client *clients;
    size_t client_count;
    void (*on_gone)(void *ctx);
    void *ctx;
};

/* ---- one client ---- */

static void close_client(struct client *client)
{
    struct sv_wg_socket *server = client->server;

    *(client->prev ? &client->prev->next : &server->clients) = client->next;
    if (client->next) {
        client->next->prev = client->prev;
    }
    server->client_count--;
    sv_watch_close(client->watch);
    close(client->fd);
    sv_wg_text_free(client->request, client->room);
    sv_wg_text_free(client->answer, client->answer_len);
    free(client);
}

/* "get=1" or "set=1", lines, and nothing more of it. */
static int obey(struct client *client, const char *request, size_t len)
{
    static const char get[] = "get=1\n", set[] = "set=1\n";
    const size_t op = sizeof get - 1;

    if (len == op && memcmp(request, get, op) == 0) {
        return sv_wg_get(client->server->engine, &client->answer, &client->answer_len);
    }
    if (len >= op && memcmp(request, set, op) == 0) {
        return sv_wg_set(client->server->engine, request + op, len - op);
    }
    return -EPROTO;
}

/* The answer ends in its status and an empty line. */
static bool finish_answer(struct client *client, int error)
{
    char end[32];
    size_t n = (size_t)snprintf(end, sizeof end, "errno=%d\n\n", error);
    char *whole = malloc(client->answer_len + n);

    if (whole) {
        memcpy(whole, client->answer ? client->answer : "", client->answer_len);
        memcpy(whole + client->answer_len, end, n);
    }
    sv_wg_text_free(client->answer, client->answer_len);
    client->answer = whole;
    client->answer_len = whole ? client->answer_len + n : 0;
    client->answer_sent = 0;
    return whole != NULL;
}

/* Takes one whole request out of what came. false: none is there, or the connection is no good. */
static bool answer_one(struct client *client)
{
    char *end = client->len < 2
                    ? NULL
                    : memmem(client->request + client->scanned, client->len - client->scanned, "\n\n", 2);
    size_t used;

    if (!end) {
        client->scanned = client->len > 0 ? client->len - 1 : 0;
        return false;
    }
    used = (size_t)(end - client->request) + 2;
    if (!finish_answer(client, obey(client, client->request, used - 1))) {
        return false;
    }
    memmove(client->request, client->request + used, client->len - used);
    sv_wipe(client->request + client->len - used, used);
    client->len -= used;
    client->scanned = 0;
    return true;
}

/* false: the connection has been closed. */
static bool send_answer(struct client *client)
{
    while (client->answer_sent < client->answer_len) {
        ssize_t n = send(client->fd, client->answer + client->answer_sent,
                         client->answer_len - client->answer_sent, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EAGAIN) {
            sv_watch_set(client->watch, SV_WRITABLE); /* no new request before the answer has gone */
            return true;
        }
        if (n < 0) {
            close_client(client);
            return false;
        }
        client->answer_sent += (size_t)n;
    }
    sv_wg_text_free(client->answer, client->answer_len);
    client->answer = NULL;
    client->answer_len = client->answer_sent = 0;
    sv_watch_set(client->watch, SV_READABLE);
    return true;
}

static bool make_room(struct client *client)
{
    size_t room = client->room ? 2 * client->room : READ_ROOM;
    char *grown;

    if (client->room - client->len >= READ_ROOM / 2) {
        return true;
    }
    grown = room > REQUEST_MAX ? NULL : malloc(room);
    if (!grown) {
        return false;
    }
    memcpy(grown, client->request ? client->request : "", client->len);
    sv_wg_text_free(client->request, client->room);
    client->request = grown;
    client->room = room;
    return true;
}

/* false: nothing more came, or the connection has been closed. */
static bool read_more(struct client *client)
{
    ssize_t n;

    if (!make_room(client)) {
        close_client(client);
        return false;
    }
    n = recv(client->fd, client->request + client->len, client->room - client->len, MSG_DONTWAIT);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) {
            close_client(client);
        }
        return false;
    }
    client->len += (size_t)n;
    return true;
}

static void on_client(void *ctx, int events)
{
    struct client *client = ctx;

    (void)events;
    if (client->answer_len && !send_answer(client)) {
        return;
    }
    while (!client->answer_len) {
        if (answer_one(client)) {
            if (!send_answer(client)) {
                return;
            }
        } else if (!read_more(client)) {
            return;
        }
    }
}

/* ---- the listener ---- */

static void on_accept(void *ctx, int events)
{
    struct sv_wg_socket *server = ctx;
    int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct client *client;

    (void)events;
    if (fd < 0) {
        return;
    }
    client = server->client_count < CLIENTS_MAX ? calloc(1, sizeof *client) : NULL;
    if (client) {
        client->watch = sv_watch_new(server->loop, fd, on_client, client);
    }
    if (!client || !client->watch) {
        free(client);
        close(fd);
        return;
    }
    client->server = server;
    client->fd = fd;
    client->next = server->clients;
    if (client->next) {
        client->next->prev = client;
    }
    server->clients = client;
    server->client_count++;
    sv_watch_set(client->watch, SV_READABLE);
}

static bool is_ours(const struct sv_wg_socket *server)
{
    struct stat info;

    return lstat(server->path, &info) == 0 && info.st_ino == server->inode;
}

static void on_inotify(void *ctx, int events)
{
    struct sv_wg_socket *server = ctx;
    char drain[4096];

    (void)events;
    while (read(server->inotify, drain, sizeof drain) > 0) {
    }
    if (!is_ours(server)) {
        sv_watch_set(server->inotify_watch, 0);
        server->on_gone(server->ctx);
    }
}

/* A socket that nobody listens on was left behind. */
static int clear_path(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool alive = fd >= 0 && connect(fd, (const struct sockaddr *)(const void *)addr, sizeof *addr) == 0;

    if (fd >= 0) {
        close(fd);
    }
    if (alive) {
        return sv_fail(SV_E_IN_USE, "%s: another device listens there", addr->sun_path);
    }
    unlink(addr->sun_path);
    return 0;
}

static int bind_path(struct sv_wg_socket *server)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    mode_t mask;
    int error;

    strcpy(addr.sun_path, server->path);
    if (mkdir(FOLDER, 0755) && errno != EEXIST) {
        return sv_fail(SV_E_SYSTEM, "%s: %s", FOLDER, strerror(errno));
    }
    error = clear_path(&addr);
    if (error) {
        return error;
    }
    server->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mask = umask(0177);
    error = server->fd < 0 || bind(server->fd, (const struct sockaddr *)(const void *)&addr, sizeof addr) ||
            listen(server->fd, BACKLOG);
    umask(mask);
    return error ? sv_fail(SV_E_SYSTEM, "%s: %s", server->path, strerror(errno)) : 0;
}

static int open_watches(struct sv_wg_socket *server)
{
    struct stat info;

    if (lstat(server->path, &info) == 0) {
        server->inode = info.st_ino;
    }
    server->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (server->inotify < 0 ||
        inotify_add_watch(server->inotify, server->path, IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF) < 0) {
        return sv_fail(SV_E_SYSTEM, "cannot watch %s: %s", server->path, strerror(errno));
    }
    server->watch = sv_watch_new(server->loop, server->fd, on_accept, server);
    server->inotify_watch = sv_watch_new(server->loop, server->inotify, on_inotify, server);
    if (!server->watch || !server->inotify_watch) {
        return SV_E_NOMEM;
    }
    sv_watch_set(server->watch, SV_READABLE);
    sv_watch_set(server->inotify_watch, SV_READABLE);
    return 0;
}

int sv_wg_socket_open(struct sv_wg_socket **out, struct sv_loop *loop, sv_engine *engine, const char *name,
                      int fd, void (*on_gone)(void *), void *ctx)
{
    struct sv_wg_socket *server = calloc(1, sizeof *server);
    int error;

    *out = server;
    if (!server) {
        return SV_E_NOMEM;
    }
    *server = (struct sv_wg_socket){
        .loop = loop, .engine = engine, .fd = fd, .inotify = -1, .on_gone = on_gone, .ctx = ctx};
    snprintf(server->path, sizeof server->path, FOLDER "/%s.sock", name);
    error = fd < 0 ? bind_path(server) : 0;
    return error ? error : open_watches(server);
}

void sv_wg_socket_close(struct sv_wg_socket *server)
{
    while (server->clients) {
        close_client(server->clients);
    }
    if (server->watch) {
        sv_watch_close(server->watch);
    }
    if (server->inotify_watch) {
        sv_watch_close(server->inotify_watch);
    }
    if (server->inode && is_ours(server)) {
        unlink(server->path);
    }
    if (server->fd >= 0) {
        close(server->fd);
    }
    if (server->inotify >= 0) {
        close(server->inotify);
    }
    free(server);
}
