/* What the session itself has to say, sealed in the order of the wire. */
#include <stdlib.h>
#include <string.h>

#include "proto/session_internal.h"

enum { MASK_REKEY = 1 << 8 }; /* tag 0x18 in sv_session.settings_mask */

/* Where the frames go. */
struct sink {
    uint64_t now;
    uint8_t *at;
    size_t room;
};

static uint8_t pending_now(const struct sv_session *s)
{
    /* Until the client's first frame the server sends nothing but message 2 and a Disconnect. */
    return s->state == SV_SESSION_LIVE ? s->pending
                                       : s->pending & (SV_PENDING_MESSAGE | SV_PENDING_DISCONNECT);
}

bool sv_session_wants_flush(const struct sv_session *s)
{
    return pending_now(s) != 0 || (s->state == SV_SESSION_LIVE && s->ack_count > 0);
}

static void advance(struct sink *sink, size_t n)
{
    sink->at += n;
    sink->room -= n;
}

/* false: no room now, or the counter has run out and the session failed. */
static bool put_frame(struct sv_session *s, struct sink *sink, uint8_t type, const uint8_t *plain, size_t len)
{
    if (sink->room < len + SV_FRAME_OVERHEAD) {
        return false;
    }
    size_t n = sv_session_seal_frame(s, sink->now, type, sink->at, plain, len);
    if (n == 0) {
        sv_session_fail(s);
        return false;
    }
    advance(sink, n);
    return true;
}

static bool put_plain_message(struct sv_session *s, struct sink *sink)
{
    const struct sv_handshake *handshake = s->handshake;
    if (sink->room < SV_FRAME_HEADER + handshake->message_len) {
        return false;
    }
    sv_frame_put_header(sink->at, handshake->message_type, (uint32_t)handshake->message_len);
    memcpy(sink->at + SV_FRAME_HEADER, handshake->message, handshake->message_len);
    advance(sink, SV_FRAME_HEADER + handshake->message_len);
    s->last_sent = sink->now;
    return true;
}

/* The peer's time to answer counts from here. */
static void first_message_sent(struct sv_session *s, uint64_t now)
{
    s->answer_by = now + SV_ANSWER_NS;
    if (s->server) {
        sv_handshake_end(s);
        return;
    }
    sv_handshake_drop_message(s->handshake);
    s->state = SV_SESSION_WAIT;
}

/* After its answer the server's stream has the new key; the client's has it after SwitchKeys. */
static void rekey_message_sent(struct sv_session *s, uint64_t now)
{
    sv_handshake_drop_message(s->handshake);
    if (s->server) {
        sv_session_use_send_key(s);
    } else {
        s->rekey_init_at = now;
        s->answer_by = now + SV_ANSWER_NS;
    }
}

static bool flush_message(struct sv_session *s, struct sink *sink)
{
    struct sv_handshake *handshake = s->handshake;
    if (!handshake->sealed) {
        if (!put_plain_message(s, sink)) {
            return false;
        }
        first_message_sent(s, sink->now);
    } else {
        if (!put_frame(s, sink, handshake->message_type, handshake->message, handshake->message_len)) {
            return false;
        }
        rekey_message_sent(s, sink->now);
    }
    s->pending &= (uint8_t)~SV_PENDING_MESSAGE;
    return true;
}

static bool flush_switch(struct sv_session *s, struct sink *sink)
{
    if (!put_frame(s, sink, SV_FRAME_SWITCH_KEYS, NULL, 0)) {
        return false;
    }
    s->pending &= (uint8_t)~SV_PENDING_SWITCH;
    sv_session_use_send_key(s);
    sv_session_switched(s, sink->now);
    return true;
}

static bool flush_keepalive(struct sv_session *s, struct sink *sink)
{
    uint8_t plain[SV_KEEPALIVE_PLAIN];
    if (sink->room < sizeof plain + SV_FRAME_OVERHEAD) {
        return false;
    }
    sv_session_keepalive_plain(s, sink->now, plain);
    if (!put_frame(s, sink, SV_FRAME_KEEPALIVE, plain, sizeof plain)) {
        return false;
    }
    s->counters.keepalives_sent++;
    s->pending &= (uint8_t)~SV_PENDING_KEEPALIVE;
    s->next_keepalive = sv_session_next_keepalive(s);
    return true;
}

static bool flush_acks(struct sv_session *s, struct sink *sink)
{
    uint8_t sent = 0;
    while (sent < s->ack_count &&
           put_frame(s, sink, SV_FRAME_KEEPALIVE_ACK, s->acks[sent], sizeof s->acks[sent])) {
        sent++;
    }
    if (s->state == SV_SESSION_CLOSED) {
        return false;
    }
    s->ack_count = (uint8_t)(s->ack_count - sent);
    memmove(s->acks[0], s->acks[sent], s->ack_count * sizeof s->acks[0]);
    return s->ack_count == 0;
}

/* A changed rekey interval counts from here, so that a shorter one is not overdue at once. */
static void settings_sent(struct sv_session *s, uint64_t now)
{
    if (s->settings_mask & MASK_REKEY) {
        s->rekey_secs = s->settings->has_rekey ? s->settings->rekey_secs : SV_REKEY_DEFAULT_SECS;
        s->rekeyed_at = now;
    }
    free(s->settings);
    s->settings = NULL;
    s->settings_mask = 0;
    s->pending &= (uint8_t)~SV_PENDING_SETTINGS;
}

static bool flush_settings(struct sv_session *s, struct sink *sink)
{
    uint8_t plain[SV_SETTINGS_MAX];
    size_t len = sv_settings_write_update(s->settings, s->settings_mask, plain, sizeof plain);
    if (len > 0 && !put_frame(s, sink, SV_FRAME_SETTINGS, plain, len)) {
        return false;
    }
    settings_sent(s, sink->now);
    return true;
}

static bool flush_disconnect(struct sv_session *s, struct sink *sink)
{
    uint8_t plain[1 + SV_DISCONNECT_TEXT_MAX];
    const char *text = s->disconnect_text ? s->disconnect_text : sv_disconnect_text(s->disconnect_code);
    size_t len = strlen(text);
    plain[0] = s->disconnect_code;
    memcpy(plain + 1, text, len);
    if (!put_frame(s, sink, SV_FRAME_DISCONNECT, plain, 1 + len)) {
        return false;
    }
    sv_session_close(s);
    return true;
}

static bool flush_one(struct sv_session *s, struct sink *sink)
{
    static const struct {
        uint8_t bit;
        bool (*flush)(struct sv_session *s, struct sink *sink);
    } order[] = {
        {SV_PENDING_MESSAGE, flush_message},       {SV_PENDING_SWITCH, flush_switch},
        {SV_PENDING_KEEPALIVE, flush_keepalive},   {SV_PENDING_SETTINGS, flush_settings},
        {SV_PENDING_DISCONNECT, flush_disconnect},
    };
    uint8_t pending = pending_now(s);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        if (pending & order[i].bit) {
            return order[i].flush(s, sink);
        }
    }
    return flush_acks(s, sink);
}

size_t sv_session_flush(struct sv_session *s, uint64_t now, uint8_t *dst, size_t cap)
{
    struct sink sink = {now, dst, cap};
    while (sv_session_wants_flush(s) && flush_one(s, &sink)) {
    }
    return (size_t)(sink.at - dst);
}
