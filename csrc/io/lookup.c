#include "io/lookup.h"

#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <smartvpn/base.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "io/socket.h"
#include "policy/prefix.h"

enum { WHY_MAX = 400 };

/* ---- addresses ---- */

static bool same(const struct sv_address *a, const struct sv_address *b)
{
    return memcmp(a->ip, b->ip, sizeof a->ip) == 0 && a->scope == b->scope;
}

bool sv_addresses_have(const struct sv_addresses *addresses, const struct sv_address *one)
{
    for (size_t i = 0; i < addresses->count; i++) {
        if (same(&addresses->list[i], one)) {
            return true;
        }
    }
    return false;
}

void sv_addresses_add(struct sv_addresses *addresses, const struct sv_address *one)
{
    if (addresses->count < SV_ADDRESSES_MAX && !sv_addresses_have(addresses, one)) {
        addresses->list[addresses->count++] = *one;
    }
}

void sv_address_to_socket(struct sockaddr_storage *addr, const struct sv_address *from, uint16_t port)
{
    memset(addr, 0, sizeof *addr);
    if (sv_addr_is4(from->ip)) {
        struct sockaddr_in *in = (struct sockaddr_in *)addr;

        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        memcpy(&in->sin_addr, from->ip + 12, 4);
    } else {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)addr;

        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        in6->sin6_scope_id = from->scope;
        memcpy(&in6->sin6_addr, from->ip, 16);
    }
}

static void keep(struct sv_addresses *addresses, const struct addrinfo *list)
{
    for (; list; list = list->ai_next) {
        struct sockaddr_storage addr = {0};
        struct sv_address one = {0};
        uint16_t port;

        memcpy(&addr, list->ai_addr, list->ai_addrlen);
        sv_sockaddr_split(&addr, one.ip, &port);
        if (addr.ss_family == AF_INET6) {
            one.scope = ((const struct sockaddr_in6 *)&addr)->sin6_scope_id;
        }
        sv_addresses_add(addresses, &one);
    }
}

/* ---- hosts ---- */

int sv_host_split(const char *text, char host[SV_HOST_MAX], char port[SV_PORT_MAX])
{
    const char *colon = text ? strrchr(text, ':') : NULL;
    size_t len = colon ? (size_t)(colon - text) : 0;
    bool bracket = len >= 2 && text[0] == '[' && text[len - 1] == ']';
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;

    if (!len || len >= SV_HOST_MAX || !digits || digits >= SV_PORT_MAX || colon[1 + digits] ||
        (!bracket && memchr(text, ':', len)) || !strtoul(colon + 1, NULL, 10) ||
        strtoul(colon + 1, NULL, 10) > 65535) {
        return SV_E_INVALID;
    }
    len -= 2 * bracket;
    memcpy(host, text + bracket, len);
    host[len] = '\0';
    memcpy(port, colon + 1, digits + 1);
    return 0;
}

int sv_host_numeric(struct sv_address *address, const char *host)
{
    *address = (struct sv_address){0};
    return sv_addr_parse(address->ip, host);
}

/* ---- the thread ---- */

/* What the thread and whoever asked share; the last to let go of it frees it. */
struct job {
    atomic_int holders;
    atomic_bool ready;
    int done; /* eventfd: look whether it is ready */
    char host[SV_HOST_MAX];
    struct sv_addresses addresses;
    char why[WHY_MAX];
};

struct sv_lookup {
    struct job *job;
    struct sv_watch *watch;
    void (*found)(void *ctx, const struct sv_addresses *addresses, const char *why);
    void *ctx;
};

static void let_go(struct job *job)
{
    if (atomic_fetch_sub(&job->holders, 1) == 1) {
        close(job->done);
        free(job);
    }
}

static void *run(void *ctx)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM};
    struct job *job = ctx;
    struct addrinfo *list = NULL;
    int error = getaddrinfo(job->host, NULL, &hints, &list);

    keep(&job->addresses, list);
    if (list) {
        freeaddrinfo(list);
    }
    if (!job->addresses.count) {
        snprintf(job->why, sizeof job->why, "%s: %s", job->host,
                 error ? gai_strerror(error) : "no address for it");
    }
    atomic_store(&job->ready, true);
    eventfd_write(job->done, 1);
    let_go(job);
    return NULL;
}

/* Signals belong to the program's own threads. */
static int start_thread(struct job *job)
{
    pthread_attr_t detached;
    sigset_t all, before;
    pthread_t thread;
    int error;

    sigfillset(&all);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &detached, run, job);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    return error;
}

static struct job *job_new(const char *host)
{
    struct job *job = calloc(1, sizeof *job);

    if (!job) {
        return NULL;
    }
    job->done = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (job->done < 0) {
        free(job);
        return NULL;
    }
    atomic_init(&job->holders, 1);
    snprintf(job->host, sizeof job->host, "%s", host);
    return job;
}

/* ---- asking ---- */

void sv_lookup_drop(struct sv_lookup *lookup)
{
    if (!lookup) {
        return;
    }
    if (lookup->watch) {
        sv_watch_close(lookup->watch);
    }
    let_go(lookup->job);
    free(lookup);
}

static void on_done(void *ctx, int events)
{
    struct sv_lookup *lookup = ctx;
    struct sv_lookup asked = *lookup;

    (void)events;
    if (!atomic_load(&asked.job->ready)) {
        return;
    }
    atomic_fetch_add(&asked.job->holders, 1);
    sv_lookup_drop(lookup);
    asked.found(asked.ctx, &asked.job->addresses, asked.job->why);
    let_go(asked.job);
}

int sv_lookup_start(struct sv_lookup **out, struct sv_loop *loop, const char *host,
                    void (*found)(void *ctx, const struct sv_addresses *addresses, const char *why),
                    void *ctx)
{
    struct sv_lookup *lookup = calloc(1, sizeof *lookup);

    if (!lookup) {
        return SV_E_NOMEM;
    }
    *lookup = (struct sv_lookup){.job = job_new(host), .found = found, .ctx = ctx};
    if (!lookup->job) {
        free(lookup);
        return SV_E_NOMEM;
    }
    lookup->watch = sv_watch_new(loop, lookup->job->done, on_done, lookup);
    if (!lookup->watch) {
        sv_lookup_drop(lookup);
        return SV_E_NOMEM;
    }
    atomic_fetch_add(&lookup->job->holders, 1);
    if (start_thread(lookup->job)) {
        let_go(lookup->job);
        sv_lookup_drop(lookup);
        return SV_E_SYSTEM;
    }
    sv_watch_set(lookup->watch, SV_READABLE);
    *out = lookup;
    return 0;
}
