#include "packet/icmp.h"

#include <netinet/in.h>
#include <string.h>

#include "base/bytes.h"
#include "packet/checksum.h"

/* How much is quoted: RFC 1812 section 4.3.2.3 and RFC 4443 section 2.4 (c). */
enum { ICMP_HEADER = 8, ICMP4_MAX = 576, TTL = 64, TOS_NETWORK_CONTROL = 0xC0, IP4_DF = 0x4000 };
enum {
    ICMP4_UNREACHABLE = 3,
    ICMP4_SOURCE_QUENCH,
    ICMP4_REDIRECT,
    ICMP4_TIME_EXCEEDED = 11,
    ICMP4_PARAMETER_PROBLEM
};
enum { ICMP4_CODE_HOST = 1, ICMP4_CODE_TOO_BIG = 4, ICMP4_CODE_PROHIBITED = 13 };
enum { ICMP6_UNREACHABLE = 1, ICMP6_TOO_BIG = 2, ICMP6_INFORMATION = 128, ICMP6_REDIRECT = 137 };
enum { ICMP6_CODE_NO_ROUTE = 0, ICMP6_CODE_PROHIBITED = 1 };

struct answer {
    uint8_t type, code;
    uint32_t rest; /* the header's last four bytes */
};

static const uint8_t MAPPED[12] = {[10] = 0xFF, [11] = 0xFF};
static const uint8_t ZERO[16];

/* ---- whether to answer ---- */

static bool is_error4(uint8_t type)
{
    return (type >= ICMP4_UNREACHABLE && type <= ICMP4_REDIRECT) || type == ICMP4_TIME_EXCEEDED ||
           type == ICMP4_PARAMETER_PROBLEM;
}

static bool is_error6(uint8_t type)
{
    return type < ICMP6_INFORMATION || type == ICMP6_REDIRECT;
}

/* One too short to show its type counts as an error. */
static bool is_icmp_error(const uint8_t *packet, const struct sv_ip *ip)
{
    if (ip->proto != (ip->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
        return false;
    }
    if (ip->len == ip->header_len) {
        return true;
    }
    return ip->version == 4 ? is_error4(packet[ip->header_len]) : is_error6(packet[ip->header_len]);
}

static bool is_single_host(const uint8_t addr[16], uint8_t version)
{
    if (version == 6) {
        return addr[0] != 0xFF && memcmp(addr, ZERO, 16) != 0;
    }
    return addr[12] != 0 && addr[12] != 127 && addr[12] < 224;
}

static bool may_answer(const uint8_t *packet, const struct sv_ip *ip, const uint8_t source[16])
{
    bool source4 = memcmp(source, MAPPED, 12) == 0;

    return source4 == (ip->version == 4) && is_single_host(source, ip->version) &&
           is_single_host(ip->src, ip->version) && is_single_host(ip->dst, ip->version) &&
           (!ip->fragment || ip->first_fragment) && !is_icmp_error(packet, ip);
}

/* ---- the answer ---- */

/* All but the checksum; bytes of the ICMP message. */
static size_t write_message(uint8_t *icmp, const struct answer *answer, const uint8_t *packet, size_t quote)
{
    icmp[0] = answer->type;
    icmp[1] = answer->code;
    sv_store16be(icmp + 2, 0);
    sv_store32be(icmp + 4, answer->rest);
    memcpy(icmp + ICMP_HEADER, packet, quote);
    return ICMP_HEADER + quote;
}

static size_t quoted(const struct sv_ip *ip, size_t room)
{
    return ip->len < room ? ip->len : room;
}

/* With DF it is an atomic datagram, which needs no ID (RFC 6864). */
static size_t write4(uint8_t *dst, const struct answer *answer, const uint8_t *packet, const struct sv_ip *ip,
                     const uint8_t source[16])
{
    uint8_t *icmp = dst + SV_IP4_HEADER;
    size_t n = write_message(icmp, answer, packet, quoted(ip, ICMP4_MAX - SV_IP4_HEADER - ICMP_HEADER));

    sv_store16be(icmp + 2, (uint16_t)~sv_checksum_fold(sv_checksum_add(0, icmp, n)));
    dst[0] = 0x45;
    dst[1] = TOS_NETWORK_CONTROL;
    sv_store16be(dst + 2, (uint16_t)(SV_IP4_HEADER + n));
    sv_store16be(dst + 4, 0);
    sv_store16be(dst + 6, IP4_DF);
    dst[8] = TTL;
    dst[9] = IPPROTO_ICMP;
    memcpy(dst + 12, source + 12, 4);
    memcpy(dst + 16, ip->src + 12, 4);
    sv_checksum_ip4(dst, SV_IP4_HEADER);
    return SV_IP4_HEADER + n;
}

static size_t write6(uint8_t *dst, const struct answer *answer, const uint8_t *packet, const struct sv_ip *ip,
                     const uint8_t source[16])
{
    uint8_t *icmp = dst + SV_IP6_HEADER;
    size_t n = write_message(icmp, answer, packet, quoted(ip, SV_ICMP_MAX - SV_IP6_HEADER - ICMP_HEADER));
    struct sv_ip way = {.version = 6};
    uint64_t sum;

    memcpy(way.src, source, 16);
    memcpy(way.dst, ip->src, 16);
    sum = sv_checksum_add(sv_checksum_pseudo(&way, IPPROTO_ICMPV6, (uint32_t)n), icmp, n);
    sv_store16be(icmp + 2, (uint16_t)~sv_checksum_fold(sum));
    sv_store32be(dst, UINT32_C(0x60000000));
    sv_store16be(dst + 4, (uint16_t)n);
    dst[6] = IPPROTO_ICMPV6;
    dst[7] = TTL;
    memcpy(dst + 8, way.src, 16);
    memcpy(dst + 24, way.dst, 16);
    return SV_IP6_HEADER + n;
}

static size_t respond(uint8_t *dst, const struct answer *answer, const uint8_t *packet,
                      const struct sv_ip *ip, const uint8_t source[16])
{
    if (!may_answer(packet, ip, source)) {
        return 0;
    }
    return ip->version == 4 ? write4(dst, answer, packet, ip, source)
                            : write6(dst, answer, packet, ip, source);
}

size_t sv_icmp_too_big(uint8_t dst[SV_ICMP_MAX], const uint8_t *packet, const struct sv_ip *ip,
                       const uint8_t source[16], uint16_t mtu)
{
    struct answer four = {ICMP4_UNREACHABLE, ICMP4_CODE_TOO_BIG, mtu}, six = {ICMP6_TOO_BIG, 0, mtu};

    return respond(dst, ip->version == 4 ? &four : &six, packet, ip, source);
}

size_t sv_icmp_unreachable(uint8_t dst[SV_ICMP_MAX], const uint8_t *packet, const struct sv_ip *ip,
                           const uint8_t source[16], enum sv_unreachable why)
{
    static const struct answer four[] = {
        [SV_UNREACHABLE_HOST] = {ICMP4_UNREACHABLE, ICMP4_CODE_HOST, 0},
        [SV_UNREACHABLE_PROHIBITED] = {ICMP4_UNREACHABLE, ICMP4_CODE_PROHIBITED, 0},
    };
    static const struct answer six[] = {
        [SV_UNREACHABLE_HOST] = {ICMP6_UNREACHABLE, ICMP6_CODE_NO_ROUTE, 0},
        [SV_UNREACHABLE_PROHIBITED] = {ICMP6_UNREACHABLE, ICMP6_CODE_PROHIBITED, 0},
    };

    return respond(dst, ip->version == 4 ? &four[why] : &six[why], packet, ip, source);
}
