/* A session under test on one side, a raw peer on the other, and a clock that stands until it is moved. */
#ifndef SV_TESTS_SESSION_FIXTURE_H
#define SV_TESTS_SESSION_FIXTURE_H

#include <smartvpn/base.h>

#include "base/clock.h"
#include "proto/session.h"
#include "tests/c/check.h"
#include "tests/c/raw_peer.h"

#define START_NS (UINT64_C(1000) * SV_NS_PER_S)
#define ALL_CAPS                                                                                       \
    (SV_CAP_BATCH | SV_CAP_GSO_TCP | SV_CAP_DATAGRAM | SV_CAP_RESUME | SV_CAP_REKEY | SV_CAP_GSO_UDP | \
     (raw_aes ? SV_CAP_AES_GCM : 0u))

/* The tests once more with AES-256-GCM, which both sides then offer. */
#define RUN_WITH_EACH_CIPHER(tests)                                                      \
    do {                                                                                 \
        tests();                                                                         \
        if (sv_aead_aes) {                                                               \
            fprintf(stderr, "  -- with AES-256-GCM\n");                                  \
            raw_aes = true;                                                              \
            tests();                                                                     \
            raw_aes = false;                                                             \
        } else {                                                                         \
            fprintf(stderr, "  -- not with AES-256-GCM: no implementation runs here\n"); \
        }                                                                                \
    } while (0)

static struct raw_keypair server_pair, client_pair;

struct fixture {
    struct sv_session s;
    struct raw_peer peer;
    struct sv_received out;
    uint64_t now;
    uint8_t frame[RAW_FRAME];   /* the last one made for the session */
    uint8_t flushed[RAW_FRAME]; /* what the session flushed last */
    size_t flushed_len, at;     /* at: where next_frame goes on */
    uint8_t plain[RAW_FRAME];   /* what next_frame opened */
    long plain_len;
};

static inline void make_pairs(void)
{
    server_pair = raw_keypair(0x51);
    client_pair = raw_keypair(0x33);
}

static inline struct sv_settings example_settings(void)
{
    struct sv_settings settings = {
        .capabilities = ALL_CAPS,
        .session_id = {7, 7, 7, 7},
        .address4 = {.length = 4, .prefix = 24, .bytes = {10, 8, 0, 2}},
        .mtu = 1420,
        .keepalive_secs = 60,
        .has_keepalive = true,
        .rekey_secs = 3600,
        .has_rekey = true,
    };
    return settings;
}

static inline enum sv_session_event deliver(struct fixture *f, size_t len)
{
    sv_session_receive(&f->s, f->now, f->frame, len, &f->out);
    return f->out.event;
}

/* A sealed frame from the raw peer. */
static inline enum sv_session_event deliver_sealed(struct fixture *f, uint8_t type, const void *plain,
                                                   size_t len)
{
    return deliver(f, raw_seal(&f->peer, f->frame, type, plain, len));
}

static inline size_t flush(struct fixture *f)
{
    f->flushed_len = sv_session_flush(&f->s, f->now, f->flushed, sizeof f->flushed);
    f->at = 0;
    CHECK(!sv_session_wants_flush(&f->s));
    return f->flushed_len;
}

/* The next flushed frame as the raw peer opens it: its type, or -1 when there is none or it does not open. */
static inline int next_frame(struct fixture *f)
{
    uint8_t *frame = f->flushed + f->at;
    if (f->flushed_len - f->at < 5) {
        return -1;
    }
    size_t len = 5 + sv_load32be(frame + 1);
    f->at += len;
    if (f->at > f->flushed_len) {
        return -1;
    }
    f->plain_len = raw_open(&f->peer, frame, len, f->plain);
    return f->plain_len < 0 ? -1 : frame[0];
}

static inline bool no_more_frames(const struct fixture *f)
{
    return f->at == f->flushed_len;
}

static inline void check_disconnect(struct fixture *f, unsigned code, const char *text)
{
    flush(f);
    CHECK_EQ(next_frame(f), SV_FRAME_DISCONNECT);
    CHECK_EQ(f->plain_len, 1 + (long)strlen(text));
    CHECK_EQ(f->plain[0], code);
    CHECK_MEM(f->plain + 1, text, strlen(text));
    CHECK(no_more_frames(f));
    CHECK_EQ(f->s.state, SV_SESSION_CLOSED);
}

/* ---- the server under test ---- */

static inline void server_new(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->now = START_NS;
    struct sv_session_config config = {
        .server = true,
        .private_key = server_pair.private_key,
        .public_key = server_pair.public_key,
    };
    sv_session_init(&f->s, &config, f->now);
}

static inline size_t make_hello(uint8_t *dst, uint32_t capabilities)
{
    memcpy(dst, "\x01\x00\x04", 3);
    sv_store32be(dst + 3, capabilities);
    return 7;
}

static inline enum sv_session_event server_hears_init(struct fixture *f, uint8_t type, const uint8_t *hello,
                                                      size_t len)
{
    return deliver(
        f, raw_init_frame(&f->peer, f->frame, type, &client_pair, server_pair.public_key, hello, len));
}

/* Message 2 as the raw client reads it; plain gets the payload. */
static inline void raw_reads_answer(struct fixture *f, uint8_t type)
{
    size_t len = sv_load32be(f->flushed + 1);
    CHECK_EQ(f->flushed[0], type);
    CHECK(len >= 48);
    CHECK_EQ(sv_noise_read2(&f->peer.noise, f->plain, f->flushed + 5, len), 0);
    f->plain_len = (long)len - 48;
    raw_take_keys(&f->peer);
    f->at = 5 + len;
}

static inline void server_accepts(struct fixture *f, const struct sv_settings *settings)
{
    uint8_t hello[16];
    CHECK_EQ(server_hears_init(f, SV_FRAME_HANDSHAKE_INIT, hello, make_hello(hello, ALL_CAPS)),
             SV_SESSION_ON_HELLO);
    sv_session_accept(&f->s, f->now, settings, false);
    flush(f);
    raw_reads_answer(f, SV_FRAME_HANDSHAKE_RESP);
}

static inline void server_live_with(struct fixture *f, const struct sv_settings *settings)
{
    server_new(f);
    server_accepts(f, settings);
    CHECK_EQ(deliver_sealed(f, SV_FRAME_KEEPALIVE, "ABCDEFGH", 8), SV_SESSION_ON_LIVE);
    CHECK(f->out.went_live);
    flush(f);
    CHECK_EQ(next_frame(f), SV_FRAME_KEEPALIVE_ACK);
}

static inline void server_live(struct fixture *f)
{
    struct sv_settings settings = example_settings();
    server_live_with(f, &settings);
}

/* ---- the client under test ---- */

static inline void client_new_with(struct fixture *f, const struct sv_hello *hello, uint16_t keepalive_secs)
{
    memset(f, 0, sizeof *f);
    f->now = START_NS;
    struct sv_session_config config = {
        .private_key = client_pair.private_key,
        .public_key = client_pair.public_key,
        .server_key = server_pair.public_key,
        .hello = *hello,
        .keepalive_secs = keepalive_secs,
    };
    sv_session_init(&f->s, &config, f->now);
}

static inline void client_new(struct fixture *f)
{
    client_new_with(f, &(struct sv_hello){.capabilities = ALL_CAPS}, 0);
}

/* The raw server reads message 1; plain gets the hello. */
static inline void raw_reads_init(struct fixture *f, uint8_t type)
{
    flush(f);
    size_t len = sv_load32be(f->flushed + 1);
    CHECK_EQ(f->flushed[0], type);
    CHECK_EQ(f->flushed_len, 5 + len);
    raw_begin(&f->peer, false, &server_pair, NULL, "smartvpn/1", 10);
    CHECK_EQ(sv_noise_read1(&f->peer.noise, f->plain, f->flushed + 5, len), 0);
    f->plain_len = (long)len - 96;
    f->at = f->flushed_len;
}

static inline enum sv_session_event raw_answers(struct fixture *f, uint8_t type, const uint8_t *payload,
                                                size_t len)
{
    CHECK_EQ(sv_noise_write2(&f->peer.noise, f->frame + 5, payload, len), 0);
    raw_take_keys(&f->peer);
    return deliver(f, raw_header(f->frame, type, len + 48));
}

static inline void client_live_with(struct fixture *f, const struct sv_settings *settings,
                                    uint16_t keepalive_secs)
{
    uint8_t list[SV_SETTINGS_MAX];
    client_new_with(f, &(struct sv_hello){.capabilities = ALL_CAPS}, keepalive_secs);
    raw_reads_init(f, SV_FRAME_HANDSHAKE_INIT);
    size_t len = sv_settings_write(settings, list, sizeof list);
    CHECK_EQ(raw_answers(f, SV_FRAME_HANDSHAKE_RESP, list, len), SV_SESSION_ON_LIVE);
}

/* Live, its first Keepalive sent and answered. */
static inline void client_live(struct fixture *f)
{
    struct sv_settings settings = example_settings();
    client_live_with(f, &settings, 0);
    flush(f);
    CHECK_EQ(next_frame(f), SV_FRAME_KEEPALIVE);
    CHECK_EQ(deliver_sealed(f, SV_FRAME_KEEPALIVE_ACK, f->plain, 8), SV_SESSION_NOTHING);
}

#endif
