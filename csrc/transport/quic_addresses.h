/* A server's addresses: its name is looked up without blocking the loop, then each has its turn, round after round (RFC 8305). */
#ifndef SV_TRANSPORT_QUIC_ADDRESSES_H
#define SV_TRANSPORT_QUIC_ADDRESSES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "io/loop.h"

enum {
    SV_QUIC_HOST_MAX = 256,
    SV_QUIC_PORT_MAX = 6,
    SV_QUIC_ADDRESSES_MAX = 8,
};

struct sv_quic_lookup;

struct sv_quic_addresses {
    char host[SV_QUIC_HOST_MAX], port[SV_QUIC_PORT_MAX];
    struct sv_quic_lookup *lookup; /* under way */
    struct sockaddr_storage list[SV_QUIC_ADDRESSES_MAX];
    size_t count, at;  /* at < count where there is any */
    uint64_t patience; /* ns: what an address has to answer in before the next one's turn */
};

/* "name:port", "1.2.3.4:5", "[v6]:5"; *addresses is all zeros before. SV_E_INVALID with words. */
int sv_quic_addresses_init(struct sv_quic_addresses *addresses, const char *text);
/* found comes once, from the loop: error is 0, or SV_E_UNREACHABLE and `why` has the words. SV_E_NOMEM, SV_E_SYSTEM: it does not come. */
int sv_quic_addresses_look_up(struct sv_quic_addresses *addresses, struct sv_loop *loop,
                              void (*found)(void *ctx, int error, const char *why), void *ctx);
/* found does not come any more. */
void sv_quic_addresses_clear(struct sv_quic_addresses *addresses);

/* The one whose turn it is; NULL: there is none left. */
const struct sockaddr_storage *sv_quic_addresses_now(const struct sv_quic_addresses *addresses);
/* The next one's turn. After the last comes the first again, and each has twice the time, for paths that take longer. */
void sv_quic_addresses_pass(struct sv_quic_addresses *addresses);
/* It cannot be used from here: the next one's turn, for good. */
void sv_quic_addresses_forget(struct sv_quic_addresses *addresses);

#endif
