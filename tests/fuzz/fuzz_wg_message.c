/* What may come to the UDP port: told apart, opened, answered, without reading past its end; nothing that a stranger writes opens. */
#include <stdlib.h>
#include <string.h>

#include <smartvpn/base.h>

#include "base/clock.h"
#include "crypto/aead.h"
#include "proto/wg_peer.h"

static struct sv_wg_identity own, other;
static struct sv_wg_peer peer;
static struct sv_wg_keypair *keypair;
static struct sv_aead_batch *batch;
static uint64_t now = 1000 * SV_NS_PER_S;

/* A peer with an open handshake of ours, and keys from an earlier one. */
static void make(void)
{
    struct sv_arena *arena;
    uint8_t key[SV_KEY], public_key[SV_KEY], message[SV_WG_INITIATION_SIZE];
    uint32_t replaced;

#ifdef SV_HAVE_IPSEC_MB
    setenv("SMARTVPN_AEAD", "ipsec-mb", 0); /* with batches, which a sanitizer makes too slow to be chosen */
#endif
    sv_crypto_init();
    sv_aead_init();
    batch = sv_aead_batch_new();
    arena = sv_arena_new(sizeof *keypair);
    sv_x25519_generate(key, public_key);
    sv_wg_identity_init(&own, key);
    sv_x25519_generate(key, public_key);
    sv_wg_identity_init(&other, key);
    sv_wg_peer_init(&peer, arena, public_key);
    keypair = sv_arena_get(arena);
    keypair->arena = arena;
    keypair->peer = &peer;
    keypair->made_at = now;
    sv_random(keypair->receive_key, sizeof keypair->receive_key);
    sv_replay_init(&keypair->replay);
    if (sv_wg_write_initiation(&peer, &own, now, 1, 7, false, message, &replaced)) {
        abort();
    }
}

/* One by one, and as one of a train. */
static void open_data(const uint8_t *message, size_t size)
{
    uint8_t *room = malloc(size + SV_AEAD_BATCH_BEHIND);

    memcpy(room, message, size);
    sv_aead_batch_begin(batch, keypair->receive_key, sv_wg_counter(message), 30, size - SV_WG_DATA_OVERHEAD);
    if (!sv_wg_open_data(keypair, batch, now, room, size)) {
        abort();
    }
    sv_aead_batch_end(batch);
    free(room);
}

static void expect_refusal(int error)
{
    if (!error) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *message = malloc(size ? size : 1); /* exactly as long, so that a read past the end is seen */
    struct sv_wg_hello hello;
    struct sv_wg_keypair *made;

    if (!keypair) {
        make();
    }
    memcpy(message, data, size);
    switch (sv_wg_type(message, size)) {
    case SV_WG_INITIATION:
        sv_wg_check_mac1(message, size, &own.macs);
        sv_wg_put_macs(message, size, &own.macs, NULL);
        if (!sv_wg_check_mac1(message, size, &own.macs)) {
            abort();
        }
        expect_refusal(sv_wg_open_initiation(&hello, &own, message));
        break;
    case SV_WG_RESPONSE:
        sv_wg_put_macs(message, size, &own.macs, NULL);
        memcpy(message + 8, (const uint8_t[]){7, 0, 0, 0}, 4);
        expect_refusal(sv_wg_read_response(&peer, now, 1, message, &made));
        break;
    case SV_WG_COOKIE:
        expect_refusal(sv_wg_read_cookie(&peer.cookie, now, message, &peer.macs));
        break;
    case SV_WG_DATA:
        open_data(message, size);
        expect_refusal(sv_wg_open_data(keypair, NULL, now, message, size));
        break;
    case SV_WG_NONE:
        break;
    }
    free(message);
    return 0;
}
