#include "transport/ws_frame.h"

#include <smartvpn/base.h>
#include <string.h>

#include "base/bytes.h"
#include "crypto/keys.h"

enum { FIN = 0x80, RESERVED = 0x70, MASKED = 0x80, LENGTH16 = 126, LENGTH64 = 127, MASK_SIZE = 4 };

/* Fresh random masks (RFC 6455, section 5.3), drawn many at a time. */
static uint32_t next_mask(void)
{
    static _Thread_local uint32_t masks[256];
    static _Thread_local size_t left;

    if (!left) {
        sv_random(masks, sizeof masks);
        left = sizeof masks / sizeof *masks;
    }
    return masks[--left];
}

void sv_ws_mask(uint8_t *bytes, size_t len, uint32_t mask)
{
    uint64_t wide = mask | (uint64_t)mask << 32;
    uint8_t narrow[4];
    size_t i = 0;

    for (; i + 8 <= len; i += 8) {
        uint64_t word;

        memcpy(&word, bytes + i, 8);
        word ^= wide;
        memcpy(bytes + i, &word, 8);
    }
    memcpy(narrow, &mask, 4);
    for (; i < len; i++) {
        bytes[i] ^= narrow[i % 4];
    }
}

size_t sv_ws_wrap(uint8_t *payload, size_t len, enum sv_ws_opcode opcode, bool masked)
{
    size_t size = (len < LENGTH16 ? 2 : len <= UINT16_MAX ? 4 : 10) + (masked ? MASK_SIZE : 0);
    uint8_t *header = payload - size;

    header[0] = (uint8_t)(FIN | opcode);
    if (len < LENGTH16) {
        header[1] = (uint8_t)len;
    } else if (len <= UINT16_MAX) {
        header[1] = LENGTH16;
        sv_store16be(header + 2, (uint16_t)len);
    } else {
        header[1] = LENGTH64;
        sv_store64be(header + 2, len);
    }
    if (masked) {
        uint32_t mask = next_mask();

        header[1] |= MASKED;
        memcpy(payload - MASK_SIZE, &mask, MASK_SIZE);
        sv_ws_mask(payload, len, mask);
    }
    return size;
}

static bool opcode_is_known(uint8_t opcode)
{
    return opcode <= SV_WS_BINARY || (opcode >= SV_WS_CLOSE && opcode <= SV_WS_PONG);
}

/* The length field; how many bytes it and what stands before it take, 0: more are needed, SV_E_PROTOCOL: not in its shortest form. */
static int read_length(uint64_t *payload_len, const uint8_t *bytes, size_t len)
{
    uint8_t length = bytes[1] & 0x7F;

    *payload_len = length;
    if (length == LENGTH16) {
        if (len < 4) {
            return 0;
        }
        *payload_len = sv_load16be(bytes + 2);
        return *payload_len < LENGTH16 ? SV_E_PROTOCOL : 4;
    }
    if (length == LENGTH64) {
        if (len < 10) {
            return 0;
        }
        *payload_len = sv_load64be(bytes + 2);
        return *payload_len <= UINT16_MAX || *payload_len > INT64_MAX ? SV_E_PROTOCOL : 10;
    }
    return 2;
}

int sv_ws_read_header(struct sv_ws_header *header, const uint8_t *bytes, size_t len, bool masked)
{
    int n;

    if (len < 2) {
        return 0;
    }
    header->fin = bytes[0] & FIN;
    header->opcode = bytes[0] & 0x0F;
    if ((bytes[0] & RESERVED) || !(bytes[1] & MASKED) == masked || !opcode_is_known(header->opcode) ||
        (header->opcode >= SV_WS_CLOSE && (!header->fin || (bytes[1] & 0x7F) > SV_WS_CONTROL_MAX))) {
        return SV_E_PROTOCOL;
    }
    n = read_length(&header->payload_len, bytes, len);
    header->mask = 0;
    if (n <= 0 || !masked) {
        return n;
    }
    if (len < (size_t)n + MASK_SIZE) {
        return 0;
    }
    memcpy(&header->mask, bytes + n, MASK_SIZE);
    return n + MASK_SIZE;
}
