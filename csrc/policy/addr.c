#include <arpa/inet.h>
#include <smartvpn/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy/prefix.h"

enum { TEXT_MAX = 64 };

int sv_addr_parse(uint8_t addr[16], const char *text)
{
    memset(addr, 0, 16);
    if (strchr(text, ':')) {
        return inet_pton(AF_INET6, text, addr) == 1 ? 0 : SV_E_INVALID;
    }
    addr[10] = addr[11] = 0xFF;
    return inet_pton(AF_INET, text, addr + 12) == 1 ? 0 : SV_E_INVALID;
}

char *sv_addr_format(char *dst, size_t size, const uint8_t addr[16])
{
    char text[INET6_ADDRSTRLEN] = "";

    if (sv_addr_is4(addr)) {
        inet_ntop(AF_INET, addr + 12, text, sizeof text);
    } else {
        inet_ntop(AF_INET6, addr, text, sizeof text);
    }
    snprintf(dst, size, "%s", text);
    return dst;
}

void sv_addr_mask(uint8_t addr[16], unsigned bits)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned keep = bits <= 8 * i ? 0 : bits - 8 * i < 8 ? bits - 8 * i : 8;

        addr[i] &= (uint8_t)(0xFF00u >> keep);
    }
}

static int parse_bits(const char *text, unsigned most, uint8_t *bits)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || end - text > 3 || value > most) {
        return SV_E_INVALID;
    }
    *bits = (uint8_t)value;
    return 0;
}

int sv_prefix_parse(struct sv_prefix *prefix, const char *text)
{
    const char *slash = strchr(text, '/');
    char host[TEXT_MAX];
    size_t n = slash ? (size_t)(slash - text) : strlen(text);
    bool is4;

    if (n >= sizeof host) {
        return SV_E_INVALID;
    }
    memcpy(host, text, n);
    host[n] = '\0';
    is4 = !strchr(host, ':');
    prefix->bits = is4 ? 32 : 128;
    if (sv_addr_parse(prefix->addr, host) || (slash && parse_bits(slash + 1, prefix->bits, &prefix->bits))) {
        return SV_E_INVALID;
    }
    prefix->bits = (uint8_t)(prefix->bits + (is4 ? 96 : 0));
    sv_addr_mask(prefix->addr, prefix->bits);
    return 0;
}

char *sv_prefix_format(char *dst, size_t size, const struct sv_prefix *prefix)
{
    bool is4 = sv_addr_is4(prefix->addr) && prefix->bits >= 96;
    size_t n;

    sv_addr_format(dst, size, prefix->addr);
    n = strlen(dst);
    snprintf(dst + n, size - n, "/%d", prefix->bits - (is4 ? 96 : 0));
    return dst;
}

bool sv_prefix_contains(const struct sv_prefix *prefix, const uint8_t addr[16])
{
    return sv_addr_agree(prefix->addr, addr, prefix->bits) && (prefix->bits >= 96 || !sv_addr_is4(addr));
}
