/* The first handshake: from nothing to keys, on both sides. */
#include <stdlib.h>
#include <string.h>

#include <smartvpn/base.h>

#include "proto/session_internal.h"

static const char prologue[] = "smartvpn/1";

/* ---- what holds a handshake's state ---- */

struct sv_handshake *sv_handshake_new(struct sv_session *s)
{
    s->handshake = calloc(1, sizeof *s->handshake);
    return s->handshake;
}

uint8_t *sv_handshake_message(struct sv_handshake *handshake, uint8_t type, size_t len)
{
    handshake->message = malloc(len);
    handshake->message_type = type;
    handshake->message_len = len;
    return handshake->message;
}

void sv_handshake_drop_message(struct sv_handshake *handshake)
{
    free(handshake->message);
    handshake->message = NULL;
    handshake->message_len = 0;
}

void sv_handshake_end(struct sv_session *s)
{
    if (!s->handshake) {
        return;
    }
    sv_handshake_drop_message(s->handshake);
    sv_noise_clear(&s->handshake->noise);
    sv_wipe(s->handshake, sizeof *s->handshake);
    free(s->handshake);
    s->handshake = NULL;
}

static bool begin(struct sv_session *s, const uint8_t *server_key)
{
    if (!sv_handshake_new(s)) {
        return false;
    }
    sv_noise_init(&s->handshake->noise, &(struct sv_noise_config){
                                            .initiator = !s->server,
                                            .s_private = s->private_key,
                                            .s_public = s->public_key,
                                            .rs = server_key,
                                            .prologue = prologue,
                                            .prologue_len = sizeof prologue - 1,
                                        });
    return true;
}

static void take_keys(struct sv_session *s)
{
    sv_noise_finish(&s->handshake->noise, s->send_key, s->receive_key, s->handshake_hash);
    sv_noise_clear(&s->handshake->noise);
    s->keyed = true;
}

/* The keys are the same bytes for either cipher. Nothing is sealed with them before both sides' capabilities are known, but for a refusal, where there are no
 * settings: ChaCha20-Poly1305 it is. */
static void agree_on_cipher(struct sv_session *s)
{
    if (s->capabilities & s->peer_capabilities & SV_CAP_AES_GCM) {
        s->aead = sv_aead_aes;
    }
}

/* ---- client ---- */

bool sv_session_write_init(struct sv_session *s, const uint8_t *server_key)
{
    uint8_t hello[SV_HELLO_MAX];
    size_t len = sv_hello_write(&s->hello, hello, sizeof hello);
    s->ask_type = s->hello.has_resume ? SV_FRAME_SESSION_RESUME : SV_FRAME_HANDSHAKE_INIT;
    memcpy(s->peer_key, server_key, SV_KEY);
    if (!begin(s, server_key)) {
        return false;
    }
    uint8_t *message = sv_handshake_message(s->handshake, s->ask_type, len + SV_NOISE_MESSAGE1);
    if (!message || sv_noise_write1(&s->handshake->noise, message, hello, len) != 0) {
        return false;
    }
    s->pending = SV_PENDING_MESSAGE;
    return true;
}

static bool answers(const struct sv_session *s, uint8_t type)
{
    if (s->ask_type == SV_FRAME_HANDSHAKE_INIT) {
        return type == SV_FRAME_HANDSHAKE_RESP;
    }
    return type == SV_FRAME_SESSION_RESUME_OK || type == SV_FRAME_SESSION_RESUME_ERR;
}

static void client_goes_live(struct sv_session *s, uint64_t now, struct sv_received *out)
{
    s->peer_capabilities = s->settings->capabilities;
    agree_on_cipher(s);
    s->rekey_secs = s->settings->rekey_secs;
    memcpy(s->session_id, s->settings->session_id, sizeof s->session_id);
    sv_quality_init(&s->quality, sv_session_healthy_secs(s));
    s->handshake_rtt = now - (s->answer_by - SV_ANSWER_NS);
    s->rekeyed_at = now;
    s->pending |= SV_PENDING_KEEPALIVE;
    sv_session_go_live(s, out);
}

/* With an empty payload the server refuses: its Disconnect says why. */
static enum sv_session_event client_takes_payload(struct sv_session *s, uint64_t now, const uint8_t *payload,
                                                  size_t len, struct sv_received *out)
{
    if (len == 0) {
        return SV_SESSION_NOTHING;
    }
    s->settings = malloc(sizeof *s->settings);
    if (!s->settings || sv_settings_read(s->settings, payload, len) != 0) {
        return sv_session_fatal(s);
    }
    client_goes_live(s, now, out);
    return SV_SESSION_ON_LIVE;
}

static enum sv_session_event receive_message2(struct sv_session *s, uint64_t now, uint8_t *frame, size_t len,
                                              struct sv_received *out)
{
    uint8_t *message = frame + SV_FRAME_HEADER, *payload = message + SV_KEY;
    size_t message_len = len - SV_FRAME_HEADER;
    if (s->state != SV_SESSION_WAIT || !answers(s, frame[0]) ||
        sv_noise_read2(&s->handshake->noise, payload, message, message_len) != 0) {
        return sv_session_fatal(s);
    }
    take_keys(s);
    sv_handshake_end(s);
    s->resumed = frame[0] == SV_FRAME_SESSION_RESUME_OK;
    sv_session_note_received(s, now);
    return client_takes_payload(s, now, payload, message_len - SV_NOISE_MESSAGE2, out);
}

/* ---- server ---- */

static bool is_init(uint8_t type)
{
    return type == SV_FRAME_HANDSHAKE_INIT || type == SV_FRAME_SESSION_RESUME;
}

bool sv_session_peek_ephemeral(const uint8_t *frame, size_t len, const uint8_t **e)
{
    *e = len >= SV_FRAME_HEADER + SV_KEY && is_init(frame[0]) ? frame + SV_FRAME_HEADER : NULL;
    return *e != NULL;
}

/* In HandshakeInit the resume tag means nothing; SessionResume without it is a bad message. */
static bool take_hello(struct sv_session *s, const uint8_t *payload, size_t len)
{
    if (sv_hello_read(&s->hello, payload, len) != 0) {
        return false;
    }
    if (s->ask_type == SV_FRAME_SESSION_RESUME) {
        return s->hello.has_resume;
    }
    s->hello.has_resume = false;
    memset(s->hello.resume_id, 0, sizeof s->hello.resume_id);
    return true;
}

static bool open_message1(struct sv_session *s, uint8_t *message, size_t len)
{
    uint8_t *payload = message + SV_NOISE_MESSAGE1 - SV_AEAD_TAG;
    return sv_noise_read1(&s->handshake->noise, payload, message, len) == 0 &&
           take_hello(s, payload, len - SV_NOISE_MESSAGE1);
}

static enum sv_session_event receive_message1(struct sv_session *s, uint8_t *frame, size_t len)
{
    size_t message_len = len - SV_FRAME_HEADER;
    if (s->state != SV_SESSION_START || !is_init(frame[0]) || message_len > SV_FRAME_MAX_BEFORE_KEYS) {
        return sv_session_fatal(s);
    }
    s->ask_type = frame[0];
    if (!begin(s, NULL) || !open_message1(s, frame + SV_FRAME_HEADER, message_len)) {
        return sv_session_fatal(s);
    }
    memcpy(s->peer_key, s->handshake->noise.rs, SV_KEY);
    s->peer_capabilities = s->hello.capabilities;
    s->state = SV_SESSION_HELLO;
    return SV_SESSION_ON_HELLO;
}

enum sv_session_event sv_session_receive_handshake(struct sv_session *s, uint64_t now, uint8_t *frame,
                                                   size_t len, struct sv_received *out)
{
    return s->server ? receive_message1(s, frame, len) : receive_message2(s, now, frame, len, out);
}

static uint8_t answer_type(const struct sv_session *s, bool resumed)
{
    if (s->ask_type == SV_FRAME_HANDSHAKE_INIT) {
        return SV_FRAME_HANDSHAKE_RESP;
    }
    return resumed ? SV_FRAME_SESSION_RESUME_OK : SV_FRAME_SESSION_RESUME_ERR;
}

/* Message 2 waits for flush and the keys are there. */
static bool answer(struct sv_session *s, uint64_t now, uint8_t type, const uint8_t *payload, size_t len)
{
    uint8_t *message = sv_handshake_message(s->handshake, type, len + SV_NOISE_MESSAGE2);
    if (!message || sv_noise_write2(&s->handshake->noise, message, payload, len) != 0) {
        return false;
    }
    take_keys(s);
    s->state = SV_SESSION_WAIT;
    s->pending = SV_PENDING_MESSAGE;
    s->rekeyed_at = now;
    s->answer_by = now + SV_ANSWER_NS;
    return true;
}

void sv_session_accept(struct sv_session *s, uint64_t now, const struct sv_settings *settings, bool resumed)
{
    uint8_t payload[SV_SETTINGS_MAX];
    if (s->state != SV_SESSION_HELLO) {
        return;
    }
    size_t len = sv_settings_write(settings, payload, sizeof payload);
    if (len == 0 || !answer(s, now, answer_type(s, resumed), payload, len)) {
        sv_session_fail(s);
        return;
    }
    s->resumed = resumed && s->ask_type == SV_FRAME_SESSION_RESUME;
    s->capabilities = settings->capabilities;
    agree_on_cipher(s);
    s->rekey_secs = settings->has_rekey ? settings->rekey_secs : SV_REKEY_DEFAULT_SECS;
    memcpy(s->session_id, settings->session_id, sizeof s->session_id);
}

void sv_session_refuse(struct sv_session *s, uint64_t now, unsigned code, const char *text)
{
    if (s->state != SV_SESSION_HELLO) {
        return;
    }
    if (!answer(s, now, answer_type(s, false), NULL, 0)) {
        sv_session_fail(s);
        return;
    }
    sv_session_disconnect(s, code, text);
}
