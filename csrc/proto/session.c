#include "proto/session.h"

#include <stdlib.h>
#include <string.h>

#include <smartvpn/base.h>

#include "proto/session_internal.h"

enum { SUPER_KINDS = 3, SUPER_SEGMENT_MIN = 256, FIRST_SKIPPED_TYPE = 0x80 };

const char *sv_disconnect_text(unsigned code)
{
#define TEXT(name, value, text) \
    case value:                 \
        return text;
    switch (code) {
        SV_DISCONNECTS(TEXT)
    default:
        return "unknown reason";
    }
#undef TEXT
}

bool sv_disconnect_final(unsigned code)
{
    const unsigned final = 1u << SV_DISCONNECT_SUPERSEDED | 1u << SV_DISCONNECT_DISABLED |
                           1u << SV_DISCONNECT_EXPIRED | 1u << SV_DISCONNECT_REMOVED |
                           1u << SV_DISCONNECT_KEY_ROTATED | 1u << SV_DISCONNECT_TOO_MANY |
                           1u << SV_DISCONNECT_SOURCE_DENIED;
    return code <= SV_DISCONNECT_INTERNAL && (final >> code & 1) != 0;
}

/* ---- life ---- */

void sv_session_init(struct sv_session *s, const struct sv_session_config *config, uint64_t now)
{
    memset(s, 0, sizeof *s);
    s->server = config->server;
    s->private_key = config->private_key;
    s->public_key = config->public_key;
    s->aead = sv_aead;
    s->answer_by = now + SV_ANSWER_NS;
    s->next_keepalive = SV_NEVER;
    sv_quality_init(&s->quality, SV_KEEPALIVE_DEFAULT_SECS);
    if (s->server) {
        return;
    }
    s->hello = config->hello;
    s->capabilities = config->hello.capabilities;
    s->keepalive_secs = config->keepalive_secs;
    if (!sv_session_write_init(s, config->server_key)) {
        sv_session_fail(s);
    }
}

static void wipe_keys(struct sv_session *s)
{
    sv_wipe(s->send_key, sizeof s->send_key);
    sv_wipe(s->receive_key, sizeof s->receive_key);
    sv_handshake_end(s);
    sv_datagrams_free(s);
}

void sv_session_close(struct sv_session *s)
{
    s->state = SV_SESSION_CLOSED;
    s->pending = 0;
    s->ack_count = 0;
    wipe_keys(s);
}

void sv_session_clear(struct sv_session *s)
{
    wipe_keys(s);
    free(s->settings);
    free(s->disconnect_text);
    sv_wipe(s, sizeof *s);
    s->state = SV_SESSION_CLOSED;
}

void sv_session_fail(struct sv_session *s)
{
    sv_session_close(s);
    s->failed = true;
}

enum sv_session_event sv_session_fatal(struct sv_session *s)
{
    sv_session_close(s);
    return SV_SESSION_ON_FATAL;
}

static bool may_disconnect(const struct sv_session *s)
{
    return s->keyed && (s->server || s->state == SV_SESSION_LIVE);
}

/* Without memory the code's own text goes out. */
static void set_disconnect(struct sv_session *s, unsigned code, const char *text)
{
    s->disconnect_code = (uint8_t)code;
    s->disconnect_text = text ? strndup(text, SV_DISCONNECT_TEXT_MAX) : NULL;
}

void sv_session_disconnect(struct sv_session *s, unsigned code, const char *text)
{
    if (s->state >= SV_SESSION_CLOSING) {
        return;
    }
    set_disconnect(s, code, text);
    if (!may_disconnect(s)) {
        sv_session_close(s);
        return;
    }
    bool unanswered = s->handshake && !s->handshake->sealed;
    s->state = SV_SESSION_CLOSING;
    s->pending = (uint8_t)((unanswered ? s->pending & SV_PENDING_MESSAGE : 0) | SV_PENDING_DISCONNECT);
    s->ack_count = 0;
}

enum sv_session_event sv_session_offend(struct sv_session *s, struct sv_received *out, unsigned code,
                                        const char *text)
{
    if (!may_disconnect(s)) {
        return sv_session_fatal(s);
    }
    sv_session_disconnect(s, code, text);
    out->code = s->disconnect_code;
    out->text = s->disconnect_text ? s->disconnect_text : sv_disconnect_text(code);
    out->text_len = strlen(out->text);
    return SV_SESSION_ON_OFFENCE;
}

void sv_session_update_settings(struct sv_session *s, const struct sv_settings *settings, uint32_t mask)
{
    if (!s->server || (s->state != SV_SESSION_WAIT && s->state != SV_SESSION_LIVE)) {
        return;
    }
    if (!s->settings && !(s->settings = malloc(sizeof *s->settings))) {
        sv_session_disconnect(s, SV_DISCONNECT_INTERNAL, NULL);
        return;
    }
    *s->settings = *settings;
    s->settings_mask |= mask;
    s->pending |= SV_PENDING_SETTINGS;
}

uint32_t sv_session_max_payload(const struct sv_session *s)
{
    return s->server && !s->keyed ? SV_FRAME_MAX_BEFORE_KEYS : SV_FRAME_MAX_PAYLOAD;
}

/* ---- sending ---- */

void sv_session_note_sent(struct sv_session *s, uint64_t now)
{
    if (s->unanswered_since == 0) {
        s->unanswered_since = now;
    }
}

size_t sv_session_seal_frame(struct sv_session *s, uint64_t now, uint8_t type, uint8_t *dst,
                             const uint8_t *plain, size_t len)
{
    uint8_t nonce[SV_AEAD_NONCE];
    if (s->send_counter >= SV_COUNTER_LIMIT) {
        return 0;
    }
    sv_frame_put_header(dst, type, (uint32_t)(len + SV_AEAD_TAG));
    sv_aead_nonce(s->aead, nonce, s->send_counter);
    if (s->aead->seal(s->send_key, nonce, dst, SV_FRAME_HEADER, dst + SV_FRAME_HEADER, plain, len) != 0) {
        return 0;
    }
    s->send_counter++;
    s->last_sent = now;
    return len + SV_FRAME_OVERHEAD;
}

bool sv_session_can_send(const struct sv_session *s)
{
    return s->state == SV_SESSION_LIVE && (s->server || s->counters.keepalives_sent > 0);
}

size_t sv_session_seal(struct sv_session *s, uint64_t now, uint8_t type, uint8_t *dst, const uint8_t *plain,
                       size_t len)
{
    if (!sv_session_can_send(s) || len > SV_FRAME_MAX_PLAIN) {
        return 0;
    }
    size_t n = sv_session_seal_frame(s, now, type, dst, plain, len);
    if (n > 0) {
        sv_session_note_sent(s, now);
    }
    return n;
}

/* ---- receiving ---- */

void sv_session_note_received(struct sv_session *s, uint64_t now)
{
    s->last_received = now;
    s->unanswered_since = 0;
    s->probes = 0;
    s->suspect = false;
}

void sv_session_go_live(struct sv_session *s, struct sv_received *out)
{
    s->state = SV_SESSION_LIVE;
    s->answer_by = SV_NEVER;
    out->went_live = true;
}

static enum sv_session_event malformed(struct sv_session *s, size_t len, struct sv_received *out)
{
    s->counters.malformed_packets++;
    out->packet_len = len;
    return SV_SESSION_ON_MALFORMED;
}

enum sv_session_event sv_session_take_packet(struct sv_session *s, uint8_t *plain, size_t len,
                                             struct sv_received *out)
{
    if (len == 0) {
        return malformed(s, len, out);
    }
    out->packet = plain;
    out->packet_len = len;
    return SV_SESSION_ON_PACKET;
}

static enum sv_session_event take_super_packet(struct sv_session *s, uint8_t *plain, size_t len,
                                               struct sv_received *out)
{
    if (len <= SV_FRAME_SUPER_PREFIX || plain[0] == 0 || plain[0] > SUPER_KINDS ||
        sv_load16be(plain + 1) < SUPER_SEGMENT_MIN) {
        return malformed(s, len, out);
    }
    out->kind = plain[0];
    out->segment_size = sv_load16be(plain + 1);
    return sv_session_take_packet(s, plain + SV_FRAME_SUPER_PREFIX, len - SV_FRAME_SUPER_PREFIX, out);
}

static enum sv_session_event take_disconnect(struct sv_session *s, const uint8_t *plain, size_t len,
                                             struct sv_received *out)
{
    if (len > 0) {
        size_t text_len = len - 1;
        out->code = plain[0];
        out->text = (const char *)plain + 1;
        out->text_len = text_len < SV_DISCONNECT_TEXT_MAX ? text_len : SV_DISCONNECT_TEXT_MAX;
    }
    sv_session_close(s);
    return SV_SESSION_ON_DISCONNECT;
}

static enum sv_session_event take_settings(struct sv_session *s, const uint8_t *plain, size_t len,
                                           struct sv_received *out)
{
    if (sv_settings_apply_update(s->settings, plain, len) != 0) {
        return sv_session_offend(s, out, SV_DISCONNECT_PROTOCOL_ERROR, "malformed settings");
    }
    s->rekey_secs = s->settings->rekey_secs;
    s->quality.healthy_secs = sv_session_healthy_secs(s);
    s->next_keepalive = sv_session_next_keepalive(s);
    return SV_SESSION_ON_SETTINGS;
}

static enum sv_session_event out_of_state(struct sv_session *s, uint8_t type, struct sv_received *out)
{
    if (type >= FIRST_SKIPPED_TYPE) {
        s->counters.unknown_frames++;
        return SV_SESSION_NOTHING;
    }
    return sv_session_offend(s, out, SV_DISCONNECT_PROTOCOL_ERROR, "unexpected frame");
}

static enum sv_session_event from_client(struct sv_session *s, uint64_t now, uint8_t type, uint8_t *plain,
                                         size_t len, struct sv_received *out)
{
    switch (type) {
    case SV_FRAME_KEEPALIVE:
        return sv_session_receive_keepalive(s, now, plain, len, out);
    case SV_FRAME_KEEPALIVE_ACK:
        return SV_SESSION_NOTHING;
    case SV_FRAME_HANDSHAKE_INIT:
        return sv_session_receive_init(s, now, plain, len, out);
    case SV_FRAME_SWITCH_KEYS:
        return sv_session_receive_switch(s, now, len, out);
    default:
        return out_of_state(s, type, out);
    }
}

static enum sv_session_event from_server(struct sv_session *s, uint64_t now, uint8_t type, uint8_t *plain,
                                         size_t len, struct sv_received *out)
{
    switch (type) {
    case SV_FRAME_KEEPALIVE_ACK:
        sv_session_receive_ack(s, now, plain, len);
        return SV_SESSION_NOTHING;
    case SV_FRAME_HANDSHAKE_RESP:
        return sv_session_receive_resp(s, plain, len, out);
    case SV_FRAME_SETTINGS:
        return take_settings(s, plain, len, out);
    default:
        return out_of_state(s, type, out);
    }
}

static enum sv_session_event take_frame(struct sv_session *s, uint64_t now, uint8_t type, uint8_t *plain,
                                        size_t len, struct sv_received *out)
{
    switch (type) {
    case SV_FRAME_IP_PACKET:
        return sv_session_take_packet(s, plain, len, out);
    case SV_FRAME_IP_SUPER_PACKET:
        return take_super_packet(s, plain, len, out);
    case SV_FRAME_DISCONNECT:
        return take_disconnect(s, plain, len, out);
    default:
        return s->server ? from_client(s, now, type, plain, len, out)
                         : from_server(s, now, type, plain, len, out);
    }
}

/* Server: whatever opens makes the session live, but for a Disconnect. Client: only a refused one comes here.
 */
static enum sv_session_event take_first_frame(struct sv_session *s, uint64_t now, uint8_t type,
                                              uint8_t *plain, size_t len, struct sv_received *out)
{
    if (type == SV_FRAME_DISCONNECT) {
        return take_disconnect(s, plain, len, out);
    }
    if (!s->server) {
        return sv_session_fatal(s);
    }
    sv_session_go_live(s, out);
    enum sv_session_event event = take_frame(s, now, type, plain, len, out);
    if (event == SV_SESSION_ON_OFFENCE) {
        out->went_live = false;
    }
    return event == SV_SESSION_NOTHING ? SV_SESSION_ON_LIVE : event;
}

/* Header, length and tag; the plaintext then stands behind the header. */
static bool open_frame(struct sv_session *s, uint8_t *frame, size_t len)
{
    uint8_t nonce[SV_AEAD_NONCE];
    if (len < SV_FRAME_OVERHEAD || s->receive_counter >= SV_COUNTER_LIMIT) {
        return false;
    }
    uint8_t *body = frame + SV_FRAME_HEADER;
    sv_aead_nonce(s->aead, nonce, s->receive_counter);
    if (s->aead->open(s->receive_key, nonce, frame, SV_FRAME_HEADER, body, body, len - SV_FRAME_OVERHEAD) !=
        0) {
        return false;
    }
    s->receive_counter++;
    return true;
}

static enum sv_session_event receive_sealed(struct sv_session *s, uint64_t now, uint8_t *frame, size_t len,
                                            struct sv_received *out)
{
    if (!open_frame(s, frame, len)) {
        return sv_session_fatal(s);
    }
    sv_session_note_received(s, now);
    uint8_t *plain = frame + SV_FRAME_HEADER;
    size_t plain_len = len - SV_FRAME_OVERHEAD;
    if (s->state != SV_SESSION_LIVE) {
        return take_first_frame(s, now, frame[0], plain, plain_len, out);
    }
    return take_frame(s, now, frame[0], plain, plain_len, out);
}

void sv_session_receive(struct sv_session *s, uint64_t now, uint8_t *frame, size_t len,
                        struct sv_received *out)
{
    memset(out, 0, sizeof *out);
    if (s->state >= SV_SESSION_CLOSING) {
        return;
    }
    if (len < SV_FRAME_HEADER || sv_load32be(frame + 1) != len - SV_FRAME_HEADER) {
        out->event = sv_session_fatal(s);
    } else if (s->keyed) {
        out->event = receive_sealed(s, now, frame, len, out);
    } else {
        out->event = sv_session_receive_handshake(s, now, frame, len, out);
    }
}
