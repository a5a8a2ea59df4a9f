/* A host's addresses by the system's resolver, each on a thread of its own: it may take a minute, nothing can hurry it, and no loop waits for it. */
#ifndef SV_IO_LOOKUP_H
#define SV_IO_LOOKUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "io/loop.h"

enum {
    SV_HOST_MAX = 256,
    SV_PORT_MAX = 6,
    SV_ADDRESSES_MAX = 8,
};

struct sv_address {
    uint8_t ip[16];
    uint32_t scope; /* of a link-local one: the interface; else 0 */
};

/* In the order in which they are to be tried, none twice. */
struct sv_addresses {
    struct sv_address list[SV_ADDRESSES_MAX];
    size_t count;
};

bool sv_addresses_have(const struct sv_addresses *addresses, const struct sv_address *one);
/* At the end, where there is room and it is not there yet. */
void sv_addresses_add(struct sv_addresses *addresses, const struct sv_address *one);
void sv_address_to_socket(struct sockaddr_storage *addr, const struct sv_address *from, uint16_t port);

/* "name:port", "1.2.3.4:5", "[v6]:5"; the host without brackets. SV_E_INVALID. */
int sv_host_split(const char *text, char host[SV_HOST_MAX], char port[SV_PORT_MAX]);
/* The address that the host is as it stands. SV_E_INVALID: it is a name. */
int sv_host_numeric(struct sv_address *address, const char *host);

struct sv_lookup;

/* found comes once, from the loop, and the lookup is gone then; count 0: `why` has the words. SV_E_NOMEM, SV_E_SYSTEM. */
int sv_lookup_start(struct sv_lookup **lookup, struct sv_loop *loop, const char *host,
                    void (*found)(void *ctx, const struct sv_addresses *addresses, const char *why),
                    void *ctx);
/* found does not come any more; the thread ends by itself. NULL is fine. */
void sv_lookup_drop(struct sv_lookup *lookup);

#endif
