/* What carries frames once the socket of a WebSocket link is connected, the same on both sides: large reads, frames handed on where they
 * lie, whole messages written at once, TLS through memory so that records do not become system calls. */
#ifndef SV_TRANSPORT_WS_STREAM_H
#define SV_TRANSPORT_WS_STREAM_H

#include <openssl/ssl.h>

#include "io/loop.h"
#include "transport/transport.h"
#include "transport/ws_bytes.h"
#include "transport/ws_frame.h"

struct sv_ws_stream;

struct sv_ws_stream_hooks {
    /* Client: bytes that came before the first frame. How many were the upgrade's answer; 0: more are needed; negative: it has ended the stream. */
    int (*on_answer)(struct sv_ws_stream *stream, const uint8_t *bytes, size_t len);
    /* Something was read. */
    void (*on_read)(struct sv_ws_stream *stream);
    /* link->blocked has changed. */
    void (*on_blocked)(struct sv_ws_stream *stream);
    /* The stream is dead: the peer closed (error 0), or SV_E_*. Told once, perhaps from within send; the owner stops the stream and ends the link later. */
    void (*on_end)(struct sv_ws_stream *stream, int error, const char *why);
};

struct sv_ws_stream {
    struct sv_link *link; /* whose sink hears on_bytes and on_writable */
    struct sv_ws_blocks *blocks;
    const struct sv_ws_stream_hooks *hooks;
    struct sv_watch *watch;
    SSL *ssl; /* NULL: none */
    int fd;
    bool server;   /* sends unmasked, takes masked frames */
    bool answered; /* frames come now, no HTTP */
    bool said_close, ended;
    uint8_t refills;           /* reads of the socket that TLS may still make in this turn */
    struct sv_ws_bytes rx;     /* decrypted; whole frames always fit */
    struct sv_ws_bytes cipher; /* TLS: read and not yet decrypted */
    struct sv_ws_bytes tx;     /* what the socket has not taken */
    uint64_t message_len;
    bool in_message;  /* a fragmented one is open */
    size_t credit;    /* bytes until the socket is asked whether it has sent any */
    uint8_t refilled; /* how often credit was, modulo 256 */
};

/* Takes a connected, non-blocking socket over; it and ssl stay the caller's. The fields link, blocks, hooks, server, answered, fd and ssl are set by the
 * caller, all others zero. SV_E_NOMEM. */
int sv_ws_stream_start(struct sv_ws_stream *stream, struct sv_loop *loop);
/* No callback from now on; ssl writes to the socket itself again. The bytes of an on_bytes under way stay. May be called twice. */
void sv_ws_stream_stop(struct sv_ws_stream *stream);
/* Gives all memory back; never from within a callback. */
void sv_ws_stream_clear(struct sv_ws_stream *stream);

/* Bytes as they are (the upgrade's request). 0 or SV_E_*. */
int sv_ws_stream_write(struct sv_ws_stream *stream, const uint8_t *bytes, size_t len);
/* One message, with SV_LINK_HEADROOM bytes in front that are overwritten. Like sv_link_ops.send. */
int sv_ws_stream_send(struct sv_ws_stream *stream, uint8_t *bytes, size_t len);
/* Says Close and from then on reads only for the peer's answer: closing a socket with unread bytes would make the kernel send a reset, which takes what
 * the peer has not read yet with it. */
void sv_ws_stream_say_close(struct sv_ws_stream *stream);

#endif
