#include "packet/checksum.h"

#include <netinet/in.h>
#include <string.h>

#include "base/bytes.h"

/* Sums in the machine's own order (RFC 1071, section 2 (B)): 32-bit words into 64-bit sums, four at a time. */
static uint64_t sum_native(const uint8_t *bytes, size_t len)
{
    uint64_t a = 0, b = 0, c = 0, d = 0;
    uint32_t w[4];

    for (; len >= 16; len -= 16, bytes += 16) {
        memcpy(w, bytes, 16);
        a += w[0];
        b += w[1];
        c += w[2];
        d += w[3];
    }
    for (; len >= 4; len -= 4, bytes += 4) {
        memcpy(w, bytes, 4);
        a += w[0];
    }
    if (len) {
        uint32_t last = 0;

        memcpy(&last, bytes, len);
        b += last;
    }
    return a + b + c + d;
}

static uint16_t fold_native(uint64_t sum)
{
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)sum;
}

uint64_t sv_checksum_add(uint64_t sum, const uint8_t *bytes, size_t len)
{
    uint16_t native = fold_native(sum_native(bytes, len));

    return sum + sv_load16be((const uint8_t *)&native);
}

uint16_t sv_checksum_fold(uint64_t sum)
{
    return fold_native(sum);
}

uint64_t sv_checksum_pseudo(const struct sv_ip *ip, uint8_t proto, uint32_t l4_len)
{
    uint64_t sum = proto + (uint64_t)(l4_len >> 16) + (l4_len & 0xFFFF);
    size_t skip = ip->version == 4 ? 12 : 0;

    sum = sv_checksum_add(sum, ip->src + skip, 16 - skip);
    return sv_checksum_add(sum, ip->dst + skip, 16 - skip);
}

void sv_checksum_complete(uint8_t *packet, size_t len, uint16_t start, uint16_t offset)
{
    uint16_t sum;

    if ((size_t)start + offset + 2 > len) {
        return;
    }
    sum = (uint16_t)~sv_checksum_fold(sv_checksum_add(0, packet + start, len - start));
    sv_store16be(packet + start + offset, sum ? sum : 0xFFFF);
}

bool sv_checksum_l4_valid(const uint8_t *packet, const struct sv_ip *ip)
{
    const uint8_t *l4 = packet + ip->header_len;
    uint32_t l4_len = ip->len - ip->header_len;

    if (ip->proto == IPPROTO_UDP) {
        if (sv_load16be(l4 + 4) != l4_len) {
            return false;
        }
        if (sv_load16be(l4 + 6) == 0) {
            return ip->version == 4;
        }
    }
    return sv_checksum_fold(sv_checksum_add(sv_checksum_pseudo(ip, ip->proto, l4_len), l4, l4_len)) == 0xFFFF;
}

void sv_checksum_ip4(uint8_t *packet, size_t header_len)
{
    sv_store16be(packet + 10, 0);
    sv_store16be(packet + 10, (uint16_t)~sv_checksum_fold(sv_checksum_add(0, packet, header_len)));
}
