/* WebSocket frames (RFC 6455, section 5), written and read in bulk, in place. A client masks what it sends, a server does not. */
#ifndef SV_TRANSPORT_WS_FRAME_H
#define SV_TRANSPORT_WS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_WS_HEADER_MAX = 14,
    SV_WS_CONTROL_MAX = 125,
    SV_WS_MESSAGE_MAX = 256 * 1024,
};

enum sv_ws_opcode {
    SV_WS_CONTINUATION = 0x0,
    SV_WS_TEXT = 0x1,
    SV_WS_BINARY = 0x2,
    SV_WS_CLOSE = 0x8,
    SV_WS_PING = 0x9,
    SV_WS_PONG = 0xA,
};

struct sv_ws_header {
    bool fin;
    uint8_t opcode;
    uint32_t mask; /* as it lies in memory */
    uint64_t payload_len;
};

/* Puts a final frame's header in front of the payload and, if asked to, masks the payload in place; returns the header's length. There are
 * SV_WS_HEADER_MAX writable bytes in front. */
size_t sv_ws_wrap(uint8_t *payload, size_t len, enum sv_ws_opcode opcode, bool masked);

/* A frame header, masked or not as the sender must have it. Its length; 0: more bytes are needed; SV_E_PROTOCOL (negative): the other way round, reserved
 * bits, an unknown opcode, a length not in its shortest form, or a control frame that is fragmented or too long. */
int sv_ws_read_header(struct sv_ws_header *header, const uint8_t *bytes, size_t len, bool masked);

/* Masks and unmasks. */
void sv_ws_mask(uint8_t *bytes, size_t len, uint32_t mask);

#endif
