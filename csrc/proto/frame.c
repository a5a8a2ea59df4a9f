#include "proto/frame.h"

#include <stdlib.h>
#include <string.h>

#include <smartvpn/base.h>

#include "base/bytes.h"

enum { STORE_FIRST = 512 };

void sv_frame_put_header(uint8_t dst[SV_FRAME_HEADER], uint8_t type, uint32_t payload_len)
{
    dst[0] = type;
    sv_store32be(dst + 1, payload_len);
}

void sv_frame_reader_init(struct sv_frame_reader *reader)
{
    *reader = (struct sv_frame_reader){.max_payload = SV_FRAME_MAX_BEFORE_KEYS};
}

static void drop_store(struct sv_frame_reader *reader)
{
    free(reader->store);
    reader->store = NULL;
    reader->have = reader->capacity = 0;
}

void sv_frame_reader_clear(struct sv_frame_reader *reader)
{
    drop_store(reader);
}

static int take_in_place(const struct sv_frame_reader *reader, uint8_t **bytes, size_t *len, uint8_t **frame,
                         size_t *frame_len)
{
    if (*len < SV_FRAME_HEADER) {
        return SV_E_AGAIN;
    }
    uint32_t payload = sv_load32be(*bytes + 1);
    if (payload > reader->max_payload) {
        return SV_E_MALFORMED;
    }
    size_t whole = SV_FRAME_HEADER + (size_t)payload;
    if (*len < whole) {
        return SV_E_AGAIN;
    }
    *frame = *bytes;
    *frame_len = whole;
    *bytes += whole;
    *len -= whole;
    return 0;
}

/* Doubling follows what has come; `whole` only caps it. */
static int make_room(struct sv_frame_reader *reader, size_t needed, size_t whole)
{
    if (needed <= reader->capacity) {
        return 0;
    }
    size_t doubled = 2 * (size_t)reader->capacity;
    size_t capacity = doubled < whole ? doubled : whole;
    capacity = capacity > needed ? capacity : needed;
    capacity = capacity > STORE_FIRST ? capacity : STORE_FIRST;
    uint8_t *store = realloc(reader->store, capacity);
    if (!store) {
        return SV_E_NOMEM;
    }
    reader->store = store;
    reader->capacity = (uint32_t)capacity;
    return 0;
}

/* Moves bytes over until the store holds `whole` of them or the input ends. */
static int fill(struct sv_frame_reader *reader, uint8_t **bytes, size_t *len, size_t whole)
{
    size_t missing = whole - reader->have;
    size_t n = *len < missing ? *len : missing;
    if (n > 0) {
        int status = make_room(reader, reader->have + n, whole);
        if (status != 0) {
            return status;
        }
        memcpy(reader->store + reader->have, *bytes, n);
        reader->have += (uint32_t)n;
        *bytes += n;
        *len -= n;
    }
    return reader->have < whole ? SV_E_AGAIN : 0;
}

static int take_in_pieces(struct sv_frame_reader *reader, uint8_t **bytes, size_t *len, uint8_t **frame,
                          size_t *frame_len)
{
    if (reader->have < SV_FRAME_HEADER) {
        int status = fill(reader, bytes, len, SV_FRAME_HEADER);
        if (status != 0) {
            return status;
        }
    }
    uint32_t payload = sv_load32be(reader->store + 1);
    if (payload > reader->max_payload) {
        return SV_E_MALFORMED;
    }
    int status = fill(reader, bytes, len, SV_FRAME_HEADER + (size_t)payload);
    if (status != 0) {
        return status;
    }
    *frame = reader->store;
    *frame_len = reader->have;
    reader->have = 0;
    return 0;
}

int sv_frame_next(struct sv_frame_reader *reader, uint8_t **bytes, size_t *len, uint8_t **frame,
                  size_t *frame_len)
{
    if (reader->have == 0) {
        int status = take_in_place(reader, bytes, len, frame, frame_len);
        if (status != SV_E_AGAIN) {
            return status;
        }
        /* Not sooner: a bulk stream whose reads cut frames would allocate for each of them. */
        if (*len == 0) {
            drop_store(reader);
            return SV_E_AGAIN;
        }
    }
    return take_in_pieces(reader, bytes, len, frame, frame_len);
}
