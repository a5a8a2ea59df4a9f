/* The frame reader: whatever the pieces, the frames it gives are the input, in order, and hold to the bound.
 */
#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static size_t piece_length(uint8_t dice, size_t left)
{
    size_t n = dice < 128 ? 1u + dice % 16 : (size_t)dice * 8;
    return n < left ? n : left;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    struct sv_frame_reader reader;
    sv_frame_reader_init(&reader);
    reader.max_payload = data[0] & 1 ? SV_FRAME_MAX_PAYLOAD : SV_FRAME_MAX_BEFORE_KEYS;
    const uint8_t *stream = data + 1;
    size_t total = size - 1, fed = 0, seen = 0;
    int status = SV_E_AGAIN;
    while (fed < total && status == SV_E_AGAIN) {
        size_t len = piece_length(stream[fed], total - fed), frame_len;
        uint8_t *piece = malloc(len), *bytes = piece, *frame;
        memcpy(piece, stream + fed, len);
        fed += len;
        while ((status = sv_frame_next(&reader, &bytes, &len, &frame, &frame_len)) == 0) {
            require(frame_len >= 5 && frame_len - 5 <= reader.max_payload);
            require(sv_load32be(frame + 1) == frame_len - 5);
            require(seen + frame_len <= fed && memcmp(frame, stream + seen, frame_len) == 0);
            seen += frame_len;
        }
        require(status == SV_E_MALFORMED || (len == 0 && reader.capacity <= 2 * fed + 512));
        free(piece);
    }
    sv_frame_reader_clear(&reader);
    return 0;
}
