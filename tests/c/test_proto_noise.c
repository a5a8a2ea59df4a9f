/* IK and IKpsk2 give the published bytes, handshake hashes and transport messages, and refuse what was
 * changed. */
#include "tests/c/check.h"

#include <smartvpn/base.h>

#include "noise_vectors.h"
#include "proto/noise.h"

enum { BUFFER = 1024 };

struct direction {
    uint8_t key[SV_AEAD_KEY];
    uint64_t n;
};

struct pair {
    struct sv_noise initiator, responder;
};

static void start_from_vector(struct pair *pair, size_t i)
{
    const uint8_t *psk = noise_vectors[i].psk.len > 0 ? noise_vectors[i].psk.p : NULL;
    struct sv_noise_config config = {
        .initiator = true,
        .s_private = noise_vectors[i].init_static.p,
        .rs = noise_vectors[i].resp_public.p,
        .psk = psk,
        .prologue = noise_vectors[i].prologue.p,
        .prologue_len = noise_vectors[i].prologue.len,
    };
    sv_noise_init(&pair->initiator, &config);
    sv_noise_fix_ephemeral(&pair->initiator, noise_vectors[i].init_ephemeral.p);
    config.initiator = false;
    config.s_private = noise_vectors[i].resp_static.p;
    config.rs = NULL;
    sv_noise_init(&pair->responder, &config);
    sv_noise_fix_ephemeral(&pair->responder, noise_vectors[i].resp_ephemeral.p);
}

static void check_handshake(struct pair *pair, size_t i)
{
    uint8_t message[BUFFER], payload[BUFFER];
    struct vector_bytes sent = noise_vectors[i].messages[0].payload,
                        want = noise_vectors[i].messages[0].message;
    CHECK_EQ(sv_noise_write1(&pair->initiator, message, sent.p, sent.len), 0);
    CHECK_EQ(sent.len + SV_NOISE_MESSAGE1, want.len);
    CHECK_MEM(message, want.p, want.len);
    CHECK_EQ(sv_noise_read1(&pair->responder, payload, want.p, want.len), 0);
    CHECK_MEM(payload, sent.p, sent.len);
    CHECK_MEM(pair->responder.rs, pair->initiator.s_public, SV_KEY);

    sent = noise_vectors[i].messages[1].payload;
    want = noise_vectors[i].messages[1].message;
    CHECK_EQ(sv_noise_write2(&pair->responder, message, sent.p, sent.len), 0);
    CHECK_EQ(sent.len + SV_NOISE_MESSAGE2, want.len);
    CHECK_MEM(message, want.p, want.len);
    CHECK_EQ(sv_noise_read2(&pair->initiator, payload, want.p, want.len), 0);
    CHECK_MEM(payload, sent.p, sent.len);
}

static void check_transport(struct direction *from, struct direction *to, struct vector_bytes sent,
                            struct vector_bytes want)
{
    uint8_t message[BUFFER], payload[BUFFER], nonce[SV_AEAD_NONCE];
    sv_aead_nonce(sv_aead, nonce, from->n++);
    CHECK_EQ(sv_aead->seal(from->key, nonce, NULL, 0, message, sent.p, sent.len), 0);
    CHECK_EQ(sent.len + SV_AEAD_TAG, want.len);
    CHECK_MEM(message, want.p, want.len);
    sv_aead_nonce(sv_aead, nonce, to->n++);
    CHECK_EQ(sv_aead->open(to->key, nonce, NULL, 0, payload, want.p, sent.len), 0);
    CHECK_MEM(payload, sent.p, sent.len);
}

static void check_after(struct pair *pair, size_t i)
{
    struct direction init_send = {0}, init_receive = {0}, resp_send = {0}, resp_receive = {0};
    uint8_t init_hash[SV_HASH], resp_hash[SV_HASH];
    sv_noise_finish(&pair->initiator, init_send.key, init_receive.key, init_hash);
    sv_noise_finish(&pair->responder, resp_send.key, resp_receive.key, resp_hash);
    CHECK_MEM(init_hash, resp_hash, SV_HASH);
    if (noise_vectors[i].hash.len > 0) {
        CHECK_EQ(noise_vectors[i].hash.len, SV_HASH);
        CHECK_MEM(init_hash, noise_vectors[i].hash.p, SV_HASH);
    }
    for (size_t m = 2; m < noise_vectors[i].count; m++) {
        check_transport(m % 2 == 0 ? &init_send : &resp_send, m % 2 == 0 ? &resp_receive : &init_receive,
                        noise_vectors[i].messages[m].payload, noise_vectors[i].messages[m].message);
    }
}

static void vectors(void)
{
    size_t psk = 0, hashes = 0, count = sizeof noise_vectors / sizeof *noise_vectors;
    CHECK_EQ(count, 5);
    for (size_t i = 0; i < count; i++) {
        struct pair pair;
        CHECK(noise_vectors[i].count >= 4);
        start_from_vector(&pair, i);
        check_handshake(&pair, i);
        check_after(&pair, i);
        psk += noise_vectors[i].psk.len > 0;
        hashes += noise_vectors[i].hash.len > 0;
    }
    CHECK_EQ(psk, 1);
    CHECK_EQ(hashes, 3);
}

static uint8_t client[SV_KEY], client_public[SV_KEY], server[SV_KEY], server_public[SV_KEY],
    psk_bytes[SV_KEY];

static void start(struct pair *pair, const uint8_t *psk)
{
    struct sv_noise_config config = {
        .initiator = true,
        .s_private = client,
        .s_public = client_public,
        .rs = server_public,
        .psk = psk,
        .prologue = "smartvpn/1",
        .prologue_len = 10,
    };
    sv_noise_init(&pair->initiator, &config);
    config.initiator = false;
    config.s_private = server;
    config.s_public = server_public;
    config.rs = NULL;
    sv_noise_init(&pair->responder, &config);
}

static void check_round(const uint8_t *psk, size_t len)
{
    static uint8_t message[65535], payload[65535], sent[65535];
    uint8_t keys[4][SV_AEAD_KEY], hashes[2][SV_HASH];
    struct pair pair;
    sv_random(sent, len);
    start(&pair, psk);
    CHECK_EQ(sv_noise_write1(&pair.initiator, message, sent, len), 0);
    CHECK_EQ(sv_noise_read1(&pair.responder, payload, message, len + SV_NOISE_MESSAGE1), 0);
    CHECK_MEM(payload, sent, len);
    CHECK_MEM(pair.responder.rs, client_public, SV_KEY);
    CHECK_EQ(sv_noise_write2(&pair.responder, message, sent, len), 0);
    CHECK_EQ(sv_noise_read2(&pair.initiator, payload, message, len + SV_NOISE_MESSAGE2), 0);
    CHECK_MEM(payload, sent, len);
    sv_noise_finish(&pair.initiator, keys[0], keys[1], hashes[0]);
    sv_noise_finish(&pair.responder, keys[2], keys[3], hashes[1]);
    CHECK_MEM(keys[0], keys[3], SV_AEAD_KEY);
    CHECK_MEM(keys[1], keys[2], SV_AEAD_KEY);
    CHECK(memcmp(keys[0], keys[1], SV_AEAD_KEY) != 0);
    CHECK_MEM(hashes[0], hashes[1], SV_HASH);
}

static void round_trips(void)
{
    static const size_t lengths[] = {0, 1, 12, 500, 65535 - SV_NOISE_MESSAGE1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        check_round(NULL, lengths[i]);
        check_round(psk_bytes, lengths[i]);
    }
}

/* Each handshake has an ephemeral key of its own. */
static void ephemerals_are_fresh(void)
{
    uint8_t one[SV_NOISE_MESSAGE1], two[SV_NOISE_MESSAGE1];
    struct pair pair;
    start(&pair, NULL);
    CHECK_EQ(sv_noise_write1(&pair.initiator, one, NULL, 0), 0);
    start(&pair, NULL);
    CHECK_EQ(sv_noise_write1(&pair.initiator, two, NULL, 0), 0);
    CHECK(memcmp(one, two, SV_KEY) != 0);
}

/* Every bit of message 1 and of message 2 is under authentication, but the top bit of a public key, which
 * X25519 ignores and the hash does not. */
static void changed_bits_are_refused(void)
{
    uint8_t message1[SV_NOISE_MESSAGE1 + 5], message2[SV_NOISE_MESSAGE2 + 5], payload[5];
    struct pair pair;
    start(&pair, NULL);
    CHECK_EQ(sv_noise_write1(&pair.initiator, message1, "hello", 5), 0);
    for (size_t bit = 0; bit < sizeof message1 * 8; bit++) {
        struct sv_noise responder = pair.responder;
        message1[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK_EQ(sv_noise_read1(&responder, payload, message1, sizeof message1), SV_E_AUTH);
        message1[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CHECK_EQ(sv_noise_read1(&pair.responder, payload, message1, sizeof message1), 0);
    CHECK_EQ(sv_noise_write2(&pair.responder, message2, "hello", 5), 0);
    for (size_t bit = 0; bit < sizeof message2 * 8; bit++) {
        struct sv_noise initiator = pair.initiator;
        message2[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK_EQ(sv_noise_read2(&initiator, payload, message2, sizeof message2), SV_E_AUTH);
        message2[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CHECK_EQ(sv_noise_read2(&pair.initiator, payload, message2, sizeof message2), 0);
}

static void lengths_are_checked(void)
{
    static uint8_t message[70000];
    uint8_t payload[SV_NOISE_MESSAGE1];
    struct pair pair;
    start(&pair, NULL);
    for (size_t len = 0; len < SV_NOISE_MESSAGE1; len++) {
        CHECK_EQ(sv_noise_read1(&pair.responder, payload, message, len), SV_E_MALFORMED);
    }
    for (size_t len = 0; len < SV_NOISE_MESSAGE2; len++) {
        CHECK_EQ(sv_noise_read2(&pair.initiator, payload, message, len), SV_E_MALFORMED);
    }
    CHECK_EQ(sv_noise_read1(&pair.responder, payload, message, 65536), SV_E_MALFORMED);
    CHECK_EQ(sv_noise_read2(&pair.initiator, payload, message, 65536), SV_E_MALFORMED);
    CHECK_EQ(sv_noise_write1(&pair.initiator, message, message, 65536 - SV_NOISE_MESSAGE1), SV_E_INVALID);
    CHECK_EQ(sv_noise_write2(&pair.responder, message, message, 65536 - SV_NOISE_MESSAGE2), SV_E_INVALID);
}

/* A peer that sends a point of small order as its ephemeral key makes every DH zero. */
static void zero_dh_is_refused(void)
{
    uint8_t message[SV_NOISE_MESSAGE1] = {0}, payload[1];
    struct pair pair;
    start(&pair, NULL);
    CHECK_EQ(sv_noise_read1(&pair.responder, payload, message, sizeof message), SV_E_AUTH);
    start(&pair, NULL);
    memset(pair.initiator.rs, 0, SV_KEY);
    CHECK_EQ(sv_noise_write1(&pair.initiator, message, NULL, 0), SV_E_AUTH);
    memset(message, 0, sizeof message);
    start(&pair, NULL);
    CHECK_EQ(sv_noise_read2(&pair.initiator, payload, message, SV_NOISE_MESSAGE2), SV_E_AUTH);
}

/* Another prologue, another server key, another psk: message 1 or 2 does not open. */
static void differing_ends_do_not_agree(void)
{
    uint8_t message[SV_NOISE_MESSAGE1], payload[1], other[SV_KEY];
    struct pair pair, strange;
    struct sv_noise_config config = {.s_private = server, .prologue = "smartvpn/2", .prologue_len = 10};
    start(&pair, NULL);
    CHECK_EQ(sv_noise_write1(&pair.initiator, message, NULL, 0), 0);
    sv_noise_init(&strange.responder, &config);
    CHECK_EQ(sv_noise_read1(&strange.responder, payload, message, sizeof message), SV_E_AUTH);
    config = (struct sv_noise_config){.s_private = client, .prologue = "smartvpn/1", .prologue_len = 10};
    sv_noise_init(&strange.responder, &config);
    CHECK_EQ(sv_noise_read1(&strange.responder, payload, message, sizeof message), SV_E_AUTH);

    sv_random(other, sizeof other);
    start(&pair, psk_bytes);
    start(&strange, other);
    CHECK_EQ(sv_noise_write1(&pair.initiator, message, NULL, 0), 0);
    CHECK_EQ(sv_noise_read1(&strange.responder, payload, message, sizeof message), 0);
    CHECK_EQ(sv_noise_write2(&strange.responder, message, NULL, 0), 0);
    CHECK_EQ(sv_noise_read2(&pair.initiator, payload, message, SV_NOISE_MESSAGE2), SV_E_AUTH);
}

static void symmetric_state(void)
{
    struct sv_symmetric a, b, before;
    uint8_t sealed[21], opened[21];
    sv_symmetric_init(&a, "short name");
    CHECK_MEM(a.h, "short name\0\0\0\0", 14);
    CHECK_MEM(a.ck, a.h, SV_HASH);
    CHECK_EQ(sv_symmetric_encrypt_and_hash(&a, sealed, (const uint8_t *)"plain", 5), 0);
    CHECK_MEM(sealed, "plain", 5);
    sv_symmetric_init(&b, "short name");
    CHECK_EQ(sv_symmetric_decrypt_and_hash(&b, opened, sealed, 5), 0);
    CHECK_MEM(opened, "plain", 5);
    sv_symmetric_mix_key(&a, "key", 3);
    sv_symmetric_mix_key(&b, "key", 3);
    CHECK_MEM(&a, &b, sizeof a);

    /* In place, twice under one key, and a failure that leaves the state as it was. */
    for (uint64_t i = 0; i < 2; i++) {
        memcpy(sealed, "plain", 5);
        CHECK_EQ(sv_symmetric_encrypt_and_hash(&a, sealed, sealed, 5), 0);
        memcpy(opened, sealed, sizeof opened);
        opened[0] ^= 1;
        before = b;
        CHECK_EQ(sv_symmetric_decrypt_and_hash(&b, opened, opened, sizeof opened), SV_E_AUTH);
        CHECK_EQ(sv_symmetric_decrypt_and_hash(&b, opened, opened, SV_AEAD_TAG - 1), SV_E_MALFORMED);
        CHECK_MEM(&b, &before, sizeof b);
        CHECK_EQ(sv_symmetric_decrypt_and_hash(&b, sealed, sealed, sizeof sealed), 0);
        CHECK_MEM(sealed, "plain", 5);
        CHECK_EQ(b.n, i + 1);
    }
    CHECK_MEM(a.h, b.h, SV_HASH);
}

static void clearing_leaves_nothing(void)
{
    static const struct sv_noise zero;
    uint8_t message[SV_NOISE_MESSAGE1];
    struct pair pair;
    start(&pair, psk_bytes);
    CHECK_EQ(sv_noise_write1(&pair.initiator, message, NULL, 0), 0);
    sv_noise_clear(&pair.initiator);
    CHECK_MEM(&pair.initiator, &zero, sizeof zero);
}

int main(void)
{
    if (sv_crypto_init() != 0 || sv_aead_init() != 0) {
        return 1;
    }
    sv_x25519_generate(client, client_public);
    sv_x25519_generate(server, server_public);
    sv_random(psk_bytes, sizeof psk_bytes);
    RUN(vectors);
    RUN(round_trips);
    RUN(ephemerals_are_fresh);
    RUN(changed_bits_are_refused);
    RUN(lengths_are_checked);
    RUN(zero_dh_is_refused);
    RUN(differing_ends_do_not_agree);
    RUN(symmetric_state);
    RUN(clearing_leaves_nothing);
    return CHECK_DONE("proto_noise");
}
