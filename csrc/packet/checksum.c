#include "packet/checksum.h"

#include <netinet/in.h>
#include <string.h>

#include "base/bytes.h"

typedef uint64_t lanes __attribute__((vector_size(16)));

static const uint64_t LOW = 0xFFFFFFFF;

/* Two accumulators, because one would wait for its own last addition. Written as vectors: compilers do not
 * find this by themselves. */
static uint64_t sum_blocks(const uint8_t *bytes, size_t blocks)
{
    lanes a = {0}, b = {0};

    for (; blocks > 0; blocks--, bytes += 32) {
        lanes v, w;

        memcpy(&v, bytes, 16);
        memcpy(&w, bytes + 16, 16);
        a += v & LOW;
        a += v >> 32;
        b += w & LOW;
        b += w >> 32;
    }
    a += b;
    return a[0] + a[1];
}

/* Of fewer than 8 bytes, as if zeros followed. */
static uint64_t sum_tail(const uint8_t *bytes, size_t len)
{
    uint64_t sum = 0;
    uint32_t word;
    uint16_t half;

    if (len & 4) {
        memcpy(&word, bytes, 4);
        sum += word;
        bytes += 4;
    }
    if (len & 2) {
        memcpy(&half, bytes, 2);
        sum += half;
        bytes += 2;
    }
    if (len & 1) {
        uint8_t last[2] = {*bytes, 0};

        memcpy(&half, last, 2);
        sum += half;
    }
    return sum;
}

/* In the machine's own byte order, which the sum allows (RFC 1071, section 2 (B)): 32-bit words into 64-bit
 * sums. */
static uint64_t sum_native(const uint8_t *bytes, size_t len)
{
    uint64_t sum = sum_blocks(bytes, len / 32);

    bytes += len & ~(size_t)31;
    for (len &= 31; len >= 8; len -= 8, bytes += 8) {
        uint64_t word;

        memcpy(&word, bytes, 8);
        sum += (word & LOW) + (word >> 32);
    }
    return sum + sum_tail(bytes, len);
}

uint16_t sv_checksum_fold(uint64_t sum)
{
    sum = (sum & LOW) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)sum;
}

uint64_t sv_checksum_add(uint64_t sum, const uint8_t *bytes, size_t len)
{
    uint16_t native = sv_checksum_fold(sum_native(bytes, len));

    return sum + sv_load16be((const uint8_t *)&native);
}

uint64_t sv_checksum_pseudo(const struct sv_ip *ip, uint8_t proto, uint32_t l4_len)
{
    uint64_t sum = proto + (uint64_t)l4_len;
    size_t skip = ip->version == 4 ? 12 : 0;

    sum = sv_checksum_add(sum, ip->src + skip, 16 - skip);
    return sv_checksum_add(sum, ip->dst + skip, 16 - skip);
}

/* A sum of 0 is written as 0xFFFF, its equal: in UDP 0 says that there is none. */
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

    if (!ip->l4_len) {
        return false;
    }
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

bool sv_checksum_ip4_valid(const uint8_t *packet, size_t header_len)
{
    return sv_checksum_fold(sv_checksum_add(0, packet, header_len)) == 0xFFFF;
}
