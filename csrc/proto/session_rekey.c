/* Fresh keys inside a live session, without a gap in either direction (protocol.md, "Rekey and resume"). */
#include <string.h>

#include <smartvpn/base.h>

#include "proto/session_internal.h"

bool sv_session_rekey_agreed(const struct sv_session *s)
{
    return s->rekey_secs > 0 && (s->capabilities & s->peer_capabilities & SV_CAP_REKEY) != 0;
}

static bool begin(struct sv_session *s)
{
    uint8_t prologue[SV_REKEY_PROLOGUE];
    if (!sv_handshake_new(s) || !sv_datagrams_before_rekey(s)) {
        return false;
    }
    memcpy(prologue, "smartvpn/1 rekey", SV_REKEY_PROLOGUE - SV_HASH);
    memcpy(prologue + SV_REKEY_PROLOGUE - SV_HASH, s->handshake_hash, SV_HASH);
    sv_noise_init(&s->handshake->noise, &(struct sv_noise_config){
                                            .initiator = !s->server,
                                            .s_private = s->private_key,
                                            .s_public = s->public_key,
                                            .rs = s->server ? NULL : s->peer_key,
                                            .prologue = prologue,
                                            .prologue_len = sizeof prologue,
                                        });
    s->handshake->sealed = true;
    return true;
}

static void finish(struct sv_session *s)
{
    struct sv_handshake *handshake = s->handshake;
    sv_noise_finish(&handshake->noise, handshake->next_send_key, handshake->next_receive_key,
                    handshake->next_hash);
    sv_noise_clear(&handshake->noise);
    handshake->finished = true;
    sv_datagrams_set_next(s);
}

void sv_session_use_send_key(struct sv_session *s)
{
    memcpy(s->send_key, s->handshake->next_send_key, sizeof s->send_key);
    s->send_counter = 0;
}

void sv_session_use_receive_key(struct sv_session *s)
{
    memcpy(s->receive_key, s->handshake->next_receive_key, sizeof s->receive_key);
    s->receive_counter = 0;
}

void sv_session_switched(struct sv_session *s, uint64_t now)
{
    memcpy(s->handshake_hash, s->handshake->next_hash, sizeof s->handshake_hash);
    sv_datagrams_promote(s, now);
    sv_handshake_end(s);
    s->epoch++;
    s->rekeyed_at = now;
    s->counters.rekeys++;
}

/* ---- client ---- */

bool sv_session_start_rekey(struct sv_session *s)
{
    if (!begin(s)) {
        return false;
    }
    uint8_t *message = sv_handshake_message(s->handshake, SV_FRAME_HANDSHAKE_INIT, SV_NOISE_MESSAGE1);
    if (!message || sv_noise_write1(&s->handshake->noise, message, NULL, 0) != 0) {
        return false;
    }
    s->pending |= SV_PENDING_MESSAGE;
    return true;
}

static bool expects_resp(const struct sv_session *s)
{
    return s->handshake && !s->handshake->finished && !(s->pending & SV_PENDING_MESSAGE);
}

enum sv_session_event sv_session_receive_resp(struct sv_session *s, uint8_t *plain, size_t len,
                                              struct sv_received *out)
{
    if (!expects_resp(s)) {
        return sv_session_offend(s, out, SV_DISCONNECT_PROTOCOL_ERROR, "unexpected frame");
    }
    if (sv_noise_read2(&s->handshake->noise, plain + SV_KEY, plain, len) != 0) {
        return sv_session_offend(s, out, SV_DISCONNECT_PROTOCOL_ERROR, "rekey failed");
    }
    finish(s);
    sv_session_use_receive_key(s);
    s->answer_by = SV_NEVER;
    s->pending |= SV_PENDING_SWITCH;
    return SV_SESSION_NOTHING;
}

/* ---- server ---- */

/* NULL, or what is wrong with an Init that comes now. */
static const char *init_offence(const struct sv_session *s, uint64_t now)
{
    if (!(s->capabilities & SV_CAP_REKEY)) {
        return "unexpected frame";
    }
    if (s->handshake) {
        return "second rekey before SwitchKeys";
    }
    if (s->rekey_init_at != 0 && now - s->rekey_init_at < SV_REKEY_GAP_NS) {
        return "rekey too soon";
    }
    return NULL;
}

/* The static key that message 1 shows must be the session's. */
static bool answer(struct sv_session *s, uint8_t *plain, size_t len)
{
    struct sv_noise *noise = &s->handshake->noise;
    if (sv_noise_read1(noise, plain + SV_NOISE_MESSAGE1 - SV_AEAD_TAG, plain, len) != 0 ||
        !sv_equal(noise->rs, s->peer_key, SV_KEY)) {
        return false;
    }
    return sv_noise_write2(noise, s->handshake->message, NULL, 0) == 0;
}

enum sv_session_event sv_session_receive_init(struct sv_session *s, uint64_t now, uint8_t *plain, size_t len,
                                              struct sv_received *out)
{
    const char *offence = init_offence(s, now);
    if (offence) {
        return sv_session_offend(s, out, SV_DISCONNECT_PROTOCOL_ERROR, offence);
    }
    s->rekey_init_at = now;
    if (!begin(s) || !sv_handshake_message(s->handshake, SV_FRAME_HANDSHAKE_RESP, SV_NOISE_MESSAGE2)) {
        return sv_session_offend(s, out, SV_DISCONNECT_INTERNAL, NULL);
    }
    if (!answer(s, plain, len)) {
        return sv_session_offend(s, out, SV_DISCONNECT_PROTOCOL_ERROR, "rekey failed");
    }
    finish(s);
    s->pending |= SV_PENDING_MESSAGE;
    return SV_SESSION_NOTHING;
}

enum sv_session_event sv_session_receive_switch(struct sv_session *s, uint64_t now, size_t len,
                                                struct sv_received *out)
{
    if (!s->handshake || (s->pending & SV_PENDING_MESSAGE) || len != 0) {
        return sv_session_offend(s, out, SV_DISCONNECT_PROTOCOL_ERROR, "unexpected frame");
    }
    sv_session_use_receive_key(s);
    sv_session_switched(s, now);
    return SV_SESSION_NOTHING;
}
