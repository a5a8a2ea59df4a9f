/* Who is at the other side of the proxies in front of an HTTP server. Pure. */
#ifndef SV_TRANSPORT_WS_FORWARDED_H
#define SV_TRANSPORT_WS_FORWARDED_H

#include "policy/prefix.h"

bool sv_ws_is_trusted(const struct sv_prefix *proxies, size_t count, const uint8_t addr[16]);

/* The rightmost entry of X-Forwarded-For that is not a trusted proxy (what stands left of it anybody may have written), or the leftmost that could
 * be read. The list is cut up. false: not even the rightmost is an address; source is unchanged. */
bool sv_ws_forwarded_source(uint8_t source[16], char *list, const struct sv_prefix *proxies, size_t count);

#endif
