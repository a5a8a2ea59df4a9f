#include "packet/icmp.h"

#include <netinet/in.h>
#include <string.h>

#include "base/bytes.h"
#include "packet/checksum.h"

enum { ICMP_HEADER = 8, ICMP4_QUOTE_MAX = 576 - SV_IP4_HEADER - ICMP_HEADER, TTL = 64 };
enum { ICMP4_UNREACHABLE = 3, ICMP4_HOST = 1, ICMP4_TOO_BIG = 4, ICMP4_PROHIBITED = 13 };
enum { ICMP6_UNREACHABLE = 1, ICMP6_TOO_BIG = 2, ICMP6_NO_ROUTE = 0, ICMP6_PROHIBITED = 1 };

static const uint8_t MAPPED[12] = { [10] = 0xFF, [11] = 0xFF };
static const uint8_t ZERO[16];

static bool is_icmp_error(const uint8_t *packet, const struct sv_ip *ip)
{
    uint8_t type;

    if (ip->len <= ip->header_len) {
        return ip->proto == IPPROTO_ICMP || ip->proto == IPPROTO_ICMPV6;
    }
    type = packet[ip->header_len];
    if (ip->version == 6) {
        return ip->proto == IPPROTO_ICMPV6 && type < 128;
    }
    return ip->proto == IPPROTO_ICMP && type != 0 && type != 8 && type != 13 && type != 14;
}

static bool is_single_host(const uint8_t addr[16], uint8_t version)
{
    if (version == 6) {
        return addr[0] != 0xFF && memcmp(addr, ZERO, 16) != 0;
    }
    return addr[12] != 0 && addr[12] < 224;
}

static bool may_answer(const uint8_t *packet, const struct sv_ip *ip, const uint8_t source[16])
{
    bool source4 = memcmp(source, MAPPED, 12) == 0;

    return source4 == (ip->version == 4) && is_single_host(source, ip->version) && is_single_host(ip->src, ip->version) &&
           is_single_host(ip->dst, ip->version) && (!ip->fragment || ip->first_fragment) && !is_icmp_error(packet, ip);
}

static size_t answer4(uint8_t *dst, const uint8_t *packet, const struct sv_ip *ip, const uint8_t source[16], uint8_t type, uint8_t code,
                      uint32_t rest)
{
    size_t quote = ip->len < ICMP4_QUOTE_MAX ? ip->len : ICMP4_QUOTE_MAX;
    size_t len = SV_IP4_HEADER + ICMP_HEADER + quote;
    uint8_t *icmp = dst + SV_IP4_HEADER;

    memset(dst, 0, SV_IP4_HEADER + ICMP_HEADER);
    dst[0] = 0x45;
    sv_store16be(dst + 2, (uint16_t)len);
    dst[8] = TTL;
    dst[9] = IPPROTO_ICMP;
    memcpy(dst + 12, source + 12, 4);
    memcpy(dst + 16, ip->src + 12, 4);
    sv_checksum_ip4(dst, SV_IP4_HEADER);
    icmp[0] = type;
    icmp[1] = code;
    sv_store32be(icmp + 4, rest);
    memcpy(icmp + ICMP_HEADER, packet, quote);
    sv_store16be(icmp + 2, (uint16_t)~sv_checksum_fold(sv_checksum_add(0, icmp, ICMP_HEADER + quote)));
    return len;
}

static size_t answer6(uint8_t *dst, const uint8_t *packet, const struct sv_ip *ip, const uint8_t source[16], uint8_t type, uint8_t code,
                      uint32_t rest)
{
    size_t most = SV_ICMP_MAX - SV_IP6_HEADER - ICMP_HEADER;
    size_t quote = ip->len < most ? ip->len : most;
    size_t l4_len = ICMP_HEADER + quote;
    uint8_t *icmp = dst + SV_IP6_HEADER;
    struct sv_ip answer = { .version = 6 };
    uint64_t sum;

    memset(dst, 0, SV_IP6_HEADER + ICMP_HEADER);
    dst[0] = 0x60;
    sv_store16be(dst + 4, (uint16_t)l4_len);
    dst[6] = IPPROTO_ICMPV6;
    dst[7] = TTL;
    memcpy(answer.src, source, 16);
    memcpy(answer.dst, ip->src, 16);
    memcpy(dst + 8, answer.src, 16);
    memcpy(dst + 24, answer.dst, 16);
    icmp[0] = type;
    icmp[1] = code;
    sv_store32be(icmp + 4, rest);
    memcpy(icmp + ICMP_HEADER, packet, quote);
    sum = sv_checksum_add(sv_checksum_pseudo(&answer, IPPROTO_ICMPV6, (uint32_t)l4_len), icmp, l4_len);
    sv_store16be(icmp + 2, (uint16_t)~sv_checksum_fold(sum));
    return SV_IP6_HEADER + l4_len;
}

size_t sv_icmp_too_big(uint8_t dst[SV_ICMP_MAX], const uint8_t *packet, const struct sv_ip *ip, const uint8_t source[16], uint16_t mtu)
{
    if (!may_answer(packet, ip, source)) {
        return 0;
    }
    return ip->version == 4 ? answer4(dst, packet, ip, source, ICMP4_UNREACHABLE, ICMP4_TOO_BIG, mtu)
                            : answer6(dst, packet, ip, source, ICMP6_TOO_BIG, 0, mtu);
}

size_t sv_icmp_unreachable(uint8_t dst[SV_ICMP_MAX], const uint8_t *packet, const struct sv_ip *ip, const uint8_t source[16],
                           enum sv_unreachable why)
{
    bool prohibited = why == SV_UNREACHABLE_PROHIBITED;

    if (!may_answer(packet, ip, source)) {
        return 0;
    }
    return ip->version == 4
               ? answer4(dst, packet, ip, source, ICMP4_UNREACHABLE, prohibited ? ICMP4_PROHIBITED : ICMP4_HOST, 0)
               : answer6(dst, packet, ip, source, ICMP6_UNREACHABLE, prohibited ? ICMP6_PROHIBITED : ICMP6_NO_ROUTE, 0);
}
