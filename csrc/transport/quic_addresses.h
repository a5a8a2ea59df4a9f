/* A server's addresses: each has its turn, round after round (RFC 8305). */
#ifndef SV_TRANSPORT_QUIC_ADDRESSES_H
#define SV_TRANSPORT_QUIC_ADDRESSES_H

#include "io/lookup.h"

struct sv_quic_addresses {
    char host[SV_HOST_MAX];
    struct sockaddr_storage list[SV_ADDRESSES_MAX];
    size_t count, at;  /* at < count where there is any */
    uint64_t patience; /* ns: what an address has to answer in before the next one's turn */
};

/* "host:port", and where the host is (NULL: it is numeric); *addresses is all zeros before. SV_E_INVALID with words. */
int sv_quic_addresses_init(struct sv_quic_addresses *addresses, const char *text,
                           const struct sv_addresses *known);

/* The one whose turn it is; NULL: there is none left. */
const struct sockaddr_storage *sv_quic_addresses_now(const struct sv_quic_addresses *addresses);
/* The next one's turn. After the last comes the first again, and each has twice the time, for paths that take longer. */
void sv_quic_addresses_pass(struct sv_quic_addresses *addresses);
/* It cannot be used from here: the next one's turn, for good. */
void sv_quic_addresses_forget(struct sv_quic_addresses *addresses);

#endif
