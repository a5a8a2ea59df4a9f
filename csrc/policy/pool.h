/* The hub's address pool: one index per host, the same in subnet and subnet6. The writer's; not thread-safe.
 *
 * Index 0 is the network, 1 the gateway, the last IPv4 one the broadcast address: none of these is ever given out. At most 2^24 hosts are
 * managed (of a greater subnet the first ones); memory is one bit per host.
 */
#ifndef SV_POLICY_POOL_H
#define SV_POLICY_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "policy/prefix.h"

struct sv_pool;

/* subnet6 may be NULL; it must have at least as many host bits as subnet. SV_E_INVALID, SV_E_NOMEM. */
int sv_pool_new(struct sv_pool **pool, const struct sv_prefix *subnet, const struct sv_prefix *subnet6);
void sv_pool_free(struct sv_pool *pool);

/* The lowest free index. SV_E_FULL. */
int sv_pool_take(struct sv_pool *pool, uint32_t *index);
/* Exactly this one. SV_E_EXISTS when taken, SV_E_INVALID when it can't be given out. */
int sv_pool_take_index(struct sv_pool *pool, uint32_t index);
void sv_pool_release(struct sv_pool *pool, uint32_t index);
size_t sv_pool_available(const struct sv_pool *pool);

/* addr of the index; addr6: false when there is no subnet6. */
void sv_pool_addr4(const struct sv_pool *pool, uint32_t index, uint8_t addr[16]);
bool sv_pool_addr6(const struct sv_pool *pool, uint32_t index, uint8_t addr[16]);
/* The index of an address of either subnet. SV_E_INVALID when it's outside or can't be given out. */
int sv_pool_index(const struct sv_pool *pool, const uint8_t addr[16], uint32_t *index);

#endif
