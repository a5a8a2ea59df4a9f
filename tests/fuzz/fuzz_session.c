/* Sessions against a peer with a valid key that says anything: before keys (frames and handshake payloads),
 * and after keys with sealed frames of any type and plaintext, in any order with timers, flushes and
 * datagrams.
 *
 * Input: a mode byte, then for the live modes actions: kind:1 length:1 bytes. */
#include "tests/c/raw_peer.h"

#include <smartvpn/base.h>
#include <stdlib.h>

#include "base/clock.h"
#include "proto/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAPS = SV_CAP_REKEY | SV_CAP_RESUME | SV_CAP_DATAGRAM };

static struct raw_keypair server_pair, client_pair;
static struct sv_settings settings;
static uint8_t frame[RAW_FRAME], flushed[SV_SESSION_FLUSH_MAX];
static uint64_t now;

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void prepare(void)
{
    static bool done;
    if (done) {
        return;
    }
    done = true;
    require(sv_crypto_init() == 0 && sv_aead_init() == 0);
    server_pair = raw_keypair(0x51);
    client_pair = raw_keypair(0x33);
    settings = (struct sv_settings){
        .capabilities = CAPS,
        .address4 = {.length = 4, .prefix = 24, .bytes = {10, 0, 0, 2}},
        .mtu = 1420,
        .has_rekey = true,
        .rekey_secs = 20,
    };
}

/* ---- what must hold after every call ---- */

static void check_received(const struct sv_session *s, const struct sv_received *out)
{
    if (out->event == SV_SESSION_ON_PACKET) {
        require(out->packet_len > 0 && out->packet >= frame &&
                out->packet + out->packet_len <= frame + sizeof frame);
        require(out->kind == 0 || (out->kind <= 3 && out->segment_size >= 256));
    }
    require(out->event != SV_SESSION_ON_FATAL ||
            (s->state == SV_SESSION_CLOSED && !sv_session_wants_flush(s)));
    require(out->event != SV_SESSION_ON_OFFENCE || s->state == SV_SESSION_CLOSING);
    require(out->event != SV_SESSION_ON_DISCONNECT || s->state == SV_SESSION_CLOSED);
    require(!out->went_live || s->state == SV_SESSION_LIVE || s->state == SV_SESSION_CLOSED);
    require(out->text_len <= SV_DISCONNECT_TEXT_MAX);
}

static void receive(struct sv_session *s, size_t len)
{
    struct sv_received out;
    sv_session_receive(s, now, frame, len, &out);
    check_received(s, &out);
}

static size_t flush(struct sv_session *s)
{
    size_t n = sv_session_flush(s, now, flushed, sizeof flushed);
    require(!sv_session_wants_flush(s));
    return n;
}

/* ---- two ways to a session ---- */

static void new_server(struct sv_session *s)
{
    struct sv_session_config config = {
        .server = true, .private_key = server_pair.private_key, .public_key = server_pair.public_key};
    sv_session_init(s, &config, now);
}

static void new_client(struct sv_session *s)
{
    struct sv_session_config config = {
        .private_key = client_pair.private_key,
        .public_key = client_pair.public_key,
        .server_key = server_pair.public_key,
        .hello = {.capabilities = CAPS},
    };
    sv_session_init(s, &config, now);
}

static void server_hears_hello(struct sv_session *s, struct raw_peer *peer, uint8_t type,
                               const uint8_t *hello, size_t len)
{
    struct sv_received out;
    len = raw_init_frame(peer, frame, type, &client_pair, server_pair.public_key, hello, len);
    sv_session_receive(s, now, frame, len, &out);
    check_received(s, &out);
    if (out.event == SV_SESSION_ON_HELLO) {
        sv_session_accept(s, now, &settings, true);
        size_t n = flush(s);
        require(sv_noise_read2(&peer->noise, frame, flushed + 5, n - 5) == 0);
        raw_take_keys(peer);
    }
}

static void client_hears_payload(struct sv_session *s, struct raw_peer *peer, const uint8_t *payload,
                                 size_t len)
{
    size_t n = flush(s);
    memset(peer, 0, sizeof *peer);
    raw_begin(peer, false, &server_pair, NULL, "smartvpn/1", 10);
    require(sv_noise_read1(&peer->noise, frame, flushed + 5, n - 5) == 0);
    require(sv_noise_write2(&peer->noise, frame + 5, payload, len) == 0);
    raw_take_keys(peer);
    receive(s, raw_header(frame, SV_FRAME_HANDSHAKE_RESP, len + 48));
}

/* ---- a live session and any sequence of actions ---- */

static size_t raw_datagram(const uint8_t k[32], uint8_t epoch, uint8_t counter, const uint8_t *plain,
                           size_t len)
{
    uint8_t key[48], zeros[32] = {0}, nonce[12] = {0};
    sv_store64le(nonce + 4, UINT64_MAX - 1);
    sv_aead->seal(k, nonce, NULL, 0, key, zeros, 32);
    frame[0] = SV_FRAME_IP_PACKET;
    frame[1] = epoch;
    sv_store64le(frame + 2, counter);
    sv_store64le(nonce + 4, counter);
    sv_aead->seal(key, nonce, frame, 10, frame + 10, plain, len);
    return len + 26;
}

static void hear_datagram(struct sv_session *s, struct raw_peer *peer, const uint8_t *bytes, size_t len)
{
    struct sv_received out;
    size_t n = len;
    if (len >= 2 && bytes[0] & 1) {
        n = raw_datagram(peer->send_key, bytes[0] >> 6, bytes[1], bytes + 2, len - 2);
    } else {
        memcpy(frame, bytes, len);
    }
    if (sv_session_open_datagram(s, now, frame, n, &out) == 0) {
        check_received(s, &out);
    }
}

/* A rekey by the book, as far as the session goes along with it. */
static void ask_rekey(struct sv_session *s, struct raw_peer *peer)
{
    uint8_t message[96];
    raw_begin_rekey(peer, true, &client_pair, server_pair.public_key);
    require(sv_noise_write1(&peer->noise, message, NULL, 0) == 0);
    receive(s, raw_seal(peer, frame, SV_FRAME_HANDSHAKE_INIT, message, sizeof message));
}

static void act(struct sv_session *s, struct raw_peer *peer, uint8_t kind, const uint8_t *bytes, size_t len)
{
    static const uint64_t steps[] = {SV_NS_PER_MS, SV_NS_PER_S, 11 * SV_NS_PER_S, 61 * SV_NS_PER_S};
    switch (kind) {
    case 0xf0:
        now += steps[len % 4];
        sv_session_on_timer(s, now);
        break;
    case 0xf1:
        flush(s);
        break;
    case 0xf2:
        hear_datagram(s, peer, bytes, len);
        break;
    case 0xf3:
        ask_rekey(s, peer);
        break;
    case 0xf4:
        sv_session_seal(s, now, SV_FRAME_IP_PACKET, frame, bytes, len);
        break;
    case 0xf5:
        sv_session_seal_datagram(s, now, frame, bytes, len);
        break;
    case 0xf6:
        sv_session_update_settings(s, &settings, (uint32_t)len);
        break;
    case 0xf7:
        memcpy(frame, bytes, len);
        receive(s, len);
        break;
    default:
        receive(s, raw_seal(peer, frame, kind, bytes, len));
        break;
    }
}

static void act_all(struct sv_session *s, struct raw_peer *peer, const uint8_t *data, size_t size)
{
    while (size >= 2) {
        size_t len = data[1] < size - 2 ? data[1] : size - 2;
        act(s, peer, data[0], data + 2, len);
        sv_session_deadline(s);
        data += 2 + len;
        size -= 2 + len;
    }
}

static void fuzz_live_server(struct sv_session *s, const uint8_t *data, size_t size)
{
    static const uint8_t hello[] = {1, 0, 4, 0, 0, 0, CAPS};
    static struct sv_session live;
    static struct raw_peer live_peer;
    struct raw_peer peer;
    /* Idle it owns nothing on the heap: one handshake serves all runs. */
    if (!live.keyed) {
        new_server(&live);
        server_hears_hello(&live, &live_peer, SV_FRAME_HANDSHAKE_INIT, hello, sizeof hello);
        require(live.handshake == NULL && live.settings == NULL && live.datagrams == NULL);
    }
    *s = live;
    peer = live_peer;
    act_all(s, &peer, data, size);
}

static void fuzz_live_client(struct sv_session *s, const uint8_t *data, size_t size)
{
    uint8_t list[SV_SETTINGS_MAX];
    struct raw_peer peer;
    new_client(s);
    client_hears_payload(s, &peer, list, sv_settings_write(&settings, list, sizeof list));
    require(s->state == SV_SESSION_LIVE);
    act_all(s, &peer, data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sv_session s;
    struct raw_peer peer;
    if (size < 2 || size > 4096) {
        return 0;
    }
    prepare();
    now = 1000 * SV_NS_PER_S;
    uint8_t mode = data[0] % 6;
    data++;
    size--;
    if (mode <= 1) {
        mode == 0 ? new_server(&s) : new_client(&s);
        flush(&s);
        memcpy(frame, data, size);
        receive(&s, size);
    } else if (mode == 2) {
        new_server(&s);
        server_hears_hello(&s, &peer, data[0] & 1 ? SV_FRAME_SESSION_RESUME : SV_FRAME_HANDSHAKE_INIT,
                           data + 1, size - 1);
    } else if (mode == 3) {
        new_client(&s);
        client_hears_payload(&s, &peer, data, size);
    } else if (mode == 4) {
        fuzz_live_server(&s, data, size);
    } else {
        fuzz_live_client(&s, data, size);
    }
    sv_session_clear(&s);
    return 0;
}
