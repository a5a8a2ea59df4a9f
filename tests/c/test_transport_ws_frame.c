/* WebSocket frames: what is written is read back by a reader of the test's own, and what a server may not send is refused. */
#include "transport/ws_frame.h"

#include <smartvpn/base.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "tests/c/check.h"

enum { LONGEST = 70000 };

static uint8_t pattern(size_t i)
{
    return (uint8_t)(i * 131 + i / 256);
}

/* RFC 6455, section 5.2, byte by byte. */
static void check_wrapped(const uint8_t *frame, size_t header, size_t len, enum sv_ws_opcode opcode)
{
    const uint8_t *mask = frame + header - 4, *payload = frame + header;
    size_t wrong = 0;

    CHECK_EQ(frame[0], 0x80 | opcode);
    if (len < 126) {
        CHECK_EQ(header, 6);
        CHECK_EQ(frame[1], 0x80 | len);
    } else if (len <= 0xFFFF) {
        CHECK_EQ(header, 8);
        CHECK_EQ(frame[1], 0x80 | 126);
        CHECK_EQ(frame[2] << 8 | frame[3], len);
    } else {
        CHECK_EQ(header, 14);
        CHECK_EQ(frame[1], 0x80 | 127);
        CHECK_EQ(sv_load64be(frame + 2), len);
    }
    for (size_t i = 0; i < len; i++) {
        wrong += (payload[i] ^ mask[i % 4]) != pattern(i);
    }
    CHECK_EQ(wrong, 0);
}

static void wrap_and_check(size_t align, size_t len, enum sv_ws_opcode opcode)
{
    /* Exact sizes, so that the sanitizer sees a byte written outside. */
    uint8_t *memory = malloc(align + SV_WS_HEADER_MAX + len);
    uint8_t *payload = memory + align + SV_WS_HEADER_MAX;
    size_t header;

    memset(memory, 0xEE, align + SV_WS_HEADER_MAX);
    for (size_t i = 0; i < len; i++) {
        payload[i] = pattern(i);
    }
    header = sv_ws_wrap(payload, len, opcode, true);
    check_wrapped(payload - header, header, len, opcode);
    for (size_t i = 0; i < align + SV_WS_HEADER_MAX - header; i++) {
        CHECK_EQ(memory[i], 0xEE);
    }
    free(memory);
}

static void masks_at_every_alignment_and_length(void)
{
    for (size_t align = 0; align < 16; align++) {
        for (size_t len = 0; len < 70; len++) {
            wrap_and_check(align, len, SV_WS_BINARY);
        }
    }
}

static void writes_each_form_of_the_length(void)
{
    static const size_t lengths[] = {0,   1,   124,   125,   126,   127,   128,
                                     255, 256, 65534, 65535, 65536, 65537, LONGEST};

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        wrap_and_check(i % 8, lengths[i], SV_WS_BINARY);
    }
}

static void writes_control_frames(void)
{
    wrap_and_check(0, 0, SV_WS_PONG);
    wrap_and_check(1, SV_WS_CONTROL_MAX, SV_WS_PONG);
    wrap_and_check(2, 2, SV_WS_CLOSE);
}

/* Section 5.3: fresh for every frame. 1,000 of 32 bits collide with a chance of one in 8,000; ten do not. */
static void masks_are_fresh(void)
{
    enum { FRAMES = 1000 };
    static uint32_t masks[FRAMES];
    size_t same = 0;

    for (size_t i = 0; i < FRAMES; i++) {
        uint8_t frame[SV_WS_HEADER_MAX + 4] = {0};

        sv_ws_wrap(frame + SV_WS_HEADER_MAX, 4, SV_WS_BINARY, true);
        masks[i] = sv_load32be(frame + SV_WS_HEADER_MAX);
        for (size_t j = 0; j < i; j++) {
            same += masks[j] == masks[i];
        }
    }
    CHECK(same < 10);
}

static int read_copy(struct sv_ws_header *header, const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    int n;

    memcpy(copy, bytes, len);
    n = sv_ws_read_header(header, copy, len, false);
    free(copy);
    return n;
}

static size_t put_header(uint8_t *dst, uint8_t first, uint64_t len)
{
    dst[0] = first;
    if (len < 126) {
        dst[1] = (uint8_t)len;
        return 2;
    }
    dst[1] = len <= 0xFFFF ? 126 : 127;
    if (len <= 0xFFFF) {
        sv_store16be(dst + 2, (uint16_t)len);
        return 4;
    }
    sv_store64be(dst + 2, len);
    return 10;
}

static void check_read(uint8_t first, uint64_t len)
{
    struct sv_ws_header header;
    uint8_t bytes[16] = {0};
    size_t size = put_header(bytes, first, len);

    for (size_t n = 0; n < size; n++) {
        CHECK_EQ(read_copy(&header, bytes, n), 0);
    }
    CHECK_EQ(read_copy(&header, bytes, sizeof bytes), size);
    CHECK_EQ(read_copy(&header, bytes, size), size);
    CHECK_EQ(header.fin, first >> 7);
    CHECK_EQ(header.opcode, first & 0x0F);
    CHECK_EQ(header.payload_len, len);
}

static void reads_each_form_of_the_length(void)
{
    static const uint64_t lengths[] = {0,          1,        125, 126, 127, 65535, 65536, SV_WS_MESSAGE_MAX,
                                       UINT32_MAX, INT64_MAX};

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        check_read(0x82, lengths[i]);
    }
}

static void reads_fragments(void)
{
    check_read(0x02, 1000);
    check_read(0x00, 1000);
    check_read(0x80, 0);
    check_read(0x01, 5);
}

static void reads_control_frames(void)
{
    for (uint8_t opcode = SV_WS_CLOSE; opcode <= SV_WS_PONG; opcode++) {
        check_read(0x80 | opcode, 0);
        check_read(0x80 | opcode, SV_WS_CONTROL_MAX);
    }
}

static void check_refused(const uint8_t *bytes, size_t len)
{
    struct sv_ws_header header;

    CHECK_EQ(read_copy(&header, bytes, len), SV_E_PROTOCOL);
}

#define REFUSED(...) check_refused((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void refuses_what_two_bytes_tell(void)
{
    REFUSED(0x82, 0x80); /* masked (section 5.1) */
    REFUSED(0x82, 0xFE);
    REFUSED(0xC2, 0x00); /* reserved bits without an extension */
    REFUSED(0xA2, 0x00);
    REFUSED(0x92, 0x00);
    REFUSED(0x08, 0x00); /* control frames in fragments */
    REFUSED(0x09, 0x01);
    REFUSED(0x88, 126); /* control frames that are too long */
    REFUSED(0x89, 127);
    for (uint8_t opcode = 0x3; opcode <= 0xF; opcode++) {
        if (opcode < SV_WS_CLOSE || opcode > SV_WS_PONG) {
            REFUSED((uint8_t)(0x80 | opcode), 0x00);
        }
    }
}

/* Section 5.2: the minimal number of bytes; the most significant bit is 0. */
static void refuses_lengths_in_a_longer_form(void)
{
    REFUSED(0x82, 126, 0, 0);
    REFUSED(0x82, 126, 0, 125);
    REFUSED(0x82, 127, 0, 0, 0, 0, 0, 0, 0, 0);
    REFUSED(0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF);
    REFUSED(0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0);
    REFUSED(0x82, 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF);
}

int main(void)
{
    RUN(masks_at_every_alignment_and_length);
    RUN(writes_each_form_of_the_length);
    RUN(writes_control_frames);
    RUN(masks_are_fresh);
    RUN(reads_each_form_of_the_length);
    RUN(reads_fragments);
    RUN(reads_control_frames);
    RUN(refuses_what_two_bytes_tell);
    RUN(refuses_lengths_in_a_longer_form);
    return CHECK_DONE("test_transport_ws_frame");
}
