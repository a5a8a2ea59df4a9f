/* The frame: type:1 length:4 payload. A byte stream of them comes in pieces of any size and leaves as whole frames. */
#ifndef SV_PROTO_FRAME_H
#define SV_PROTO_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_FRAME_HEADER = 5,
    SV_FRAME_MAX_PAYLOAD = 65535,
    SV_FRAME_MAX_PLAIN = 65519,
    SV_FRAME_MAX_BEFORE_KEYS = 1024,
    SV_FRAME_OVERHEAD = 21,    /* header and tag */
    SV_FRAME_SUPER_PREFIX = 3, /* kind:1 segment size:2 of IpSuperPacket */
};

enum sv_frame_type {
    SV_FRAME_HANDSHAKE_INIT = 0x01,
    SV_FRAME_HANDSHAKE_RESP = 0x02,
    SV_FRAME_SWITCH_KEYS = 0x03,
    SV_FRAME_SETTINGS = 0x04,
    SV_FRAME_IP_PACKET = 0x10,
    SV_FRAME_IP_SUPER_PACKET = 0x11,
    SV_FRAME_KEEPALIVE = 0x20,
    SV_FRAME_KEEPALIVE_ACK = 0x21,
    SV_FRAME_SESSION_RESUME = 0x30,
    SV_FRAME_SESSION_RESUME_OK = 0x31,
    SV_FRAME_SESSION_RESUME_ERR = 0x32,
    SV_FRAME_DISCONNECT = 0x3F,
};

/* Puts whole frames out of a byte stream; a frame that lies whole in the input is handed out in place, without a copy.
 * The store for a frame in pieces grows as its bytes come, never by what its length field claims. */
struct sv_frame_reader {
    uint8_t *store; /* NULL while no frame is in pieces */
    uint32_t have, capacity;
    uint32_t max_payload; /* SV_FRAME_MAX_BEFORE_KEYS, then SV_FRAME_MAX_PAYLOAD */
};

void sv_frame_reader_init(struct sv_frame_reader *reader);
void sv_frame_reader_clear(struct sv_frame_reader *reader);

/* Takes one frame off the front of *bytes (moved on past what was consumed). *frame, *frame_len: header and payload, writable,
 * valid until the next call. 0, SV_E_AGAIN (all bytes consumed, no whole frame yet), SV_E_MALFORMED (length over max_payload),
 * SV_E_NOMEM. max_payload may be changed between calls. */
int sv_frame_next(struct sv_frame_reader *reader, uint8_t **bytes, size_t *len, uint8_t **frame,
                  size_t *frame_len);

/* Writes the 5 header bytes. */
void sv_frame_put_header(uint8_t dst[SV_FRAME_HEADER], uint8_t type, uint32_t payload_len);

#endif
