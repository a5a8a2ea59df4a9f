/* What the session's own files share. */
#ifndef SV_PROTO_SESSION_INTERNAL_H
#define SV_PROTO_SESSION_INTERNAL_H

#include "base/bytes.h"
#include "base/clock.h"
#include "crypto/aead.h"
#include "crypto/keys.h"
#include "proto/noise.h"
#include "proto/replay.h"
#include "proto/session.h"

/* Noise counters stay below this (protocol.md, "Transport"). */
#define SV_COUNTER_LIMIT (UINT64_MAX - 2)

#define SV_ANSWER_NS (5 * SV_NS_PER_S)
#define SV_SILENCE_NS (180 * SV_NS_PER_S)
#define SV_REKEY_GAP_NS (10 * SV_NS_PER_S)
#define SV_OLD_EPOCH_NS (30 * SV_NS_PER_S)

enum {
    SV_REKEY_PROLOGUE = 16 + SV_HASH,
    SV_KEEPALIVE_PLAIN = 20, /* timestamp, srtt, jitter, loss, interval */
};

/* sv_session.pending. Acks wait in ack_count. */
enum {
    SV_PENDING_MESSAGE = 1 << 0, /* handshake->message */
    SV_PENDING_SWITCH = 1 << 1,
    SV_PENDING_KEEPALIVE = 1 << 2,
    SV_PENDING_SETTINGS = 1 << 3,
    SV_PENDING_DISCONNECT = 1 << 4,
};

/* Of the first handshake or of a rekey; on the heap, since most sessions are idle and live. */
struct sv_handshake {
    struct sv_noise noise;
    bool sealed;   /* a rekey: its messages travel as any frame */
    bool finished; /* rekey: the next keys are there */
    uint8_t next_send_key[SV_AEAD_KEY], next_receive_key[SV_AEAD_KEY], next_hash[SV_HASH];
    uint8_t message_type;
    uint8_t *message; /* waits for flush; NULL: none */
    size_t message_len;
};

/* session.c */
enum sv_session_event sv_session_fatal(struct sv_session *s);
/* Disconnect with the code; FATAL where none may be sent. */
enum sv_session_event sv_session_offend(struct sv_session *s, struct sv_received *out, unsigned code,
                                        const char *text);
/* Memory or a counter ran out: closed, and the next timer says so. */
void sv_session_fail(struct sv_session *s);
void sv_session_close(struct sv_session *s);
/* The server's first frame or datagram from the client. */
void sv_session_go_live(struct sv_session *s, struct sv_received *out);
void sv_session_note_received(struct sv_session *s, uint64_t now);
/* Packets only: what the client expects to be answered by something. */
void sv_session_note_sent(struct sv_session *s, uint64_t now);
/* IpPacket's plaintext; an empty one is counted. */
enum sv_session_event sv_session_take_packet(struct sv_session *s, uint8_t *plain, size_t len,
                                             struct sv_received *out);
/* Header, ciphertext and tag under the stream's key; 0 when the counter has run out. */
size_t sv_session_seal_frame(struct sv_session *s, uint64_t now, uint8_t type, uint8_t *dst,
                             const uint8_t *plain, size_t len);

/* session_handshake.c */
bool sv_session_write_init(struct sv_session *s, const uint8_t *server_key);
enum sv_session_event sv_session_receive_handshake(struct sv_session *s, uint64_t now, uint8_t *frame,
                                                   size_t len, struct sv_received *out);
struct sv_handshake *sv_handshake_new(struct sv_session *s);
uint8_t *sv_handshake_message(struct sv_handshake *handshake, uint8_t type, size_t len);
void sv_handshake_drop_message(struct sv_handshake *handshake);
/* Wipes, frees, and takes it out of the session. */
void sv_handshake_end(struct sv_session *s);

/* session_rekey.c */
bool sv_session_rekey_agreed(const struct sv_session *s);
bool sv_session_start_rekey(struct sv_session *s);
enum sv_session_event sv_session_receive_init(struct sv_session *s, uint64_t now, uint8_t *plain, size_t len,
                                              struct sv_received *out);
enum sv_session_event sv_session_receive_resp(struct sv_session *s, uint8_t *plain, size_t len,
                                              struct sv_received *out);
enum sv_session_event sv_session_receive_switch(struct sv_session *s, uint64_t now, size_t len,
                                                struct sv_received *out);
/* After SwitchKeys has gone (client) or come (server). */
void sv_session_switched(struct sv_session *s, uint64_t now);
void sv_session_use_send_key(struct sv_session *s);
void sv_session_use_receive_key(struct sv_session *s);

/* session_timers.c */
enum sv_session_event sv_session_receive_keepalive(struct sv_session *s, uint64_t now, const uint8_t *plain,
                                                   size_t len, struct sv_received *out);
void sv_session_receive_ack(struct sv_session *s, uint64_t now, const uint8_t *plain, size_t len);
/* A keepalive's plaintext; its answer counts from now. */
void sv_session_keepalive_plain(struct sv_session *s, uint64_t now, uint8_t dst[SV_KEEPALIVE_PLAIN]);
/* Client: the intervals that the settings and the own bound make. */
uint16_t sv_session_healthy_secs(const struct sv_session *s);
uint64_t sv_session_next_keepalive(const struct sv_session *s);

/* datagram.c */
/* Before a rekey: its old keys are needed for the old epoch. false: out of memory. */
bool sv_datagrams_before_rekey(struct sv_session *s);
void sv_datagrams_set_next(struct sv_session *s);
void sv_datagrams_promote(struct sv_session *s, uint64_t now);
/* SV_NEVER when there is no old epoch. */
uint64_t sv_datagrams_deadline(const struct sv_session *s);
void sv_datagrams_expire(struct sv_session *s, uint64_t now);
void sv_datagrams_free(struct sv_session *s);

#endif
