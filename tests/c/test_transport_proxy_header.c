/* The PROXY header parser: both versions, every cut, and what must be refused. */
#include "transport/proxy_header.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "policy/prefix.h"
#include "tests/c/check.h"

#define V2_SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

struct made {
    uint8_t bytes[SV_PROXY_HEADER_MAX + 64];
    size_t len;
};

static enum sv_proxy_verdict read_copy(struct sv_proxy_header *header, const uint8_t *bytes, size_t len)
{
    /* On the heap and of the exact size, so that the sanitizer sees a read past the end. */
    uint8_t *copy = malloc(len ? len : 1);
    enum sv_proxy_verdict verdict;

    memcpy(copy, bytes, len);
    verdict = sv_proxy_header_read(header, copy, len);
    free(copy);
    return verdict;
}

static enum sv_proxy_verdict verdict_of(const char *text)
{
    struct sv_proxy_header header;

    return read_copy(&header, (const uint8_t *)text, strlen(text));
}

static void check_source(const struct sv_proxy_header *header, const char *addr, unsigned port)
{
    char text[SV_PROXY_HEADER_V1_MAX];

    CHECK(header->has_source);
    CHECK_STR(sv_addr_format(text, sizeof text, header->source), addr);
    CHECK_EQ(header->port, port);
}

static struct made make_v2(uint8_t command, uint8_t family, const void *block, size_t size)
{
    struct made made = {.len = 16 + size};

    memcpy(made.bytes, V2_SIGNATURE, 12);
    made.bytes[12] = command;
    made.bytes[13] = family;
    sv_store16be(made.bytes + 14, (uint16_t)size);
    memcpy(made.bytes + 16, block, size);
    return made;
}

static const uint8_t block4[12] = {192, 0, 2, 1, 192, 0, 2, 2, 0x1F, 0x90, 0x01, 0xBB};
static const uint8_t block6[36] = {
    0x20, 0x01, 0x0D, 0xB8, [15] = 7, [16] = 0xFD, [31] = 1, [32] = 0xFF, 0xFE, 0, 80};

/* Each shorter piece asks for more, for no more than there is in all; what follows the header changes nothing. */
static void check_every_cut(const uint8_t *bytes, size_t len, size_t length)
{
    struct sv_proxy_header header;

    for (size_t n = 0; n < length; n++) {
        CHECK_EQ(read_copy(&header, bytes, n), SV_PROXY_MORE);
        CHECK(header.length > n && header.length <= length);
    }
    for (size_t n = length; n <= len; n++) {
        CHECK_EQ(read_copy(&header, bytes, n), SV_PROXY_HEADER);
        CHECK_EQ(header.length, length);
    }
}

static void v1_names_the_source(void)
{
    static const char four[] = "PROXY TCP4 192.0.2.1 198.51.100.7 65535 0\r\n";
    static const char six[] = "PROXY TCP6 2001:db8::7 ::1 443 8443\r\n";
    struct sv_proxy_header header;

    CHECK_EQ(read_copy(&header, (const uint8_t *)four, strlen(four)), SV_PROXY_HEADER);
    CHECK_EQ(header.length, strlen(four));
    check_source(&header, "192.0.2.1", 65535);
    CHECK_EQ(read_copy(&header, (const uint8_t *)six, strlen(six)), SV_PROXY_HEADER);
    CHECK_EQ(header.length, strlen(six));
    check_source(&header, "2001:db8::7", 443);
}

static void v1_unknown_keeps_the_peer(void)
{
    static const char *const lines[] = {"PROXY UNKNOWN\r\n", "PROXY UNKNOWN what ever 1 2 3 4 5\r\n"};
    struct sv_proxy_header header;

    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(read_copy(&header, (const uint8_t *)lines[i], strlen(lines[i])), SV_PROXY_HEADER);
        CHECK_EQ(header.length, strlen(lines[i]));
        CHECK(!header.has_source);
    }
}

static void v1_may_come_in_pieces(void)
{
    static const char text[] = "PROXY TCP4 192.0.2.1 198.51.100.7 1 2\r\nGET / HTTP/1.1\r\n\r\n";

    check_every_cut((const uint8_t *)text, sizeof text - 1, strchr(text, '\n') + 1 - text);
}

/* proxy-protocol.txt 2.1: 107 bytes are the most a line has. */
static void v1_has_a_longest_line(void)
{
    char line[SV_PROXY_HEADER_V1_MAX + 2];
    struct sv_proxy_header header;

    memset(line, 'x', sizeof line);
    memcpy(line, "PROXY UNKNOWN ", 14);
    CHECK_EQ(read_copy(&header, (const uint8_t *)line, SV_PROXY_HEADER_V1_MAX - 1), SV_PROXY_MORE);
    CHECK_EQ(read_copy(&header, (const uint8_t *)line, SV_PROXY_HEADER_V1_MAX), SV_PROXY_BAD);
    memcpy(line + SV_PROXY_HEADER_V1_MAX - 2, "\r\n", 2);
    CHECK_EQ(read_copy(&header, (const uint8_t *)line, SV_PROXY_HEADER_V1_MAX), SV_PROXY_HEADER);
    CHECK_EQ(header.length, SV_PROXY_HEADER_V1_MAX);
    line[SV_PROXY_HEADER_V1_MAX - 2] = 'x';
    memcpy(line + SV_PROXY_HEADER_V1_MAX - 1, "\r\n", 2);
    CHECK_EQ(read_copy(&header, (const uint8_t *)line, SV_PROXY_HEADER_V1_MAX + 1), SV_PROXY_BAD);
}

static void v1_refuses_what_is_not_exact(void)
{
    static const char *const bad[] = {
        "PROXY \r\n",
        "PROXY \n",
        "PROXY TCP4\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY unknown\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 99999 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4294967297 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 -1 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1x 1\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 ::1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 fe80::1%lo ::2 1 2\r\n",
        "PROXY TCP6 ::1::2 ::2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY localhost\r\n",
    };
    static const char nul[] = "PROXY UNKNOWN\0 x\r\n";
    struct sv_proxy_header header;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(verdict_of(bad[i]), SV_PROXY_BAD);
    }
    CHECK_EQ(read_copy(&header, (const uint8_t *)nul, sizeof nul - 1), SV_PROXY_BAD);
}

static void v2_names_the_source(void)
{
    struct sv_proxy_header header;
    struct made four = make_v2(0x21, 0x11, block4, sizeof block4);
    struct made six = make_v2(0x21, 0x21, block6, sizeof block6);

    CHECK_EQ(read_copy(&header, four.bytes, four.len), SV_PROXY_HEADER);
    CHECK_EQ(header.length, 28);
    check_source(&header, "192.0.2.1", 8080);
    CHECK_EQ(read_copy(&header, six.bytes, six.len), SV_PROXY_HEADER);
    CHECK_EQ(header.length, 52);
    check_source(&header, "2001:db8::7", 65534);
}

static void v2_passes_over_what_follows_the_addresses(void)
{
    uint8_t block[sizeof block4 + 40] = {0};
    struct sv_proxy_header header;
    struct made made;

    memcpy(block, block4, sizeof block4);
    memset(block + sizeof block4, 0xFF, 40);
    made = make_v2(0x21, 0x11, block, sizeof block);
    CHECK_EQ(read_copy(&header, made.bytes, made.len), SV_PROXY_HEADER);
    CHECK_EQ(header.length, made.len);
    check_source(&header, "192.0.2.1", 8080);
}

static void v2_may_come_in_pieces(void)
{
    struct made made = make_v2(0x21, 0x21, block6, sizeof block6);

    check_every_cut(made.bytes, made.len + 9, made.len);
}

/* LOCAL, whatever its block says; families that name no TCP peer. */
static void v2_keeps_the_peer(void)
{
    static const uint8_t unix_block[216] = {'/', 't', 'm', 'p'};
    static const struct {
        uint8_t command, family;
        size_t size;
    } cases[] = {
        {0x20, 0x00, 0},  {0x20, 0x11, 12}, {0x20, 0x11, 0},  {0x20, 0xFF, 3},   {0x21, 0x00, 0},
        {0x21, 0x00, 20}, {0x21, 0x12, 12}, {0x21, 0x22, 36}, {0x21, 0x31, 216}, {0x21, 0x32, 216},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made made = make_v2(cases[i].command, cases[i].family, unix_block, cases[i].size);
        struct sv_proxy_header header;

        CHECK_EQ(read_copy(&header, made.bytes, made.len), SV_PROXY_HEADER);
        CHECK_EQ(header.length, made.len);
        CHECK(!header.has_source);
    }
}

static void v2_refuses_what_is_wrong(void)
{
    static const struct {
        uint8_t command, family;
        size_t size;
    } cases[] = {
        {0x11, 0x11, 12}, {0x31, 0x11, 12}, {0x22, 0x11, 12}, {0x2F, 0x11, 12}, /* version, command */
        {0x21, 0x10, 12}, {0x21, 0x13, 12}, {0x21, 0x41, 12}, {0x21, 0x01, 12}, /* family */
        {0x21, 0x11, 11}, {0x21, 0x11, 0},  {0x21, 0x21, 35}, {0x21, 0x21, 12}, /* too short */
    };
    static const uint8_t zeros[64];
    struct sv_proxy_header header;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct made made = make_v2(cases[i].command, cases[i].family, zeros, cases[i].size);

        CHECK_EQ(read_copy(&header, made.bytes, made.len), SV_PROXY_BAD);
    }
}

/* Known from its first 16 bytes: nobody waits for what will never fit. */
static void v2_has_a_greatest_length(void)
{
    static const uint8_t zeros[SV_PROXY_HEADER_MAX];
    struct made most = make_v2(0x21, 0x11, zeros, SV_PROXY_HEADER_MAX - 16);
    struct made over = make_v2(0x21, 0x11, zeros, SV_PROXY_HEADER_MAX - 15);
    struct sv_proxy_header header;

    CHECK_EQ(read_copy(&header, most.bytes, 16), SV_PROXY_MORE);
    CHECK_EQ(header.length, SV_PROXY_HEADER_MAX);
    CHECK_EQ(read_copy(&header, most.bytes, most.len), SV_PROXY_HEADER);
    CHECK_EQ(read_copy(&header, over.bytes, 16), SV_PROXY_BAD);
}

static void other_beginnings_are_no_header(void)
{
    static const char *const others[] = {
        "GET / HTTP/1.1\r\n", "\x16\x03\x01\x02", "POST / HTTP/1.1\r\n",    "PROX Y",
        "PROXYTCP4",          "proxy TCP4",       "\r\n\r\nGET / HTTP/1.1", "\n",
        " PROXY UNKNOWN\r\n"};
    struct sv_proxy_header header;

    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        CHECK_EQ(verdict_of(others[i]), SV_PROXY_NONE);
    }
    CHECK_EQ(verdict_of("P"), SV_PROXY_MORE);
    CHECK_EQ(verdict_of("PROXY"), SV_PROXY_MORE);
    CHECK_EQ(verdict_of("\r\n\r\n"), SV_PROXY_MORE);
    CHECK_EQ(read_copy(&header, (const uint8_t *)V2_SIGNATURE "x", 4 + 1), SV_PROXY_MORE);
    CHECK_EQ(read_copy(&header, (const uint8_t *)"\r\n\r\n\1", 5), SV_PROXY_NONE);
}

int main(void)
{
    RUN(v1_names_the_source);
    RUN(v1_unknown_keeps_the_peer);
    RUN(v1_may_come_in_pieces);
    RUN(v1_has_a_longest_line);
    RUN(v1_refuses_what_is_not_exact);
    RUN(v2_names_the_source);
    RUN(v2_passes_over_what_follows_the_addresses);
    RUN(v2_may_come_in_pieces);
    RUN(v2_keeps_the_peer);
    RUN(v2_refuses_what_is_wrong);
    RUN(v2_has_a_greatest_length);
    RUN(other_beginnings_are_no_header);
    return CHECK_DONE("test_transport_proxy_header");
}
