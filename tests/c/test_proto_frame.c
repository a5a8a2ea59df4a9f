/* Whole frames come out of a byte stream whatever its pieces are, and memory follows what has come. */
#include "tests/c/check.h"

#include <smartvpn/base.h>
#include <stdlib.h>

#include "proto/frame.h"

enum { STREAM_MAX = 300 * 1024 };

static uint8_t stream[STREAM_MAX], chunk[STREAM_MAX];
static const size_t lengths[] = {0, 1, 16, 300, 0, 1024, 65535, 4, 700, 65535, 20000};

static uint8_t content(size_t frame, size_t at)
{
    return (uint8_t)(frame * 31 + at * 7 + 1);
}

static size_t make_stream(void)
{
    uint8_t *at = stream;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        *at++ = (uint8_t)(0x10 + i);
        *at++ = (uint8_t)(lengths[i] >> 24);
        *at++ = (uint8_t)(lengths[i] >> 16);
        *at++ = (uint8_t)(lengths[i] >> 8);
        *at++ = (uint8_t)lengths[i];
        for (size_t j = 0; j < lengths[i]; j++) {
            *at++ = content(i, j);
        }
    }
    return (size_t)(at - stream);
}

static void check_frame(const uint8_t *frame, size_t len, size_t i)
{
    CHECK_EQ(len, lengths[i] + 5);
    CHECK_EQ(frame[0], 0x10 + i);
    size_t wrong = 0;
    for (size_t j = 0; j + 5 < len; j++) {
        wrong += frame[5 + j] != content(i, j);
    }
    CHECK_EQ(wrong, 0);
}

/* Feeds the stream in pieces of `piece` bytes (0: random ones), each in a buffer of its own size. */
static void feed(size_t total, size_t piece)
{
    struct sv_frame_reader reader;
    size_t seen = 0;
    sv_frame_reader_init(&reader);
    reader.max_payload = SV_FRAME_MAX_PAYLOAD;
    for (size_t at = 0; at < total;) {
        size_t n = piece ? piece : 1 + (size_t)rand() % 30000;
        n = n < total - at ? n : total - at;
        memcpy(chunk, stream + at, n);
        at += n;
        uint8_t *bytes = chunk, *frame;
        size_t len = n, frame_len;
        int status;
        while ((status = sv_frame_next(&reader, &bytes, &len, &frame, &frame_len)) == 0) {
            check_frame(frame, frame_len, seen++);
        }
        CHECK_EQ(status, SV_E_AGAIN);
        CHECK_EQ(len, 0);
    }
    CHECK_EQ(seen, sizeof lengths / sizeof *lengths);
    CHECK(reader.store == NULL);
    sv_frame_reader_clear(&reader);
}

static void pieces_of_any_size(void)
{
    static const size_t sizes[] = {1, 2, 3, 4, 5, 6, 7, 21, 1000, 16384, 65540, STREAM_MAX};
    size_t total = make_stream();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        feed(total, sizes[i]);
    }
    srand(1);
    for (int i = 0; i < 50; i++) {
        feed(total, 0);
    }
}

static void a_whole_frame_is_not_copied(void)
{
    uint8_t two[] = {0x20, 0, 0, 0, 2, 'a', 'b', 0x21, 0, 0, 0, 0};
    struct sv_frame_reader reader;
    uint8_t *bytes = two, *frame;
    size_t len = sizeof two, frame_len;
    sv_frame_reader_init(&reader);
    CHECK_EQ(sv_frame_next(&reader, &bytes, &len, &frame, &frame_len), 0);
    CHECK(frame == two);
    CHECK_EQ(frame_len, 7);
    CHECK_EQ(sv_frame_next(&reader, &bytes, &len, &frame, &frame_len), 0);
    CHECK(frame == two + 7);
    CHECK_EQ(frame_len, 5);
    CHECK_EQ(sv_frame_next(&reader, &bytes, &len, &frame, &frame_len), SV_E_AGAIN);
    CHECK(reader.store == NULL);
    sv_frame_reader_clear(&reader);
}

static int feed_header(struct sv_frame_reader *reader, uint32_t length, size_t split)
{
    uint8_t header[5] = {0x01, (uint8_t)(length >> 24), (uint8_t)(length >> 16), (uint8_t)(length >> 8),
                         (uint8_t)length};
    uint8_t *bytes = header, *frame;
    size_t len = split, frame_len;
    int status = SV_E_AGAIN;
    if (split > 0) {
        status = sv_frame_next(reader, &bytes, &len, &frame, &frame_len);
        CHECK_EQ(split < 5 ? status : SV_E_AGAIN, SV_E_AGAIN);
    }
    if (split == 5) {
        return status;
    }
    bytes = header + split;
    len = 5 - split;
    return sv_frame_next(reader, &bytes, &len, &frame, &frame_len);
}

static void too_long_is_refused_at_its_header(void)
{
    static const uint32_t too_long[] = {1025, 65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff};
    for (size_t split = 0; split <= 5; split++) {
        for (size_t i = 0; i < sizeof too_long / sizeof *too_long; i++) {
            struct sv_frame_reader reader;
            sv_frame_reader_init(&reader);
            CHECK_EQ(reader.max_payload, 1024);
            CHECK_EQ(feed_header(&reader, too_long[i], split), SV_E_MALFORMED);
            sv_frame_reader_clear(&reader);
        }
        struct sv_frame_reader reader;
        sv_frame_reader_init(&reader);
        CHECK_EQ(feed_header(&reader, 1024, split), SV_E_AGAIN);
        sv_frame_reader_clear(&reader);
    }
}

static void memory_follows_what_has_come(void)
{
    struct sv_frame_reader reader;
    sv_frame_reader_init(&reader);
    reader.max_payload = SV_FRAME_MAX_PAYLOAD;
    CHECK_EQ(feed_header(&reader, 65535, 5), SV_E_AGAIN);
    uint8_t byte = 9, *frame;
    size_t frame_len, came = 5;
    for (; came < 5 + 65534; came++) {
        uint8_t *bytes = &byte;
        size_t len = 1;
        int status = sv_frame_next(&reader, &bytes, &len, &frame, &frame_len);
        if (status != SV_E_AGAIN || reader.capacity > (came < 512 ? 512 : 2 * came)) {
            break;
        }
    }
    CHECK_EQ(came, 5 + 65534);
    CHECK_EQ(reader.capacity, 65540);
    uint8_t *bytes = &byte;
    size_t len = 1;
    CHECK_EQ(sv_frame_next(&reader, &bytes, &len, &frame, &frame_len), 0);
    CHECK_EQ(frame_len, 65540);
    CHECK_EQ(sv_frame_next(&reader, &bytes, &len, &frame, &frame_len), SV_E_AGAIN);
    CHECK(reader.store == NULL);
    sv_frame_reader_clear(&reader);
}

static void header_bytes(void)
{
    uint8_t header[5];
    sv_frame_put_header(header, 0x3F, 0x0000FFEE);
    CHECK_MEM(header, "\x3f\x00\x00\xff\xee", 5);
}

int main(void)
{
    RUN(header_bytes);
    RUN(a_whole_frame_is_not_copied);
    RUN(pieces_of_any_size);
    RUN(too_long_is_refused_at_its_header);
    RUN(memory_follows_what_has_come);
    return CHECK_DONE("proto_frame");
}
