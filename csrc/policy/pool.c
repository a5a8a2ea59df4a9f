#include "policy/pool.h"

#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum { HOSTS_MAX = 1 << 24, FIRST = 2 }; /* 0 is the network, 1 the hub */

struct sv_pool {
    struct sv_prefix subnet, subnet6;
    bool has6;
    uint32_t hosts; /* indexes FIRST … hosts - 1 are given out */
    uint32_t hint;  /* none below it is free */
    size_t available;
    uint64_t taken[]; /* a bit per index */
};

int sv_pool_new(struct sv_pool **out, const struct sv_prefix *subnet, const struct sv_prefix *subnet6)
{
    unsigned host_bits = 128u - subnet->bits;
    struct sv_pool *pool;
    uint64_t hosts;

    if (!sv_addr_is4(subnet->addr) || subnet->bits < 96 || host_bits < 2 ||
        (subnet6 && 128u - subnet6->bits < host_bits)) {
        return SV_E_INVALID;
    }
    hosts = (UINT64_C(1) << host_bits) - 1; /* without the broadcast address */
    hosts = hosts > HOSTS_MAX ? HOSTS_MAX : hosts;
    pool = calloc(1, sizeof *pool + (hosts + 63) / 64 * sizeof pool->taken[0]);
    if (!pool) {
        return SV_E_NOMEM;
    }
    pool->subnet = *subnet;
    pool->has6 = subnet6 != NULL;
    if (subnet6) {
        pool->subnet6 = *subnet6;
    }
    pool->hosts = (uint32_t)hosts;
    pool->hint = FIRST;
    pool->available = hosts - FIRST;
    *out = pool;
    return 0;
}

void sv_pool_free(struct sv_pool *pool)
{
    free(pool);
}

static bool is_taken(const struct sv_pool *pool, uint32_t index)
{
    return pool->taken[index / 64] >> index % 64 & 1;
}

static void mark(struct sv_pool *pool, uint32_t index)
{
    pool->taken[index / 64] |= UINT64_C(1) << index % 64;
    pool->available--;
}

int sv_pool_take(struct sv_pool *pool, uint32_t *index)
{
    for (uint32_t i = pool->hint; i < pool->hosts; i++) {
        if (i % 64 == 0 && pool->taken[i / 64] == UINT64_MAX) {
            i += 63;
            continue;
        }
        if (!is_taken(pool, i)) {
            mark(pool, i);
            pool->hint = i + 1;
            *index = i;
            return 0;
        }
    }
    pool->hint = pool->hosts;
    return SV_E_FULL;
}

int sv_pool_take_index(struct sv_pool *pool, uint32_t index)
{
    if (index < FIRST || index >= pool->hosts) {
        return SV_E_INVALID;
    }
    if (is_taken(pool, index)) {
        return SV_E_EXISTS;
    }
    mark(pool, index);
    return 0;
}

void sv_pool_release(struct sv_pool *pool, uint32_t index)
{
    if (index < FIRST || index >= pool->hosts || !is_taken(pool, index)) {
        return;
    }
    pool->taken[index / 64] &= ~(UINT64_C(1) << index % 64);
    pool->available++;
    pool->hint = index < pool->hint ? index : pool->hint;
}

size_t sv_pool_available(const struct sv_pool *pool)
{
    return pool->available;
}

static void add_index(uint8_t addr[16], uint32_t index)
{
    uint64_t low = sv_load64be(addr + 8) + index;

    sv_store64be(addr + 8, low);
}

void sv_pool_addr4(const struct sv_pool *pool, uint32_t index, uint8_t addr[16])
{
    memcpy(addr, pool->subnet.addr, 16);
    add_index(addr, index);
}

bool sv_pool_addr6(const struct sv_pool *pool, uint32_t index, uint8_t addr[16])
{
    if (pool->has6) {
        memcpy(addr, pool->subnet6.addr, 16);
        add_index(addr, index);
    }
    return pool->has6;
}

int sv_pool_index(const struct sv_pool *pool, const uint8_t addr[16], uint32_t *index)
{
    const struct sv_prefix *subnet = sv_addr_is4(addr) ? &pool->subnet : &pool->subnet6;
    uint64_t offset;

    if ((subnet == &pool->subnet6 && !pool->has6) || !sv_prefix_contains(subnet, addr)) {
        return SV_E_INVALID;
    }
    offset = sv_load64be(addr + 8) - sv_load64be(subnet->addr + 8);
    if (memcmp(addr, subnet->addr, 8) != 0 || offset < FIRST || offset >= pool->hosts) {
        return SV_E_INVALID;
    }
    *index = (uint32_t)offset;
    return 0;
}
