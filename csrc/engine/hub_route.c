/* What workers ask of the hub for each packet, without a lock. */
#include <netinet/in.h>
#include <string.h>

#include "engine/hub.h"

struct sv_conn *sv_hub_route(struct sv_engine *engine, const uint8_t dst[16])
{
    return sv_map_get(&engine->hub->routes, dst);
}

struct sv_limiter *sv_hub_limiter(const struct sv_client *client)
{
    return atomic_load_explicit(&client->limiter, memory_order_acquire);
}

int sv_hub_priority(const struct sv_client *client)
{
    return atomic_load_explicit(&client->policy, memory_order_acquire)->priority;
}

static bool is_gateway(const struct sv_hub *hub, const uint8_t addr[16])
{
    return memcmp(addr, hub->gateway4, 16) == 0 || (hub->has6 && memcmp(addr, hub->gateway6, 16) == 0);
}

/* DNS is a datagram or a TCP connection, whole or its first fragment: a later fragment says no port. */
static bool may_reach_host(const struct sv_ip *ip)
{
    return ip->proto == IPPROTO_ICMP || ip->proto == IPPROTO_ICMPV6 || ip->dst_port == 53;
}

enum sv_verdict sv_hub_check_destination(const struct sv_hub *hub, const struct sv_client *client,
                                         const struct sv_ip *ip)
{
    if (hub->deny_host_access && is_gateway(hub, ip->dst) && !may_reach_host(ip)) {
        return SV_DROP_ACL;
    }
    if (!client) {
        return sv_acl_never(ip->dst) ? SV_DROP_ACL : SV_PASS;
    }
    return sv_policy_check_destination(atomic_load_explicit(&client->policy, memory_order_acquire), ip->dst);
}
