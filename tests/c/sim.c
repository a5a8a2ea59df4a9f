/* Two ends, a fake clock, and links that chop, delay, reorder, lose, stall and lie: whatever the order of
 * things, nothing that a link delivers is lost, doubled or reordered, rekeys included. The order comes from a
 * seed, so each failure can be had again. */
#include "tests/c/check.h"

#include <smartvpn/base.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "crypto/aead.h"
#include "crypto/keys.h"
#include "proto/session.h"

enum {
    PIPE = 4 * 1024 * 1024,
    PACKET_MAX = 65519,
    CHUNK_MAX = 100000,
    AIR_MAX = 64,
    AIR_PACKET = 256,
    DATAGRAMS_MAX = 1 << 20,
};

struct pipe {
    uint8_t *bytes;
    size_t head, tail; /* filled between them */
    bool dead;         /* takes everything, delivers nothing */
};

/* Datagrams under way, in no order. */
struct air {
    struct {
        size_t len;
        uint8_t bytes[AIR_PACKET];
    } flying[AIR_MAX];
    size_t count;
    uint64_t sent, lost, received, doubled;
    uint8_t *seen; /* by number */
};

struct end {
    struct sv_session s;
    struct sv_frame_reader reader;
    struct pipe out;         /* to the other end */
    struct air air;          /* to the other end */
    uint64_t sent, received; /* packets, numbered */
    uint64_t wrong;          /* out of order, or not as sent */
    unsigned lives, settings, disconnects, offences, fatals, deaths, suspects;
    uint8_t code;
};

static struct end client, server;
static uint64_t now, seed;
static uint8_t client_key[32], client_public[32], server_key[32], server_public[32];
static struct sv_settings settings;

static uint64_t dice(uint64_t sides)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % sides;
}

/* ---- the ends ---- */

static void end_open(struct end *end)
{
    sv_frame_reader_init(&end->reader);
    end->out.bytes = malloc(PIPE);
    end->out.head = end->out.tail = 0;
    end->air.seen = calloc(1, DATAGRAMS_MAX);
}

static void end_close(struct end *end)
{
    sv_session_clear(&end->s);
    sv_frame_reader_clear(&end->reader);
    free(end->out.bytes);
    free(end->air.seen);
}

static void open_both(uint64_t the_seed, const struct sv_hello *hello)
{
    seed = the_seed;
    now = 1000 * SV_NS_PER_S;
    memset(&client, 0, sizeof client);
    memset(&server, 0, sizeof server);
    end_open(&client);
    end_open(&server);
    struct sv_session_config config = {
        .server = true, .private_key = server_key, .public_key = server_public};
    sv_session_init(&server.s, &config, now);
    config = (struct sv_session_config){
        .private_key = client_key, .public_key = client_public, .server_key = server_public, .hello = *hello};
    sv_session_init(&client.s, &config, now);
}

static void close_both(void)
{
    end_close(&client);
    end_close(&server);
}

/* ---- packets: number:8, then bytes that follow from it ---- */

static size_t packet_length(uint64_t number)
{
    uint64_t mixed = number * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    return mixed % 50 == 0 ? 8 + mixed % (PACKET_MAX - 8) : 8 + mixed % 1500;
}

static size_t make_packet(uint8_t *dst, uint64_t number, size_t len)
{
    memset(dst, (int)(number & 0xff), len);
    sv_store64be(dst, number);
    return len;
}

static void take_packet(struct end *end, const struct sv_received *out)
{
    uint8_t want[PACKET_MAX];
    size_t len = make_packet(want, end->received, packet_length(end->received));
    end->wrong += out->packet_len != len || memcmp(out->packet, want, len) != 0;
    end->received++;
}

static void on_event(struct end *end, enum sv_session_event event, const struct sv_received *out)
{
    switch (event) {
    case SV_SESSION_ON_HELLO:
        settings.session_id[0]++;
        sv_session_accept(&end->s, now, &settings, end->s.hello.has_resume);
        break;
    case SV_SESSION_ON_PACKET:
        take_packet(end, out);
        break;
    case SV_SESSION_ON_DISCONNECT:
        end->code = out->code;
        end->disconnects++;
        break;
    case SV_SESSION_ON_OFFENCE:
        end->offences++;
        break;
    case SV_SESSION_ON_FATAL:
        end->fatals++;
        break;
    case SV_SESSION_ON_SETTINGS:
        end->settings++;
        break;
    case SV_SESSION_ON_SUSPECT:
        end->suspects++;
        break;
    case SV_SESSION_ON_DEAD:
        end->deaths++;
        break;
    default:
        break;
    }
}

/* ---- the links ---- */

static size_t pipe_room(const struct pipe *pipe)
{
    return PIPE - pipe->tail;
}

static void pipe_filled(struct pipe *pipe, size_t n)
{
    pipe->tail += pipe->dead ? 0 : n;
}

/* At most `most` bytes of what `from` has sent reach `to`. */
static void deliver(struct end *from, struct end *to, size_t most)
{
    static uint8_t chunk[CHUNK_MAX];
    size_t n = from->out.tail - from->out.head;
    n = n < most ? n : most;
    memcpy(chunk, from->out.bytes + from->out.head, n);
    from->out.head += n;
    if (from->out.head == from->out.tail) {
        from->out.head = from->out.tail = 0;
    }
    uint8_t *bytes = chunk, *frame;
    size_t frame_len;
    while (to->fatals == 0) {
        to->reader.max_payload = sv_session_max_payload(&to->s);
        int status = sv_frame_next(&to->reader, &bytes, &n, &frame, &frame_len);
        if (status != 0) {
            to->fatals += status == SV_E_MALFORMED;
            CHECK(status == SV_E_AGAIN || status == SV_E_MALFORMED);
            return;
        }
        struct sv_received out;
        sv_session_receive(&to->s, now, frame, frame_len, &out);
        to->lives += out.went_live;
        on_event(to, out.event, &out);
    }
}

static void flush(struct end *end, size_t cap)
{
    if (pipe_room(&end->out) >= SV_SESSION_FLUSH_MAX) {
        pipe_filled(&end->out, sv_session_flush(&end->s, now, end->out.bytes + end->out.tail, cap));
    }
}

static void send_packet(struct end *end)
{
    static uint8_t packet[PACKET_MAX];
    size_t len = packet_length(end->sent);
    if (!sv_session_can_send(&end->s) ||
        pipe_room(&end->out) < len + SV_FRAME_OVERHEAD + SV_SESSION_FLUSH_MAX) {
        return;
    }
    make_packet(packet, end->sent, len);
    size_t n = sv_session_seal(&end->s, now, SV_FRAME_IP_PACKET, end->out.bytes + end->out.tail, packet, len);
    CHECK_EQ(n, len + SV_FRAME_OVERHEAD);
    pipe_filled(&end->out, n);
    end->sent++;
}

static void send_datagram(struct end *end)
{
    struct air *air = &end->air;
    uint8_t plain[16];
    if (!sv_session_can_send(&end->s) || air->count == AIR_MAX) {
        return;
    }
    size_t len = make_packet(plain, air->sent, sizeof plain);
    size_t n = sv_session_seal_datagram(&end->s, now, air->flying[air->count].bytes, plain, len);
    CHECK_EQ(n, len + SV_DATAGRAM_OVERHEAD);
    air->flying[air->count].len = n;
    air->sent++;
    if (dice(10) == 0) {
        air->lost++;
    } else {
        air->count++;
    }
}

/* Any of those in the air arrives, now and then twice. */
static void deliver_datagram(struct end *from, struct end *to)
{
    struct air *air = &from->air;
    struct sv_received out;
    uint8_t twice[AIR_PACKET];
    if (air->count == 0) {
        return;
    }
    size_t which = (size_t)dice(air->count), len = air->flying[which].len;
    memcpy(twice, air->flying[which].bytes, len);
    if (sv_session_open_datagram(&to->s, now, air->flying[which].bytes, len, &out) == 0) {
        uint64_t number = sv_load64be(out.packet);
        to->lives += out.went_live;
        air->doubled += air->seen[number]++;
        air->received++;
    }
    if (dice(20) == 0) {
        air->doubled += sv_session_open_datagram(&to->s, now, twice, len, &out) == 0;
    }
    air->flying[which] = air->flying[--air->count];
}

static void timers(struct end *end)
{
    if (sv_session_deadline(&end->s) <= now) {
        on_event(end, sv_session_on_timer(&end->s, now), NULL);
    }
}

/* ---- what may happen next ---- */

static void step(bool datagrams)
{
    struct end *end = dice(2) ? &client : &server, *other = end == &client ? &server : &client;
    switch (dice(8)) {
    case 0:
    case 1:
        send_packet(end);
        break;
    case 2:
        flush(end, SV_SESSION_FLUSH_MAX);
        break;
    case 3:
        flush(end, (size_t)dice(200));
        break;
    case 4:
        deliver(end, other, 1 + (size_t)dice(dice(4) ? 3000 : CHUNK_MAX));
        break;
    case 5:
        if (datagrams) {
            send_datagram(end);
        }
        break;
    case 6:
        deliver_datagram(end, other);
        break;
    default:
        now += dice(30) * SV_NS_PER_MS;
        break;
    }
    timers(&client);
    timers(&server);
}

static void drain(void)
{
    for (int round = 0; round < 1000; round++) {
        flush(&client, SV_SESSION_FLUSH_MAX);
        flush(&server, SV_SESSION_FLUSH_MAX);
        deliver(&client, &server, CHUNK_MAX);
        deliver(&server, &client, CHUNK_MAX);
        deliver_datagram(&client, &server);
        deliver_datagram(&server, &client);
    }
}

static void check_calm(const struct end *end)
{
    CHECK_EQ(end->wrong, 0);
    CHECK_EQ(end->fatals + end->offences + end->deaths + end->disconnects, 0);
    CHECK_EQ(end->lives, 1);
    CHECK_EQ(end->s.state, SV_SESSION_LIVE);
    CHECK_EQ(end->s.counters.malformed_packets, 0);
}

static void check_air(const struct air *air)
{
    CHECK(air->sent > 1000);
    CHECK_EQ(air->doubled, 0);
    CHECK_EQ(air->received + air->lost, air->sent);
}

/* ---- scenarios ---- */

static const struct sv_hello plain_hello = {.capabilities = SV_CAP_REKEY | SV_CAP_RESUME | SV_CAP_DATAGRAM |
                                                            SV_CAP_AES_GCM};

static void traffic_over_rekeys(uint64_t the_seed, bool datagrams)
{
    open_both(the_seed, &plain_hello);
    while (now < (1000 + 400) * SV_NS_PER_S) {
        step(datagrams);
    }
    drain();
    check_calm(&client);
    check_calm(&server);
    CHECK(client.s.counters.rekeys >= 18);
    CHECK_EQ(client.s.counters.rekeys, server.s.counters.rekeys);
    CHECK(client.sent > 10000 && server.sent > 10000);
    CHECK_EQ(server.received, client.sent);
    CHECK_EQ(client.received, server.sent);
    if (datagrams) {
        check_air(&client.air);
        check_air(&server.air);
    }
    close_both();
}

static void nothing_is_lost_over_rekeys(void)
{
    for (uint64_t i = 1; i <= 6; i++) {
        traffic_over_rekeys(i * UINT64_C(0x9e3779b97f4a7c15), i % 2 == 0);
    }
}

/* One way at a time, so that the silent side's rekey frames race with data of the other only. */
static void one_way_traffic_over_rekeys(void)
{
    for (int way = 0; way < 2; way++) {
        struct end *from = way ? &client : &server, *to = way ? &server : &client;
        open_both(77, &plain_hello);
        while (now < (1000 + 200) * SV_NS_PER_S) {
            send_packet(from);
            now += dice(20) * SV_NS_PER_MS;
            timers(&client);
            timers(&server);
            flush(&client, SV_SESSION_FLUSH_MAX);
            flush(&server, SV_SESSION_FLUSH_MAX);
            deliver(&client, &server, 1 + (size_t)dice(6000));
            deliver(&server, &client, 1 + (size_t)dice(6000));
        }
        drain();
        check_calm(&client);
        check_calm(&server);
        CHECK(client.s.counters.rekeys >= 9);
        CHECK_EQ(to->received, from->sent);
        close_both();
    }
}

static void settings_change_under_traffic(void)
{
    open_both(5, &plain_hello);
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 300; i++) {
            step(false);
        }
        settings.mtu = (uint16_t)(1280 + round);
        if (server.s.state == SV_SESSION_LIVE) {
            sv_session_update_settings(&server.s, &settings, 1 << 5);
        }
    }
    drain();
    check_calm(&client);
    CHECK(client.settings >= 10);
    CHECK_EQ(client.s.settings->mtu, 1329);
    CHECK_EQ(server.received, client.sent);
    settings.mtu = 1420;
    close_both();
}

/* Until both are live, without data. */
static void settle(void)
{
    for (int i = 0; i < 20; i++) {
        flush(&client, SV_SESSION_FLUSH_MAX);
        flush(&server, SV_SESSION_FLUSH_MAX);
        deliver(&client, &server, CHUNK_MAX);
        deliver(&server, &client, CHUNK_MAX);
        now += 5 * SV_NS_PER_MS;
    }
    CHECK_EQ(client.s.state, SV_SESSION_LIVE);
    CHECK_EQ(server.s.state, SV_SESSION_LIVE);
}

static void a_dead_path_is_left_in_seconds_and_resumed(void)
{
    uint8_t id[16];
    open_both(9, &plain_hello);
    settle();
    memcpy(id, client.s.session_id, 16);
    CHECK_MEM(id, settings.session_id, 16);
    server.out.dead = true;
    uint64_t died = now;
    while (client.suspects == 0 && now < died + 10 * SV_NS_PER_S) {
        send_packet(&client);
        now += 100 * SV_NS_PER_MS;
        timers(&client);
        flush(&client, SV_SESSION_FLUSH_MAX);
        deliver(&client, &server, CHUNK_MAX);
    }
    CHECK_EQ(client.suspects, 1);
    CHECK(now - died < 3 * SV_NS_PER_S);
    close_both();

    struct sv_hello hello = plain_hello;
    hello.has_resume = true;
    memcpy(hello.resume_id, id, 16);
    open_both(10, &hello);
    settle();
    CHECK(client.s.resumed && server.s.resumed);
    CHECK_MEM(server.s.hello.resume_id, id, 16);
    CHECK(memcmp(client.s.session_id, id, 16) != 0);
    check_calm(&client);
    close_both();
}

static void lost_handshakes_end_both_ends(void)
{
    open_both(11, &plain_hello);
    server.out.dead = true;
    flush(&client, SV_SESSION_FLUSH_MAX);
    deliver(&client, &server, CHUNK_MAX);
    flush(&server, SV_SESSION_FLUSH_MAX);
    uint64_t start = now;
    for (; now < start + 5 * SV_NS_PER_S; now += SV_NS_PER_MS) {
        timers(&client);
        timers(&server);
        CHECK_EQ(client.deaths + server.deaths, 0);
    }
    timers(&client);
    timers(&server);
    CHECK_EQ(client.deaths, 1);
    CHECK_EQ(server.deaths, 1);
    close_both();
}

static void a_lying_link_is_found_at_once(void)
{
    for (uint64_t i = 0; i < 200; i++) {
        open_both(100 + i, &plain_hello);
        settle();
        for (int n = 0; n < 5; n++) {
            send_packet(&client);
        }
        size_t place = (size_t)dice(client.out.tail);
        client.out.bytes[place] ^= (uint8_t)(1 + dice(255));
        /* A changed length may also ask for more than there is: what follows then ends it. */
        for (int n = 0; n < 4000 && server.fatals == 0; n++) {
            deliver(&client, &server, 1 + (size_t)dice(3000));
            send_packet(&client);
        }
        CHECK_EQ(server.fatals, 1);
        CHECK_EQ(server.wrong, 0);
        close_both();
    }
}

int main(void)
{
    if (sv_crypto_init() != 0 || sv_aead_init() != 0) {
        return 1;
    }
    sv_x25519_generate(client_key, client_public);
    sv_x25519_generate(server_key, server_public);
    settings = (struct sv_settings){
        .capabilities = SV_CAP_REKEY | SV_CAP_RESUME | SV_CAP_DATAGRAM | (sv_aead_aes ? SV_CAP_AES_GCM : 0u),
        .address4 = {.length = 4, .prefix = 24, .bytes = {10, 0, 0, 2}},
        .mtu = 1420,
        .rekey_secs = 20,
        .has_rekey = true,
    };
    RUN(nothing_is_lost_over_rekeys);
    RUN(one_way_traffic_over_rekeys);
    RUN(settings_change_under_traffic);
    RUN(a_dead_path_is_left_in_seconds_and_resumed);
    RUN(lost_handshakes_end_both_ends);
    RUN(a_lying_link_is_found_at_once);
    return CHECK_DONE("sim");
}
