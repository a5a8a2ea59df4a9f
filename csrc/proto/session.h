/* The native session on one link: frames and time in, frames and deadlines out (protocol.md). Opens no fd,
 * reads no clock.
 *
 *     server:  expects Init ─hello→ (accept | refuse) ─first frame→ live ─→ closed
 *     client:  Init pending ─settings→ live (Keepalive pending) ─→ closed
 *
 * What the session itself has to say (handshake, keepalives, rekey, Disconnect) waits as flags and is sealed
 * by sv_session_flush when the link can be written, since the order of sealing must be the order on the wire.
 * Packets are sealed by sv_session_seal.
 */
#ifndef SV_PROTO_SESSION_H
#define SV_PROTO_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/frame.h"
#include "proto/quality.h"
#include "proto/settings.h"

/* The wire's Disconnect codes and their texts. */
#define SV_DISCONNECTS(X)                        \
    X(NORMAL, 0, "normal")                       \
    X(SUPERSEDED, 1, "superseded")               \
    X(DISABLED, 2, "disabled")                   \
    X(EXPIRED, 3, "expired")                     \
    X(REMOVED, 4, "removed")                     \
    X(KEY_ROTATED, 5, "key rotated")             \
    X(KICKED, 6, "kicked")                       \
    X(SHUTTING_DOWN, 7, "server shutting down")  \
    X(TOO_MANY, 8, "too many connections")       \
    X(SOURCE_DENIED, 9, "source address denied") \
    X(IDLE, 10, "idle")                          \
    X(PROTOCOL_ERROR, 11, "protocol error")      \
    X(REKEY_OVERDUE, 12, "rekey overdue")        \
    X(NO_ADDRESS, 13, "no address")              \
    X(BUSY, 14, "server busy")                   \
    X(INTERNAL, 15, "internal error")

#define SV_DISCONNECT_ENUM(name, value, text) SV_DISCONNECT_##name = (value),
enum sv_disconnect { SV_DISCONNECTS(SV_DISCONNECT_ENUM) };
#undef SV_DISCONNECT_ENUM

enum {
    SV_DISCONNECT_TEXT_MAX = 255,
    SV_SESSION_FLUSH_MAX = 16 * 1024, /* all that can wait at one time */
    SV_DATAGRAM_HEADER = 10,          /* type, epoch, counter */
    SV_DATAGRAM_OVERHEAD = 26,        /* header and tag */
};

/* Text of a code; "unknown reason" for others. */
const char *sv_disconnect_text(unsigned code);
/* 1, 2, 3, 4, 5, 8, 9: report and stop; the others: come back. */
bool sv_disconnect_final(unsigned code);

enum sv_session_state {
    SV_SESSION_START, /* server: expects message 1; client: message 1 not yet flushed */
    SV_SESSION_HELLO, /* server: message 1 opened, accept or refuse is due */
    SV_SESSION_WAIT,  /* server: message 2 sent, expects the first frame; client: expects message 2 */
    SV_SESSION_LIVE,
    SV_SESSION_CLOSING, /* a Disconnect waits to be flushed; nothing else is sent or taken in */
    SV_SESSION_CLOSED,
};

/* What a received frame, or a timer, asks of the owner. */
enum sv_session_event {
    SV_SESSION_NOTHING,
    SV_SESSION_ON_HELLO,  /* server: look peer_key up, then accept or refuse */
    SV_SESSION_ON_LIVE,   /* server: first keyed frame opened (a KEEPALIVE or other control frame); client:
                               settings are there */
    SV_SESSION_ON_PACKET, /* packet, kind, segment_size are set; server: went_live may be set as well: admit
                               first */
    SV_SESSION_ON_MALFORMED, /* no packet, or a super-packet prefix that lies: count packet_len bytes as dropped;
                                went_live as with a packet */
    SV_SESSION_ON_SETTINGS,   /* client: settings changed by a Settings frame */
    SV_SESSION_ON_DISCONNECT, /* the peer's Disconnect: code, text */
    SV_SESSION_ON_SUSPECT, /* client, from a timer: the path looks dead, open another link and resume there */
    SV_SESSION_ON_DEAD,    /* from a timer: peer dead or half-open too long: close without a Disconnect */
    SV_SESSION_ON_OFFENCE, /* a Disconnect (code) waits: flush, then close */
    SV_SESSION_ON_FATAL,   /* close at once without a frame byte: bad handshake, bad length, failed decryption
                            */
};

struct sv_received {
    enum sv_session_event event;
    bool went_live;
    uint8_t kind;          /* 0 for IpPacket, else IpSuperPacket's kind, range-checked 1..3 */
    uint16_t segment_size; /* checked ≥ 256 when kind is not 0 */
    uint8_t *packet;       /* opened in place, writable */
    size_t packet_len;
    uint8_t code; /* Disconnect */
    size_t text_len;
    const char *text; /* from the network, not NUL-ended: escape before logging */
};

enum { SV_SESSION_ACKS = 4 };

struct sv_session_counters {
    uint64_t keepalives_sent, keepalives_received, acks_received, rekeys;
    uint64_t malformed_packets; /* super-packet prefix that lies, empty packets: dropped, counted here */
    uint64_t unknown_frames;    /* types from 0x80 skipped */
    uint64_t datagrams_received;
    uint64_t datagrams_expected; /* received, and those missing between them: by their counters */
    uint64_t datagrams_dropped;  /* wrong in length, type, epoch, tag or counter */
};

struct sv_aead_impl; /* crypto/aead.h */
struct sv_handshake; /* session_internal.h */
struct sv_datagrams;

/* Fields are read by the owner, changed only by the functions below. Times are ns; 0 or SV_NEVER where
 * stated. */
struct sv_session {
    enum sv_session_state state;
    bool server;
    bool keyed;       /* the keys below are there */
    bool resumed;     /* SessionResumeOk was the answer */
    bool suspect;     /* client: SUSPECT was told and nothing came since */
    bool failed;      /* memory or a counter ran out: the next timer says DEAD */
    uint8_t pending;  /* what waits for flush, session_internal.h */
    uint8_t ask_type; /* HandshakeInit or SessionResume: what the first handshake began with */
    uint8_t probes;   /* client: keepalives in a row because data got no answer */

    const struct sv_aead_impl *aead; /* what the keys below are for */
    /* Keys of the stream. The counters are the next frame's. */
    uint8_t send_key[32], receive_key[32];
    uint64_t send_counter, receive_counter;
    uint64_t last_received; /* last frame or datagram that opened */
    uint64_t last_sent;
    uint64_t unanswered_since; /* client: first data sent since last_received; 0: none */
    uint64_t last_probe;       /* client: when it was last asked because of that */
    uint32_t capabilities, peer_capabilities;

    struct sv_handshake *handshake; /* NULL but during a handshake or rekey */
    struct sv_datagrams *datagrams; /* NULL before the first datagram */
    struct sv_settings
        *settings; /* client: as received, NULL before; server: NULL but while a Settings frame waits */
    uint32_t settings_mask;     /* of that frame */
    uint8_t handshake_hash[32]; /* of the last handshake: binds the next rekey */
    const uint8_t *private_key, *public_key;
    uint8_t peer_key[32];   /* the peer's static key */
    uint8_t session_id[16]; /* once the settings are sent or received */
    struct sv_hello hello;  /* the client's */

    uint64_t answer_by;     /* the handshake's or rekey's next step is due; SV_NEVER */
    uint64_t rekey_secs;    /* 0: never */
    uint64_t rekeyed_at;    /* last change of keys */
    uint64_t rekey_init_at; /* the last rekey's Init; 0: none yet */
    uint8_t epoch;          /* of datagrams: rekeys mod 256 */

    uint8_t disconnect_code;
    uint8_t ack_count;     /* server: acks that wait */
    bool keepalive_asked;  /* client: `asked` waits for its ack */
    char *disconnect_text; /* NULL: the code's own */
    union {
        uint8_t acks[SV_SESSION_ACKS][8]; /* server */
        uint8_t asked[8];                 /* client: timestamp of the last keepalive */
    };
    uint64_t last_keepalive;     /* client: sent; server: received; 0: none */
    uint64_t next_keepalive;     /* client */
    uint64_t handshake_rtt;      /* client: stands for srtt until there is one */
    uint16_t keepalive_secs;     /* client: own upper bound; 0: none */
    uint16_t peer_interval_secs; /* server: the client's keepalive interval as reported; 0: never reported */
    uint16_t peer_loss;          /* server: as reported, 65535 = 100 % */
    struct sv_quality quality;   /* client: measured; server: srtt and jitter as reported */
    struct sv_session_counters counters;
};

struct sv_session_config {
    bool server;
    const uint8_t *private_key; /* own static key, 32 bytes; borrowed for the session's life */
    const uint8_t *public_key;  /* its public half; borrowed */
    const uint8_t *server_key;  /* client: the hub's static key; copied */
    struct sv_hello hello;      /* client: what to say; with has_resume it asks by SessionResume */
    uint16_t keepalive_secs;    /* client: own upper bound; 0: none */
};

/* `now` is the accept (server) or the moment the link is open (client): the handshake's 5 s start. */
void sv_session_init(struct sv_session *s, const struct sv_session_config *config, uint64_t now);
/* Wipes all and frees what it holds. */
void sv_session_clear(struct sv_session *s);

/* The longest payload that the peer may send now: for sv_frame_reader.max_payload, asked before every
 * sv_frame_next. */
uint32_t sv_session_max_payload(const struct sv_session *s);

/* Takes one whole frame as sv_frame_next gives it; opens it in place. Everything that follows is in *out,
 * errors too. */
void sv_session_receive(struct sv_session *s, uint64_t now, uint8_t *frame, size_t len,
                        struct sv_received *out);

/* Server, before SV_SESSION_ON_HELLO and any DH: *e is the ephemeral key of a plaintext HandshakeInit or
 * SessionResume. false, *e NULL: it has none. */
bool sv_session_peek_ephemeral(const uint8_t *frame, size_t len, const uint8_t **e);
/* Server, after SV_SESSION_ON_HELLO: message 2 waits for flush. `resumed` is the answer to a SessionResume.
 * settings->capabilities are the server's. */
void sv_session_accept(struct sv_session *s, uint64_t now, const struct sv_settings *settings, bool resumed);
/* Instead: message 2 with empty payload and a Disconnect wait for flush; CLOSING. */
void sv_session_refuse(struct sv_session *s, uint64_t now, unsigned code, const char *text);

/* Ends the session: a Disconnect waits for flush, CLOSING; before keys, and for a client that is not live,
 * nothing waits and it is CLOSED at once. text is copied and cut at SV_DISCONNECT_TEXT_MAX; NULL: the code's.
 */
void sv_session_disconnect(struct sv_session *s, unsigned code, const char *text);

/* Server: a Settings frame with the tags of mask (bit tag - 0x10) waits for flush. */
void sv_session_update_settings(struct sv_session *s, const struct sv_settings *settings, uint32_t mask);

bool sv_session_wants_flush(const struct sv_session *s);
/* Seals what waits, in the order of the wire; returns bytes written. SV_SESSION_FLUSH_MAX is always enough;
 * what does not fit waits on. */
size_t sv_session_flush(struct sv_session *s, uint64_t now, uint8_t *dst, size_t cap);

/* Packets may be sealed: live, and the client's first Keepalive has been flushed. */
bool sv_session_can_send(const struct sv_session *s);
/* One IpPacket or IpSuperPacket (`plain` then starts with kind:1 segment size:2). dst gets len +
 * SV_FRAME_OVERHEAD bytes; dst == plain - 5 or apart. Returns bytes written; 0: not possible now, nothing was
 * used up. */
size_t sv_session_seal(struct sv_session *s, uint64_t now, uint8_t type, uint8_t *dst, const uint8_t *plain,
                       size_t len);

/* Both ends take datagrams, and there are keys for them. */
bool sv_session_has_datagrams(const struct sv_session *s);
/* One IP packet as a datagram: dst gets len + SV_DATAGRAM_OVERHEAD bytes; dst == plain - 10 or apart. 0: not
 * possible, or not agreed. */
size_t sv_session_seal_datagram(struct sv_session *s, uint64_t now, uint8_t *dst, const uint8_t *plain,
                                size_t len);
/* Opens in place: 0 with SV_SESSION_ON_PACKET in *out. SV_E_MALFORMED, SV_E_AUTH, SV_E_REPLAY, SV_E_STATE:
 * dropped and counted, ends nothing. */
int sv_session_open_datagram(struct sv_session *s, uint64_t now, uint8_t *datagram, size_t len,
                             struct sv_received *out);
/* The same, the packet to dst (len bytes), where it may lie longer than the datagram does. */
int sv_session_open_datagram_to(struct sv_session *s, uint64_t now, uint8_t *datagram, size_t len,
                                uint8_t *dst, struct sv_received *out);
/* How many of the peer's datagrams have not come, late ones among them for as long as they are late. */
uint64_t sv_session_datagrams_missing(const struct sv_session *s);

/* Client: the path is another one; a keepalive is asked for now, and unanswered it counts like data that gets no answer. */
void sv_session_probe(struct sv_session *s, uint64_t now);
/* How long nothing need come back before that says something, ns. */
uint64_t sv_session_patience(const struct sv_session *s);
/* The link has shown by itself that the path looks dead: suspect until something comes. */
void sv_session_doubt(struct sv_session *s);

/* When on_timer must be called; SV_NEVER. It moves with every frame: ask again after receive, flush and
 * on_timer. */
uint64_t sv_session_deadline(const struct sv_session *s);
/* NOTHING (something may wait for flush), SUSPECT, DEAD, OFFENCE (s->disconnect_code). Early calls do no
 * harm. */
enum sv_session_event sv_session_on_timer(struct sv_session *s, uint64_t now);

#endif
