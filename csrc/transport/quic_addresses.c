#include "transport/quic_addresses.h"

#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

static const uint64_t PATIENCE = 250 * SV_NS_PER_MS;

int sv_quic_addresses_init(struct sv_quic_addresses *addresses, const char *text,
                           const struct sv_addresses *known)
{
    struct sv_addresses numeric = {.count = 1};
    char port[SV_PORT_MAX];

    if (sv_host_split(text, addresses->host, port)) {
        return sv_fail(SV_E_INVALID, "serverUrl: %s is not host:port", text ? text : "");
    }
    if (!known) {
        if (sv_host_numeric(&numeric.list[0], addresses->host)) {
            return sv_fail(SV_E_INVALID, "serverUrl: %s is a name", text);
        }
        known = &numeric;
    }
    for (size_t i = 0; i < known->count; i++) {
        sv_address_to_socket(&addresses->list[addresses->count++], &known->list[i],
                             (uint16_t)strtoul(port, NULL, 10));
    }
    addresses->patience = PATIENCE;
    return 0;
}

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
