#include "transport/proxy_header.h"

#include <string.h>

#include "base/bytes.h"
#include "policy/prefix.h"

enum {
    V1_PREFIX = 6,
    V1_FIELDS = 5, /* protocol, source, destination, source port, destination port */
    V2_SIGNATURE = 12,
    V2_FIXED = 16,
    V2_LOCAL = 0x20,
    V2_PROXY = 0x21,
    V2_TCP4 = 0x11,
    V2_TCP6 = 0x21,
    V2_TCP4_SIZE = 12,
    V2_TCP6_SIZE = 36,
};

static const uint8_t v1_prefix[V1_PREFIX] = "PROXY ";
static const uint8_t v2_signature[V2_SIGNATURE] = "\r\n\r\n\0\r\nQUIT\n";

/* ---- version 1: a line of text ---- */

static bool parse_port(uint16_t *port, const char *text)
{
    size_t n = strlen(text);
    unsigned value = 0;

    if (!n || n > 5 || (n > 1 && *text == '0')) {
        return false;
    }
    for (; *text; text++) {
        if (*text < '0' || *text > '9') {
            return false;
        }
        value = value * 10 + (unsigned)(*text - '0');
    }
    *port = (uint16_t)value;
    return value <= UINT16_MAX;
}

/* Cuts the line at its spaces, exactly one between two fields. */
static bool split_fields(char *line, char *fields[V1_FIELDS])
{
    for (size_t i = 0; i < V1_FIELDS; i++) {
        fields[i] = line;
        line = strchr(line, ' ');
        if (!line != (i == V1_FIELDS - 1)) {
            return false;
        }
        if (line) {
            *line++ = '\0';
        }
    }
    return true;
}

static bool parse_v1_addr(uint8_t addr[16], const char *text, bool six)
{
    return (strchr(text, ':') != NULL) == six && sv_addr_parse(addr, text) == 0;
}

/* What stands after "PROXY ", without CR LF. */
static bool parse_v1_line(struct sv_proxy_header *header, char *line)
{
    char *fields[V1_FIELDS];
    uint8_t destination[16];
    uint16_t port;
    bool six;

    if (strncmp(line, "UNKNOWN", 7) == 0 && (line[7] == '\0' || line[7] == ' ')) {
        return true;
    }
    if (!split_fields(line, fields) || (strcmp(fields[0], "TCP4") != 0 && strcmp(fields[0], "TCP6") != 0)) {
        return false;
    }
    six = fields[0][3] == '6';
    header->has_source = true;
    return parse_v1_addr(header->source, fields[1], six) && parse_v1_addr(destination, fields[2], six) &&
           parse_port(&header->port, fields[3]) && parse_port(&port, fields[4]);
}

static enum sv_proxy_verdict read_v1(struct sv_proxy_header *header, const uint8_t *bytes, size_t len)
{
    size_t seen = len < SV_PROXY_HEADER_V1_MAX ? len : SV_PROXY_HEADER_V1_MAX;
    const uint8_t *end = memchr(bytes, '\n', seen);
    char line[SV_PROXY_HEADER_V1_MAX];
    size_t n;

    if (!end) {
        header->length = len + 1;
        return seen < SV_PROXY_HEADER_V1_MAX ? SV_PROXY_MORE : SV_PROXY_BAD;
    }
    header->length = (size_t)(end - bytes) + 1;
    n = header->length - V1_PREFIX - 1;
    if (!n || end[-1] != '\r' || memchr(bytes, '\0', header->length)) {
        return SV_PROXY_BAD;
    }
    memcpy(line, bytes + V1_PREFIX, n - 1);
    line[n - 1] = '\0';
    return parse_v1_line(header, line) ? SV_PROXY_HEADER : SV_PROXY_BAD;
}

/* ---- version 2: binary ---- */

/* Unspecified; else IPv4, IPv6 or Unix, each as stream or datagram. */
static bool family_is_known(uint8_t family)
{
    unsigned address = family >> 4, protocol = family & 0x0F;

    return family == 0 || (address >= 1 && address <= 3 && protocol >= 1 && protocol <= 2);
}

/* Source address, destination address, source port, destination port. */
static bool read_v2_addresses(struct sv_proxy_header *header, uint8_t family, const uint8_t *block,
                              size_t size)
{
    if (family == V2_TCP4 && size >= V2_TCP4_SIZE) {
        header->source[10] = header->source[11] = 0xFF;
        memcpy(header->source + 12, block, 4);
        header->port = sv_load16be(block + 8);
    } else if (family == V2_TCP6 && size >= V2_TCP6_SIZE) {
        memcpy(header->source, block, 16);
        header->port = sv_load16be(block + 32);
    } else {
        return family != V2_TCP4 && family != V2_TCP6 && family_is_known(family);
    }
    header->has_source = true;
    return true;
}

static enum sv_proxy_verdict read_v2(struct sv_proxy_header *header, const uint8_t *bytes, size_t len)
{
    header->length = V2_FIXED;
    if (len < V2_FIXED) {
        return SV_PROXY_MORE;
    }
    header->length += sv_load16be(bytes + 14);
    if ((bytes[12] != V2_LOCAL && bytes[12] != V2_PROXY) || header->length > SV_PROXY_HEADER_MAX) {
        return SV_PROXY_BAD;
    }
    if (len < header->length) {
        return SV_PROXY_MORE;
    }
    if (bytes[12] == V2_PROXY &&
        !read_v2_addresses(header, bytes[13], bytes + V2_FIXED, header->length - V2_FIXED)) {
        return SV_PROXY_BAD;
    }
    return SV_PROXY_HEADER;
}

static bool begins_like(const uint8_t *bytes, size_t len, const uint8_t *prefix, size_t size)
{
    return memcmp(bytes, prefix, len < size ? len : size) == 0;
}

enum sv_proxy_verdict sv_proxy_header_read(struct sv_proxy_header *header, const uint8_t *bytes, size_t len)
{
    *header = (struct sv_proxy_header){.length = len + 1};
    if (!len) {
        return SV_PROXY_MORE;
    }
    if (begins_like(bytes, len, v1_prefix, V1_PREFIX)) {
        return len < V1_PREFIX ? SV_PROXY_MORE : read_v1(header, bytes, len);
    }
    if (begins_like(bytes, len, v2_signature, V2_SIGNATURE)) {
        return len < V2_SIGNATURE ? SV_PROXY_MORE : read_v2(header, bytes, len);
    }
    header->length = 0;
    return SV_PROXY_NONE;
}
