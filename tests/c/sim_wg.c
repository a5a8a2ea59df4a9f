/* Two WireGuard peers, a fake clock and a link that may lose: every timer of section 6 of the paper fires when it must and not before, keys
 * change without losing a packet, and whatever is lost the two come together again. */
#include "tests/c/check.h"

#include <smartvpn/base.h>
#include <stdlib.h>

#include "base/clock.h"
#include "crypto/aead.h"
#include "proto/wg_peer.h"

enum { WIRE_MAX = 64, MESSAGE_MAX = 256, KEYPAIRS_MAX = 64 };

struct wire {
    struct {
        uint8_t bytes[MESSAGE_MAX];
        size_t len;
    } messages[WIRE_MAX];
    size_t count;
};

/* One side: a device with one peer, in as few words as it takes. */
struct side {
    struct sv_wg_identity own;
    struct sv_wg_peer peer;
    struct wire out;
    struct sv_wg_keypair *keypairs[KEYPAIRS_MAX];
    uint32_t next_index;
    unsigned initiations, retries, responses, keepalives, data, given_up, forgotten, waiting;
    unsigned received, received_keepalives, refused;
    uint64_t last_initiation;
};

static struct side a, b;
static struct sv_arena *arena;
static uint64_t now, unix_now;
static uint64_t seed;

static unsigned dice(unsigned sides)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (unsigned)(seed >> 33) % sides;
}

static struct side *other(struct side *side)
{
    return side == &a ? &b : &a;
}

static void put(struct side *side, const uint8_t *bytes, size_t len)
{
    if (side->out.count < WIRE_MAX) {
        memcpy(side->out.messages[side->out.count].bytes, bytes, len);
        side->out.messages[side->out.count++].len = len;
    }
}

static void reap(struct side *side)
{
    struct sv_wg_keypair *keypair = side->peer.retired, *next;

    side->peer.retired = NULL;
    for (; keypair; keypair = next) {
        next = keypair->next_retired;
        for (size_t i = 0; i < KEYPAIRS_MAX; i++) {
            side->keypairs[i] = side->keypairs[i] == keypair ? NULL : side->keypairs[i];
        }
        sv_wg_keypair_free(&keypair->rcu);
    }
}

static void keep(struct side *side, struct sv_wg_keypair *keypair)
{
    reap(side);
    for (size_t i = 0; i < KEYPAIRS_MAX; i++) {
        if (!side->keypairs[i]) {
            side->keypairs[i] = keypair;
            return;
        }
    }
    CHECK(!"no room for a keypair: they leak");
}

static unsigned keypairs(const struct side *side)
{
    unsigned count = 0;

    for (size_t i = 0; i < KEYPAIRS_MAX; i++) {
        count += side->keypairs[i] != NULL;
    }
    return count;
}

static void initiate(struct side *side, bool again)
{
    uint8_t message[SV_WG_INITIATION_SIZE];
    uint32_t replaced;

    CHECK(side->last_initiation == 0 || now - side->last_initiation >= SV_WG_REKEY_TIMEOUT_NS);
    CHECK_EQ(sv_wg_write_initiation(&side->peer, &side->own, now, unix_now, ++side->next_index, again,
                                    message, &replaced),
             0);
    side->initiations++;
    side->retries += again;
    side->last_initiation = now;
    put(side, message, sizeof message);
}

static void want_keys(struct side *side)
{
    if (sv_wg_want_keys(&side->peer, now)) {
        initiate(side, false);
    }
}

static void send_packet(struct side *side, bool data)
{
    struct sv_wg_keypair *keypair = sv_wg_sending(&side->peer, now);
    uint8_t message[MESSAGE_MAX], plain[16] = {0};
    size_t len = data ? sizeof plain : 0;

    if (!keypair) {
        side->waiting += data;
        want_keys(side);
        return;
    }
    CHECK_EQ(sv_wg_seal_data(keypair, NULL, sv_wg_take_counters(keypair, 1), message, plain, len), 0);
    sv_wg_note_sent(&side->peer, now, data);
    *(data ? &side->data : &side->keepalives) += 1;
    put(side, message, len + SV_WG_DATA_OVERHEAD);
    if (sv_wg_wants_keys_on_send(keypair, now)) {
        want_keys(side);
    }
}

static void send_waiting(struct side *side, bool confirm)
{
    unsigned n = side->waiting;

    side->waiting = 0;
    if (!n && confirm) {
        send_packet(side, false);
    }
    for (; n; n--) {
        send_packet(side, true);
    }
}

static void on_initiation(struct side *side, const uint8_t *message)
{
    struct sv_wg_hello hello;
    struct sv_wg_keypair *made;
    uint8_t answer[SV_WG_RESPONSE_SIZE];

    CHECK(sv_wg_check_mac1(message, SV_WG_INITIATION_SIZE, &side->own.macs));
    CHECK_EQ(sv_wg_open_initiation(&hello, &side->own, message), 0);
    CHECK_MEM(hello.noise.rs, side->peer.public_key, SV_KEY);
    if (sv_wg_answer(&side->peer, &hello, now, ++side->next_index, answer, &made)) {
        side->refused++;
        return;
    }
    keep(side, made);
    side->responses++;
    put(side, answer, sizeof answer);
}

static void on_response(struct side *side, const uint8_t *message)
{
    struct sv_wg_keypair *made;

    if (sv_wg_read_response(&side->peer, now, unix_now, message, &made)) {
        side->refused++;
        return;
    }
    keep(side, made);
    send_waiting(side, true);
}

static void on_data(struct side *side, uint8_t *message, size_t len)
{
    struct sv_wg_keypair *keypair = NULL;

    for (size_t i = 0; i < KEYPAIRS_MAX; i++) {
        if (side->keypairs[i] && side->keypairs[i]->local == sv_wg_receiver(message)) {
            keypair = side->keypairs[i];
        }
    }
    if (!keypair || sv_wg_open_data(keypair, NULL, now, message, len)) {
        side->refused++;
        return;
    }
    *(len > SV_WG_DATA_OVERHEAD ? &side->received : &side->received_keepalives) += 1;
    sv_wg_note_received(&side->peer, now, len > SV_WG_DATA_OVERHEAD);
    if (sv_wg_confirm(&side->peer, keypair, now, unix_now)) {
        reap(side);
        send_waiting(side, false);
    }
    if (sv_wg_wants_keys_on_receive(keypair, now)) {
        want_keys(side);
    }
}

static void receive(struct side *side, uint8_t *message, size_t len)
{
    switch (sv_wg_type(message, len)) {
    case SV_WG_INITIATION:
        on_initiation(side, message);
        break;
    case SV_WG_RESPONSE:
        on_response(side, message);
        break;
    case SV_WG_DATA:
        on_data(side, message, len);
        break;
    default:
        CHECK(!"a message that is none");
    }
}

/* What is under way arrives, or is lost: `lossy` in 100 of it. */
static void deliver(unsigned lossy)
{
    struct side *sides[2] = {&a, &b};
    bool moved = true;

    while (moved) {
        moved = false;
        for (size_t i = 0; i < 2; i++) {
            struct wire wire = sides[i]->out;

            sides[i]->out.count = 0;
            for (size_t j = 0; j < wire.count; j++) {
                moved = true;
                if (dice(100) >= lossy) {
                    receive(other(sides[i]), wire.messages[j].bytes, wire.messages[j].len);
                }
            }
        }
    }
}

static void on_time(struct side *side)
{
    unsigned todo;

    if (sv_wg_peer_deadline(&side->peer, now) > now) {
        return;
    }
    todo = sv_wg_peer_on_time(&side->peer, now);
    reap(side);
    if (todo & (SV_WG_DO_FORGET | SV_WG_DO_GIVE_UP)) {
        sv_wg_drop_attempt(&side->peer);
        side->forgotten += (todo & SV_WG_DO_FORGET) != 0;
        side->given_up += (todo & SV_WG_DO_GIVE_UP) != 0;
        side->waiting = 0;
    }
    if (todo & SV_WG_DO_RETRY) {
        initiate(side, true);
    } else if (todo & SV_WG_DO_INITIATE) {
        want_keys(side);
    }
    if (todo & SV_WG_DO_KEEPALIVE) {
        send_packet(side, false);
    }
}

/* In steps of 50 ms. */
static void pass(double seconds, unsigned lossy)
{
    uint64_t end = now + (uint64_t)(seconds * 1e9);

    while (now < end) {
        now += 50 * SV_NS_PER_MS;
        unix_now += 50 * SV_NS_PER_MS;
        on_time(&a);
        on_time(&b);
        deliver(lossy);
    }
}

static void clear(struct side *side)
{
    sv_wg_peer_reset(&side->peer);
    reap(side);
    CHECK_EQ(keypairs(side), 0);
}

static const uint8_t psk[SV_KEY] = {7, 7, 7};

static void meet(void)
{
    uint8_t keys[2][SV_KEY], publics[2][SV_KEY];
    struct side *sides[2] = {&a, &b};

    for (size_t i = 0; i < 2; i++) {
        if (sides[i]->next_index) {
            clear(sides[i]);
        }
        memset(sides[i], 0, sizeof *sides[i]);
        sv_x25519_generate(keys[i], publics[i]);
        sv_wg_identity_init(&sides[i]->own, keys[i]);
        sides[i]->next_index = (uint32_t)i * 1000000;
    }
    for (size_t i = 0; i < 2; i++) {
        sv_wg_peer_init(&sides[i]->peer, arena, publics[1 - i]);
        sides[i]->peer.psk = psk;
    }
    now = 1000 * SV_NS_PER_S;
    unix_now = UINT64_C(1700000000) * SV_NS_PER_S;
    seed = 1;
}

/* ---- the timers ---- */

static void first_packet_begins_a_handshake(void)
{
    meet();
    send_packet(&a, true);
    deliver(0);
    CHECK_EQ(a.initiations, 1);
    CHECK_EQ(b.responses, 1);
    CHECK_EQ(b.received, 1); /* it waited, and went as the confirmation */
    CHECK_EQ(a.keepalives, 0);
    CHECK(a.peer.handshake_at == now && b.peer.handshake_at == now);
    CHECK_EQ(a.peer.handshake_unix_ns, unix_now);
}

static void answered_without_data_is_confirmed(void)
{
    meet();
    want_keys(&a);
    deliver(0);
    CHECK_EQ(a.keepalives, 1);
    CHECK_EQ(b.received_keepalives, 1);
    CHECK(sv_wg_sending(&b.peer, now) != NULL);
}

/* Section 6.5: ten seconds after data that was not answered by data, once. */
static void passive_keepalive(void)
{
    meet();
    send_packet(&a, true);
    deliver(0);
    pass(9.5, 0);
    CHECK_EQ(b.keepalives, 0);
    pass(1.2, 0);
    CHECK_EQ(b.keepalives, 1);
    pass(60, 0);
    CHECK_EQ(b.keepalives, 1); /* keepalives are not answered */
    CHECK_EQ(a.keepalives, 0);
    CHECK_EQ(a.initiations, 1);
}

static void persistent_keepalive(void)
{
    meet();
    a.peer.persistent_secs = 25;
    pass(1, 0);
    CHECK_EQ(a.initiations, 1); /* without keys it begins the handshake */
    pass(100, 0);
    CHECK(a.keepalives >= 4 && a.keepalives <= 5);
    CHECK_EQ(b.received_keepalives, a.keepalives);
}

/* Section 6.3: who sends, and began the session, asks for new keys after 120 s. */
static void rekey_by_time(void)
{
    meet();
    send_packet(&a, true);
    deliver(0);
    for (int i = 0; i < 1300; i++) {
        uint64_t age = now - 1000 * SV_NS_PER_S;

        send_packet(&b, true);
        send_packet(&a, true);
        deliver(0);
        CHECK_EQ(b.initiations, 0);
        CHECK_EQ(a.initiations, age <= SV_WG_REKEY_AFTER_NS ? 1 : 2);
        pass(0.1, 0);
    }
    CHECK_EQ(a.received, b.data);
    CHECK_EQ(b.received, a.data);
    CHECK_EQ(a.refused + b.refused, 0);
    CHECK(keypairs(&a) <= 3 && keypairs(&b) <= 3);
}

/* The one who only receives asks at 180 - 10 - 5 s. */
static void rekey_on_receive(void)
{
    meet();
    send_packet(&a, true);
    deliver(0);
    for (int i = 0; i < 1640; i++) {
        send_packet(&b, true);
        deliver(0);
        pass(0.1, 0);
        if (now - b.peer.handshake_at < 10 * SV_NS_PER_S && i > 100) {
            break;
        }
        sv_wg_note_received(&a.peer, now,
                            false); /* as if a had nothing to say: its keepalives are not the point */
        atomic_store(&a.peer.data_received, 0);
        atomic_store(&b.peer.data_sent, 0);
    }
    pass(5, 0);
    send_packet(&b, true);
    deliver(0);
    CHECK_EQ(a.initiations, 2);
    CHECK(now - a.peer.handshake_at < 7 * SV_NS_PER_S);
}

/* Section 6.2: after 180 s nothing is sent or taken under a keypair. */
static void old_keys_are_refused(void)
{
    uint8_t kept[MESSAGE_MAX];
    size_t len;

    meet();
    send_packet(&a, true);
    deliver(0);
    send_packet(&a, true);
    len = a.out.messages[0].len;
    memcpy(kept, a.out.messages[0].bytes, len);
    a.out.count = 0;
    now += SV_WG_REJECT_AFTER_NS;
    CHECK(sv_wg_sending(&a.peer, now) == NULL);
    receive(&b, kept, len);
    CHECK_EQ(b.refused, 1);
}

/* Section 6.4: every 5 s and up to a third of a second more, for 90 s; then it rests until somebody wants it again. */
static void retransmission(void)
{
    meet();
    send_packet(&a, true);
    pass(89, 100);
    CHECK(a.initiations >= 16 && a.initiations <= 18);
    CHECK_EQ(a.retries + 1, a.initiations);
    CHECK_EQ(a.given_up, 0);
    pass(12, 100);
    CHECK_EQ(a.given_up, 1);
    CHECK(!sv_wg_is_trying(&a.peer));
    CHECK_EQ(a.waiting, 0);
    pass(300, 100);
    CHECK(a.initiations <= 19);
    send_packet(&a, true);
    deliver(0);
    CHECK_EQ(b.received, 1);
}

/* Data after data and nothing comes back: after 10 + 5 s new keys are asked for. */
static void silence_begins_a_handshake(void)
{
    meet();
    send_packet(&a, true);
    deliver(0);
    pass(30, 0);
    send_packet(&a, true);
    pass(14.5, 100);
    CHECK_EQ(a.initiations, 1);
    pass(1.5, 100);
    CHECK_EQ(a.initiations, 2);
    pass(6, 0);
    CHECK(now - a.peer.handshake_at < 7 * SV_NS_PER_S);
}

/* Three times the keys' life after the last handshake nothing of it is left. */
static void secrets_are_forgotten(void)
{
    meet();
    send_packet(&a, true);
    deliver(0);
    pass(530, 0);
    CHECK(keypairs(&a) > 0);
    pass(15, 0);
    CHECK_EQ(keypairs(&a), 0);
    CHECK_EQ(keypairs(&b), 0);
    CHECK_EQ(a.forgotten, 1);
    pass(1000, 0);
    CHECK_EQ(a.initiations, 1);
    CHECK_EQ(sv_wg_peer_deadline(&a.peer, now), SV_NEVER);
    send_packet(&b, true);
    deliver(0);
    CHECK_EQ(a.received, 1);
}

/* ---- what goes wrong ---- */

static void replayed_initiations(void)
{
    uint8_t kept[SV_WG_INITIATION_SIZE];

    meet();
    want_keys(&a);
    memcpy(kept, a.out.messages[0].bytes, sizeof kept);
    deliver(0);
    pass(1, 0);
    receive(&b, kept, sizeof kept);
    CHECK_EQ(b.refused, 1);
    CHECK_EQ(b.responses, 1);
    pass(10, 0);
    a.peer.retry_at = SV_NEVER;
    unix_now -= 3600 * SV_NS_PER_S; /* a clock that was set back */
    want_keys(&a);
    deliver(0);
    CHECK_EQ(b.refused, 2);
}

static void replayed_data(void)
{
    uint8_t kept[MESSAGE_MAX];
    size_t len;

    meet();
    send_packet(&a, true);
    deliver(0);
    send_packet(&a, true);
    len = a.out.messages[0].len;
    memcpy(kept, a.out.messages[0].bytes, len);
    deliver(0);
    CHECK_EQ(b.received, 2);
    receive(&b, kept, len);
    CHECK_EQ(b.received, 2);
    CHECK_EQ(b.refused, 1);
}

/* A train that one side seals in a batch, and the other opens in one that was begun for all of it: some are lost, come twice, or are forged. */
static void trains(void)
{
    enum { TRAIN = 40, LEN = 1200, SIZE = LEN + SV_WG_DATA_OVERHEAD };
    static uint8_t messages[TRAIN][SIZE + SV_AEAD_BATCH_BEHIND], plain[LEN],
        kept[SIZE + SV_AEAD_BATCH_BEHIND];
    struct sv_aead_batch *sealing = sv_aead_batch_new(), *opening = sv_aead_batch_new();
    struct sv_wg_keypair *from, *to;
    uint64_t counter;

    meet();
    send_packet(&a, true);
    deliver(0);
    from = sv_wg_sending(&a.peer, now);
    to = sv_wg_sending(&b.peer, now);
    counter = sv_wg_take_counters(from, TRAIN);
    sv_random(plain, sizeof plain);
    sv_aead_batch_begin(sealing, from->send_key, counter, TRAIN, LEN);
    for (size_t i = 0; i < TRAIN; i++) {
        CHECK_EQ(sv_wg_seal_data(from, sealing, counter + i, messages[i], plain, LEN), 0);
    }
    sv_aead_batch_end(sealing);
    sv_aead_batch_begin(opening, to->receive_key, counter, TRAIN, LEN);
    for (size_t i = 0; i < TRAIN; i += 1 + i % 3) {
        memcpy(kept, messages[i], sizeof kept);
        kept[SV_WG_DATA_HEADER + i * 31 % (LEN + SV_AEAD_TAG)] ^= 4;
        CHECK_EQ(sv_wg_open_data(to, opening, now, kept, SIZE), SV_E_AUTH);
        memcpy(kept, messages[i], sizeof kept);
        CHECK_EQ(sv_wg_open_data(to, opening, now, messages[i], SIZE), 0);
        CHECK_MEM(messages[i] + SV_WG_DATA_HEADER, plain, LEN);
        CHECK_EQ(sv_wg_open_data(to, opening, now, kept, SIZE), SV_E_REPLAY);
    }
    sv_aead_batch_end(opening);
    sv_aead_batch_free(sealing);
    sv_aead_batch_free(opening);
}

static void forged_answers_spoil_nothing(void)
{
    uint8_t forged[SV_WG_RESPONSE_SIZE];

    meet();
    send_packet(&a, true);
    receive(&b, a.out.messages[0].bytes, SV_WG_INITIATION_SIZE);
    a.out.count = 0;
    memcpy(forged, b.out.messages[0].bytes, sizeof forged);
    for (size_t at = 12; at < 60; at++) {
        forged[at] ^= 1;
        receive(&a, forged, sizeof forged);
        forged[at] ^= 1;
    }
    CHECK_EQ(a.refused, 48);
    deliver(0);
    CHECK_EQ(b.received, 1);
}

static void both_begin_at_once(void)
{
    meet();
    send_packet(&a, true);
    send_packet(&b, true);
    deliver(0);
    pass(20, 0);
    for (int i = 0; i < 100; i++) {
        send_packet(&a, true);
        send_packet(&b, true);
        deliver(0);
        pass(1, 0);
    }
    CHECK_EQ(a.received, 101);
    CHECK_EQ(b.received, 101);
    CHECK_EQ(a.refused + b.refused, 0);
}

/* A day with a link that loses a third, and dies altogether now and then. */
static void bad_links(void)
{
    for (unsigned round = 0; round < 3; round++) {
        meet();
        seed = round + 1;
        for (int i = 0; i < 20000; i++) {
            unsigned lossy = dice(50) == 0 ? 100 : 30;

            if (dice(2)) {
                send_packet(&a, true);
            }
            if (dice(3) == 0) {
                send_packet(&b, true);
            }
            deliver(lossy);
            pass(dice(20) / 10.0, lossy);
            CHECK(keypairs(&a) <= 3 && keypairs(&b) <= 3);
        }
        pass(200, 0);
        a.received = b.received = 0;
        a.waiting = b.waiting = 0;
        send_packet(&a, true);
        send_packet(&b, true);
        pass(6, 0);
        CHECK_EQ(a.received, 1);
        CHECK_EQ(b.received, 1);
    }
}

/* ---- cookies ---- */

static void cookies(void)
{
    struct sv_wg_cookie_jar jar = {0};
    uint8_t cookie[SV_WG_MAC], reply[SV_WG_COOKIE_SIZE];
    const char here[] = "10.0.0.1:5", there[] = "10.0.0.2:5";
    uint8_t *message;

    meet();
    want_keys(&a);
    message = a.out.messages[0].bytes;
    CHECK(!sv_wg_check_mac2(&jar, now, here, sizeof here, message, SV_WG_INITIATION_SIZE));
    sv_wg_make_cookie(&jar, now, here, sizeof here, cookie);
    sv_wg_write_cookie(reply, message, SV_WG_INITIATION_SIZE, &b.own.macs, cookie);
    CHECK_EQ(sv_wg_type(reply, sizeof reply), SV_WG_COOKIE);
    CHECK_EQ(sv_wg_receiver(reply), sv_wg_sender(message));
    reply[40] ^= 1;
    CHECK_EQ(sv_wg_read_cookie(&a.peer.cookie, now, reply, &a.peer.macs), SV_E_AUTH);
    reply[40] ^= 1;
    CHECK_EQ(sv_wg_read_cookie(&a.peer.cookie, now, reply, &a.peer.macs), 0);
    CHECK(sv_wg_read_cookie(&a.peer.cookie, now, reply, &a.peer.macs) != 0); /* one message, one cookie */
    a.out.count = 0;
    pass(6, 100);
    CHECK_EQ(a.initiations, 2);
    initiate(&b, false); /* only so that the array is not empty */
    b.out.count = 0;
    now += SV_WG_REKEY_TIMEOUT_NS;
    unix_now += SV_WG_REKEY_TIMEOUT_NS;
    initiate(&a, true);
    message = a.out.messages[0].bytes;
    CHECK(sv_wg_check_mac1(message, SV_WG_INITIATION_SIZE, &b.own.macs));
    CHECK(sv_wg_check_mac2(&jar, now, here, sizeof here, message, SV_WG_INITIATION_SIZE));
    CHECK(!sv_wg_check_mac2(&jar, now, there, sizeof there, message, SV_WG_INITIATION_SIZE));
    now += 121 * SV_NS_PER_S; /* the secret is another one by then */
    CHECK(!sv_wg_check_mac2(&jar, now, here, sizeof here, message, SV_WG_INITIATION_SIZE));
    a.out.count = 0;
    initiate(&a, true);
    CHECK(!sv_wg_check_mac2(&jar, now, here, sizeof here, a.out.messages[0].bytes, SV_WG_INITIATION_SIZE));
}

static void counters_run_out(void)
{
    struct sv_wg_keypair *keypair;

    meet();
    send_packet(&a, true);
    deliver(0);
    keypair = sv_wg_sending(&a.peer, now);
    atomic_store(&keypair->send_counter, SV_WG_REKEY_AFTER_MESSAGES);
    CHECK(!sv_wg_wants_keys_on_send(keypair, now));
    pass(6, 0);
    send_packet(&a, true);
    CHECK_EQ(a.initiations, 2);
    a.out.count = 0;
    atomic_store(&keypair->send_counter, SV_WG_REJECT_AFTER_MESSAGES);
    CHECK(sv_wg_sending(&a.peer, now) == NULL);
}

int main(void)
{
    sv_crypto_init();
#ifdef SV_HAVE_IPSEC_MB
    setenv("SMARTVPN_AEAD", "ipsec-mb", 0); /* with batches, which a sanitizer makes too slow to be chosen */
#endif
    sv_aead_init();
    arena = sv_arena_new(sizeof(struct sv_wg_keypair));
    RUN(first_packet_begins_a_handshake);
    RUN(answered_without_data_is_confirmed);
    RUN(passive_keepalive);
    RUN(persistent_keepalive);
    RUN(rekey_by_time);
    RUN(rekey_on_receive);
    RUN(old_keys_are_refused);
    RUN(retransmission);
    RUN(silence_begins_a_handshake);
    RUN(secrets_are_forgotten);
    RUN(replayed_initiations);
    RUN(replayed_data);
    RUN(trains);
    RUN(forged_answers_spoil_nothing);
    RUN(both_begin_at_once);
    RUN(bad_links);
    RUN(cookies);
    RUN(counters_run_out);
    meet();
    clear(&a);
    clear(&b);
    sv_arena_free(arena);
    return CHECK_DONE("sim_wg");
}
