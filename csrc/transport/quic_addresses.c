#include "transport/quic_addresses.h"

#include <netdb.h>
#include <smartvpn/base.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/heap.h"

enum { WHY_MAX = 160 };

static const uint64_t PATIENCE = 250 * SV_NS_PER_MS;

/* Outlives what asked for it when that ends first. */
struct sv_quic_lookup {
    uv_getaddrinfo_t request;
    struct sv_quic_addresses *addresses;
    struct sv_loop *loop;
    void (*found)(void *ctx, int error, const char *why);
    void *ctx;
};

/* ---- names ---- */

int sv_quic_addresses_init(struct sv_quic_addresses *addresses, const char *text)
{
    const char *colon = text ? strrchr(text, ':') : NULL;
    size_t host = colon ? (size_t)(colon - text) : 0;
    unsigned long port = colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, NULL, 10) : 0;
    bool bracket = host >= 2 && text[0] == '[' && text[host - 1] == ']';

    if (!host || host >= SV_QUIC_HOST_MAX || !port || port > 65535 || strlen(colon + 1) >= SV_QUIC_PORT_MAX ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || (!bracket && memchr(text, ':', host))) {
        return sv_fail(SV_E_INVALID, "serverUrl: %s is not host:port", text ? text : "");
    }
    memcpy(addresses->host, text + bracket, host - 2 * bracket);
    strcpy(addresses->port, colon + 1);
    addresses->patience = PATIENCE;
    return 0;
}

static void keep(struct sv_quic_addresses *addresses, const struct addrinfo *list)
{
    for (; list && addresses->count < SV_QUIC_ADDRESSES_MAX; list = list->ai_next) {
        memcpy(&addresses->list[addresses->count++], list->ai_addr, list->ai_addrlen);
    }
}

static void on_looked_up(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct sv_quic_lookup *lookup = SV_CONTAINER_OF(request, struct sv_quic_lookup, request);
    struct sv_quic_addresses *addresses = lookup->addresses;
    char why[WHY_MAX] = "";

    if (addresses) {
        sv_loop_wake(lookup->loop);
        addresses->lookup = NULL;
        keep(addresses, list);
        if (status) {
            snprintf(why, sizeof why, "%.100s: %s", addresses->host, uv_strerror(status));
        }
        lookup->found(lookup->ctx, status ? SV_E_UNREACHABLE : 0, why);
    }
    uv_freeaddrinfo(list);
    free(lookup);
}

int sv_quic_addresses_look_up(struct sv_quic_addresses *addresses, struct sv_loop *loop,
                              void (*found)(void *ctx, int error, const char *why), void *ctx)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM};
    struct sv_quic_lookup *lookup = calloc(1, sizeof *lookup);

    if (!lookup) {
        return SV_E_NOMEM;
    }
    lookup->addresses = addresses;
    lookup->loop = loop;
    lookup->found = found;
    lookup->ctx = ctx;
    if (uv_getaddrinfo(&loop->uv, &lookup->request, on_looked_up, addresses->host, addresses->port, &hints)) {
        free(lookup);
        return SV_E_SYSTEM;
    }
    addresses->lookup = lookup;
    return 0;
}

void sv_quic_addresses_clear(struct sv_quic_addresses *addresses)
{
    if (addresses->lookup) {
        addresses->lookup->addresses = NULL;
        uv_cancel((uv_req_t *)&addresses->lookup->request);
        addresses->lookup = NULL;
    }
}

/* ---- turns ---- */

const struct sockaddr_storage *sv_quic_addresses_now(const struct sv_quic_addresses *addresses)
{
    return addresses->count ? &addresses->list[addresses->at] : NULL;
}

static void come_round(struct sv_quic_addresses *addresses)
{
    if (addresses->at >= addresses->count) {
        addresses->at = 0;
        addresses->patience *= 2;
    }
}

void sv_quic_addresses_pass(struct sv_quic_addresses *addresses)
{
    addresses->at++;
    come_round(addresses);
}

void sv_quic_addresses_forget(struct sv_quic_addresses *addresses)
{
    struct sockaddr_storage *gone = &addresses->list[addresses->at];
    size_t after = --addresses->count - addresses->at;

    memmove(gone, gone + 1, after * sizeof *gone);
    come_round(addresses);
}
