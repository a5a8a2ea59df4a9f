#include "transport/ws_stream.h"

#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "io/socket.h"

enum {
    READS_PER_TURN = 4,
    REFILLS_PER_LOOK = 8,   /* at the rate of a path that takes 128 KB in 3 ms or less */
    RECORD_MAX = 16 * 1024, /* plaintext of a TLS record */
    PONG_WAITING_MAX = 64 * 1024,
};

/* ---- the end ---- */

static void end(struct sv_ws_stream *stream, int error, const char *why)
{
    if (!stream->ended) {
        stream->ended = true;
        sv_watch_set(stream->watch, 0);
        stream->hooks->on_end(stream, error, why);
    }
}

static void end_lost(struct sv_ws_stream *stream, int error)
{
    end(stream, error, "the connection was lost");
}

/* ---- the socket ---- */

/* >0 bytes, 0: would block, <0: SV_E_CLOSED or SV_E_SYSTEM. */
static ssize_t socket_read(struct sv_ws_stream *stream, uint8_t *dst, size_t cap)
{
    ssize_t n = recv(stream->fd, dst, cap, 0);

    if (n > 0) {
        return n;
    }
    if (n == 0) {
        return SV_E_CLOSED;
    }
    return errno == EAGAIN || errno == EINTR ? 0 : SV_E_SYSTEM;
}

static ssize_t socket_write(struct sv_ws_stream *stream, const uint8_t *bytes, size_t len)
{
    ssize_t n = send(stream->fd, bytes, len, MSG_NOSIGNAL);

    if (n >= 0) {
        return n;
    }
    return errno == EAGAIN || errno == EINTR ? 0 : SV_E_SYSTEM;
}

static void set_blocked(struct sv_ws_stream *stream, bool blocked)
{
    stream->link->blocked = blocked;
    sv_watch_set(stream->watch, SV_READABLE | (blocked ? SV_WRITABLE : 0));
    stream->hooks->on_blocked(stream);
}

/* As much of what waits as the socket takes. */
static int flush(struct sv_ws_stream *stream)
{
    struct sv_ws_bytes *tx = &stream->tx;

    while (sv_ws_bytes_len(tx)) {
        ssize_t n = socket_write(stream, tx->bytes + tx->start, sv_ws_bytes_len(tx));

        if (n < 0) {
            return (int)n;
        }
        if (n == 0) {
            if (!stream->link->blocked) {
                set_blocked(stream, true);
            }
            return 0;
        }
        tx->start += (size_t)n;
    }
    sv_ws_bytes_release(tx, stream->blocks);
    return 0;
}

static int write_plain(struct sv_ws_stream *stream, const uint8_t *bytes, size_t len)
{
    if (!sv_ws_bytes_len(&stream->tx)) {
        ssize_t n = socket_write(stream, bytes, len);

        if (n < 0) {
            return (int)n;
        }
        bytes += n;
        len -= (size_t)n;
    }
    if (!len) {
        return 0;
    }
    if (!stream->link->blocked) {
        set_blocked(stream, true);
    }
    return sv_ws_bytes_append(&stream->tx, stream->blocks, bytes, len);
}

static int write_tls(struct sv_ws_stream *stream, const uint8_t *bytes, size_t len)
{
    while (len) {
        size_t n;

        ERR_clear_error();
        if (!SSL_write_ex(stream->ssl, bytes, len, &n)) {
            return SV_E_SYSTEM;
        }
        bytes += n;
        len -= n;
    }
    return flush(stream);
}

int sv_ws_stream_write(struct sv_ws_stream *stream, const uint8_t *bytes, size_t len)
{
    return stream->ssl ? write_tls(stream, bytes, len) : write_plain(stream, bytes, len);
}

/* ---- TLS in memory ---- */

static int bio_write(BIO *bio, const char *bytes, int len)
{
    struct sv_ws_stream *stream = BIO_get_data(bio);

    return sv_ws_bytes_append(&stream->tx, stream->blocks, (const uint8_t *)bytes, (size_t)len) ? -1 : len;
}

/* 1: there are bytes, 0: the peer closed, -1: none now. */
static int refill(struct sv_ws_stream *stream)
{
    struct sv_ws_bytes *cipher = &stream->cipher;
    ssize_t n;

    if (sv_ws_bytes_len(cipher)) {
        return 1;
    }
    cipher->start = cipher->end = 0;
    if (!stream->refills) {
        return -1;
    }
    if (!sv_ws_bytes_borrow(cipher, stream->blocks)) {
        return 0;
    }
    stream->refills--;
    n = socket_read(stream, cipher->bytes, cipher->size);
    if (n > 0) {
        cipher->end = (size_t)n;
    }
    return n > 0 ? 1 : n == 0 ? -1 : 0;
}

static int bio_read(BIO *bio, char *dst, int cap)
{
    struct sv_ws_stream *stream = BIO_get_data(bio);
    struct sv_ws_bytes *cipher = &stream->cipher;
    int state = refill(stream);
    size_t n;

    BIO_clear_retry_flags(bio);
    if (state < 0) {
        BIO_set_retry_read(bio);
    }
    if (state <= 0) {
        return state;
    }
    n = sv_ws_bytes_len(cipher) < (size_t)cap ? sv_ws_bytes_len(cipher) : (size_t)cap;
    memcpy(dst, cipher->bytes + cipher->start, n);
    cipher->start += n;
    return (int)n;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *method;

static void make_method(void)
{
    method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | 127, "smartvpn stream");
    if (method) {
        BIO_meth_set_write(method, bio_write);
        BIO_meth_set_read(method, bio_read);
        BIO_meth_set_ctrl(method, bio_ctrl);
    }
}

static int attach_tls(struct sv_ws_stream *stream)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    BIO *bio;

    pthread_once(&once, make_method);
    bio = method ? BIO_new(method) : NULL;
    if (!bio) {
        return SV_E_NOMEM;
    }
    BIO_set_data(bio, stream);
    BIO_set_init(bio, 1);
    SSL_set_mode(stream->ssl, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_ENABLE_PARTIAL_WRITE);
    SSL_set_bio(stream->ssl, bio, bio);
    return 0;
}

/* ---- frames in ---- */

static void answer_control(struct sv_ws_stream *stream, const struct sv_ws_header *header,
                           const uint8_t *payload)
{
    uint8_t frame[SV_WS_HEADER_MAX + SV_WS_CONTROL_MAX];
    uint8_t *copy = frame + SV_WS_HEADER_MAX;
    size_t n;

    if (header->opcode == SV_WS_CLOSE) {
        sv_ws_stream_say_close(stream);
        end(stream, 0, "the other side closed the connection");
    } else if (header->opcode == SV_WS_PING && sv_ws_bytes_len(&stream->tx) < PONG_WAITING_MAX) {
        memcpy(copy, payload, header->payload_len);
        n = sv_ws_wrap(copy, header->payload_len, SV_WS_PONG, !stream->server);
        if (sv_ws_stream_write(stream, copy - n, n + header->payload_len)) {
            end_lost(stream, SV_E_CLOSED);
        }
    }
}

/* The order of opcodes in a fragmented message, and its length. */
static const char *data_offence(struct sv_ws_stream *stream, const struct sv_ws_header *header)
{
    if (header->opcode == SV_WS_TEXT) {
        return "the other side sent a text message";
    }
    if ((header->opcode == SV_WS_CONTINUATION) != stream->in_message) {
        return "the other side broke the order of WebSocket fragments";
    }
    stream->message_len = stream->in_message ? stream->message_len : 0;
    if (header->payload_len > SV_WS_MESSAGE_MAX - stream->message_len) {
        return "the other side sent a message of more than 256 KiB";
    }
    stream->message_len += header->payload_len;
    stream->in_message = !header->fin;
    return NULL;
}

static void on_frame(struct sv_ws_stream *stream, const struct sv_ws_header *header, uint8_t *payload)
{
    if (stream->server) {
        sv_ws_mask(payload, header->payload_len, header->mask);
    }
    if (header->opcode >= SV_WS_CLOSE) {
        answer_control(stream, header, payload);
    } else if (header->payload_len && !stream->said_close) {
        stream->link->sink->on_bytes(stream->link, payload, header->payload_len);
    }
}

/* false: more bytes are needed, or the stream has ended. */
static bool parse_one(struct sv_ws_stream *stream)
{
    struct sv_ws_bytes *rx = &stream->rx;
    struct sv_ws_header header;
    const char *offence = NULL;
    size_t have = sv_ws_bytes_len(rx);
    uint8_t *bytes = rx->bytes + rx->start;
    int n = sv_ws_read_header(&header, bytes, have, stream->server);

    if (n < 0) {
        end(stream, n, "the other side sent a broken WebSocket frame");
    }
    if (n <= 0) {
        return false;
    }
    if (header.payload_len > SV_WS_MESSAGE_MAX || have >= (size_t)n + header.payload_len) {
        offence = header.opcode < SV_WS_CLOSE ? data_offence(stream, &header) : NULL;
    } else {
        return false;
    }
    if (offence) {
        end(stream, SV_E_PROTOCOL, offence);
        return false;
    }
    rx->start += (size_t)n + (size_t)header.payload_len;
    on_frame(stream, &header, bytes + n);
    return !stream->ended;
}

static bool take_answer(struct sv_ws_stream *stream)
{
    int n = stream->hooks->on_answer(stream, stream->rx.bytes + stream->rx.start,
                                     sv_ws_bytes_len(&stream->rx));

    if (n > 0) {
        stream->rx.start += (size_t)n;
        stream->answered = true;
    }
    return n > 0 && !stream->ended;
}

static void parse(struct sv_ws_stream *stream)
{
    while (!stream->ended && sv_ws_bytes_len(&stream->rx) &&
           (stream->answered ? parse_one(stream) : take_answer(stream))) {
    }
}

/* ---- reading ---- */

/* >0 bytes, 0: none now, <0: SV_E_*. Makes room first: a frame in pieces moves to the front. */
static ssize_t read_some(struct sv_ws_stream *stream, size_t *room)
{
    struct sv_ws_bytes *rx = &stream->rx;
    size_t n;

    if (!sv_ws_bytes_borrow(rx, stream->blocks)) {
        return SV_E_NOMEM;
    }
    if (rx->start) {
        sv_ws_bytes_to_front(rx);
    }
    *room = rx->size - rx->end;
    if (!stream->ssl) {
        return socket_read(stream, rx->bytes + rx->end, *room);
    }
    ERR_clear_error();
    if (SSL_read_ex(stream->ssl, rx->bytes + rx->end, *room, &n)) {
        return (ssize_t)n;
    }
    switch (SSL_get_error(stream->ssl, 0)) {
    case SSL_ERROR_WANT_READ:
        return 0;
    case SSL_ERROR_ZERO_RETURN:
    case SSL_ERROR_SYSCALL:
        return SV_E_CLOSED;
    default:
        return SV_E_SYSTEM;
    }
}

/* Decrypted records gather until a read would not fit: fewer, longer looks at the frames in them. */
static bool gathers(const struct sv_ws_stream *stream, size_t room)
{
    return stream->ssl && room >= 2 * RECORD_MAX;
}

static void on_readable(struct sv_ws_stream *stream)
{
    size_t room = 0;
    ssize_t n = 0;

    stream->refills = READS_PER_TURN;
    for (unsigned reads = 0; !stream->ended && (reads < READS_PER_TURN || stream->ssl); reads++) {
        n = read_some(stream, &room);
        if (n <= 0) {
            break;
        }
        stream->rx.end += (size_t)n;
        if (!gathers(stream, room)) {
            parse(stream);
        }
        if ((size_t)n < room && !stream->ssl) {
            break; /* the socket is empty */
        }
    }
    parse(stream);
    if (n < 0) {
        end(stream, stream->said_close ? 0 : (int)n,
            n == SV_E_CLOSED ? "the other side closed the connection" : "the connection was lost");
    }
    if (!stream->ended) {
        sv_ws_bytes_release_if_empty(&stream->rx, stream->blocks);
        sv_ws_bytes_release_if_empty(&stream->cipher, stream->blocks);
        stream->hooks->on_read(stream);
    }
}

/* On a fast path the rate is looked at now and then only. */
static void refill_credit(struct sv_ws_stream *stream)
{
    struct sv_link *link = stream->link;

    if (link->window < SV_LINK_CREDIT || stream->refilled++ % REFILLS_PER_LOOK == 0) {
        link->window = (uint32_t)sv_tcp_pace(stream->fd, link->window);
    }
    stream->credit = link->window;
}

static void on_writable(struct sv_ws_stream *stream)
{
    int error = flush(stream);

    if (error) {
        end_lost(stream, error);
    } else if (!sv_ws_bytes_len(&stream->tx)) {
        refill_credit(stream);
        set_blocked(stream, false);
        if (!stream->said_close && stream->answered) {
            stream->link->sink->on_writable(stream->link);
        }
    }
}

/* The sink may end the link in any of its callbacks, but the stream's memory lives until the owner's own turn. */
static void on_ready(void *ctx, int events)
{
    struct sv_ws_stream *stream = ctx;

    if ((events & SV_WRITABLE) && stream->link->blocked && !stream->ended) {
        on_writable(stream);
    }
    if ((events & SV_READABLE) && !stream->ended) {
        on_readable(stream);
    }
}

/* ---- frames out ---- */

int sv_ws_stream_send(struct sv_ws_stream *stream, uint8_t *bytes, size_t len)
{
    size_t header;
    int error;

    if (stream->ended || stream->said_close) {
        return SV_E_CLOSED;
    }
    header = sv_ws_wrap(bytes, len, SV_WS_BINARY, !stream->server);
    error = sv_ws_stream_write(stream, bytes - header, header + len);
    if (error) {
        end_lost(stream, error);
        return SV_E_CLOSED;
    }
    stream->credit = stream->credit > header + len ? stream->credit - header - len : 0;
    if (!stream->credit && !stream->link->blocked) {
        set_blocked(stream, true);
    }
    return 0;
}

void sv_ws_stream_say_close(struct sv_ws_stream *stream)
{
    uint8_t frame[SV_WS_HEADER_MAX + 2] = {[SV_WS_HEADER_MAX] = 1000 >> 8,
                                           [SV_WS_HEADER_MAX + 1] = 1000 & 0xFF};
    uint8_t *payload = frame + SV_WS_HEADER_MAX;
    size_t header;

    if (stream->said_close || stream->ended) {
        return;
    }
    stream->said_close = true;
    header = sv_ws_wrap(payload, 2, SV_WS_CLOSE, !stream->server);
    if (sv_ws_stream_write(stream, payload - header, header + 2)) {
        end_lost(stream, SV_E_CLOSED);
    }
}

/* ---- lifetime ---- */

int sv_ws_stream_start(struct sv_ws_stream *stream, struct sv_loop *loop)
{
    stream->watch = sv_watch_new(loop, stream->fd, on_ready, stream);
    if (!stream->watch) {
        return SV_E_NOMEM;
    }
    stream->link->window = SV_LINK_CREDIT;
    stream->credit = SV_LINK_CREDIT;
    sv_watch_set(stream->watch, SV_READABLE);
    return stream->ssl ? attach_tls(stream) : 0;
}

void sv_ws_stream_stop(struct sv_ws_stream *stream)
{
    stream->ended = true;
    if (stream->watch) {
        sv_watch_close(stream->watch);
        stream->watch = NULL;
    }
    if (stream->ssl) {
        SSL_set_fd(stream->ssl, stream->fd);
        stream->ssl = NULL;
    }
}

void sv_ws_stream_clear(struct sv_ws_stream *stream)
{
    sv_ws_stream_stop(stream);
    sv_ws_bytes_release(&stream->rx, stream->blocks);
    sv_ws_bytes_release(&stream->cipher, stream->blocks);
    sv_ws_bytes_release(&stream->tx, stream->blocks);
}
