/* Paths as ngtcp2 names them, and endpoints as io does. */
#include <string.h>

#include "transport/quic_conn.h"

void sv_quic_path_of(ngtcp2_path_storage *path, const struct sv_endpoint *from, uint16_t local_port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
    } local = {.any.sa_family = from->to.any.sa_family};
    bool v4 = local.any.sa_family == AF_INET;
    ngtcp2_socklen len = v4 ? sizeof local.in4 : sizeof local.in6;

    if (v4) {
        local.in4.sin_port = htons(local_port);
        local.in4.sin_addr = from->from.in4;
    } else {
        local.in6.sin6_port = htons(local_port);
        local.in6.sin6_addr = from->from.in6;
    }
    ngtcp2_path_storage_init(path, &local.any, len, &from->to.any, len, NULL);
}

void sv_quic_endpoint_of(struct sv_endpoint *endpoint, const ngtcp2_path *path)
{
    *endpoint = (struct sv_endpoint){0};
    memcpy(&endpoint->to, path->remote.addr, path->remote.addrlen);
    if (path->local.addr->sa_family == AF_INET) {
        endpoint->from.in4 = ((const struct sockaddr_in *)(const void *)path->local.addr)->sin_addr;
    } else {
        endpoint->from.in6 = ((const struct sockaddr_in6 *)(const void *)path->local.addr)->sin6_addr;
    }
}

uint16_t sv_quic_local_port(const ngtcp2_path *path)
{
    const struct sockaddr *addr = path->local.addr;

    return ntohs(addr->sa_family == AF_INET ? ((const struct sockaddr_in *)(const void *)addr)->sin_port
                                            : ((const struct sockaddr_in6 *)(const void *)addr)->sin6_port);
}
