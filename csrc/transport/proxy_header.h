/* The PROXY protocol's header, versions 1 and 2 (haproxy's proxy-protocol.txt): who is at the other side of the
 * proxy. Pure. */
#ifndef SV_TRANSPORT_PROXY_HEADER_H
#define SV_TRANSPORT_PROXY_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_PROXY_HEADER_V1_MAX = 107, /* bytes, CR LF included */
    SV_PROXY_HEADER_MAX = 4096,   /* of a version 2 with its TLVs, which are passed over */
};

enum sv_proxy_verdict {
    SV_PROXY_HEADER, /* there is one: length bytes */
    SV_PROXY_NONE,   /* the stream begins with something else */
    SV_PROXY_MORE,   /* cannot be told, or not whole, before there are `length` bytes */
    SV_PROXY_BAD,
};

struct sv_proxy_header {
    size_t length;
    bool has_source;    /* false (LOCAL, UNKNOWN, not TCP over IP): the socket's own peer is it */
    uint8_t source[16]; /* IPv4-mapped */
    uint16_t port;
};

/* Looks at the first bytes of a stream. With SV_PROXY_MORE, header->length is greater than len. */
enum sv_proxy_verdict sv_proxy_header_read(struct sv_proxy_header *header, const uint8_t *bytes, size_t len);

#endif
