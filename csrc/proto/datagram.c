/* QUIC datagrams: keys of their own per epoch, in any order, each once (protocol.md, "Transport"). */
#include <stdlib.h>
#include <string.h>

#include <smartvpn/base.h>

#include "proto/session_internal.h"

/* One epoch's receiving side. */
struct epoch {
    bool valid;
    uint8_t number;
    uint8_t key[SV_AEAD_KEY];
    struct sv_replay replay;
    uint64_t expected; /* counters from here on have not been seen */
};

struct sv_datagrams {
    uint8_t send_key[SV_AEAD_KEY], next_send_key[SV_AEAD_KEY];
    uint64_t send_counter;
    uint8_t send_epoch;
    struct epoch current, next, old; /* next: between a rekey's answer and its SwitchKeys */
    uint64_t old_until;              /* ns */
};

/* ENCRYPT(k, n = 2^64-2, "", 32 zero bytes), its first 32 bytes. */
static void derive(const struct sv_aead_impl *aead, uint8_t key[SV_AEAD_KEY], const uint8_t k[SV_AEAD_KEY])
{
    static const uint8_t zeros[SV_AEAD_KEY];
    uint8_t nonce[SV_AEAD_NONCE], sealed[SV_AEAD_KEY + SV_AEAD_TAG];
    sv_aead_nonce(aead, nonce, UINT64_MAX - 1);
    if (aead->seal(k, nonce, NULL, 0, sealed, zeros, sizeof zeros) == 0) {
        memcpy(key, sealed, SV_AEAD_KEY);
    } else {
        /* Nobody else has this key: datagrams are lost, the stream goes on. */
        sv_random(key, SV_AEAD_KEY);
    }
    sv_wipe(sealed, sizeof sealed);
}

static void set_epoch(const struct sv_aead_impl *aead, struct epoch *epoch, uint8_t number,
                      const uint8_t k[SV_AEAD_KEY])
{
    epoch->valid = true;
    epoch->number = number;
    derive(aead, epoch->key, k);
    sv_replay_init(&epoch->replay);
    epoch->expected = 0;
}

static void drop_epoch(struct epoch *epoch)
{
    sv_wipe(epoch->key, sizeof epoch->key);
    epoch->valid = false;
}

bool sv_session_has_datagrams(const struct sv_session *s)
{
    return s->keyed && (s->capabilities & s->peer_capabilities & SV_CAP_DATAGRAM) != 0;
}

/* Only outside a rekey: the keys are those of s->epoch in both directions. */
static bool make(struct sv_session *s)
{
    if (s->datagrams) {
        return true;
    }
    struct sv_datagrams *d = calloc(1, sizeof *d);
    if (!d) {
        return false;
    }
    derive(s->aead, d->send_key, s->send_key);
    d->send_epoch = s->epoch;
    set_epoch(s->aead, &d->current, s->epoch, s->receive_key);
    s->datagrams = d;
    return true;
}

bool sv_datagrams_before_rekey(struct sv_session *s)
{
    return !sv_session_has_datagrams(s) || make(s);
}

void sv_datagrams_set_next(struct sv_session *s)
{
    struct sv_datagrams *d = s->datagrams;
    if (d) {
        set_epoch(s->aead, &d->next, (uint8_t)(d->current.number + 1), s->handshake->next_receive_key);
        derive(s->aead, d->next_send_key, s->handshake->next_send_key);
    }
}

static void promote(struct sv_datagrams *d, uint64_t now)
{
    d->old = d->current;
    d->old_until = now + SV_OLD_EPOCH_NS;
    d->current = d->next;
    drop_epoch(&d->next);
    memcpy(d->send_key, d->next_send_key, sizeof d->send_key);
    sv_wipe(d->next_send_key, sizeof d->next_send_key);
    d->send_counter = 0;
    d->send_epoch = d->current.number;
}

void sv_datagrams_promote(struct sv_session *s, uint64_t now)
{
    if (s->datagrams && s->datagrams->next.valid) {
        promote(s->datagrams, now);
    }
}

uint64_t sv_datagrams_deadline(const struct sv_session *s)
{
    return s->datagrams && s->datagrams->old.valid ? s->datagrams->old_until : SV_NEVER;
}

void sv_datagrams_expire(struct sv_session *s, uint64_t now)
{
    if (now >= sv_datagrams_deadline(s)) {
        drop_epoch(&s->datagrams->old);
    }
}

void sv_datagrams_free(struct sv_session *s)
{
    if (s->datagrams) {
        sv_wipe(s->datagrams, sizeof *s->datagrams);
        free(s->datagrams);
        s->datagrams = NULL;
    }
}

/* ---- sending ---- */

size_t sv_session_seal_datagram(struct sv_session *s, uint64_t now, uint8_t *dst, const uint8_t *plain,
                                size_t len)
{
    uint8_t nonce[SV_AEAD_NONCE];
    if (!sv_session_can_send(s) || !sv_session_has_datagrams(s) || len > SV_FRAME_MAX_PLAIN || !make(s) ||
        s->datagrams->send_counter >= SV_COUNTER_LIMIT) {
        return 0;
    }
    struct sv_datagrams *d = s->datagrams;
    dst[0] = SV_FRAME_IP_PACKET;
    dst[1] = d->send_epoch;
    sv_store64le(dst + 2, d->send_counter);
    sv_aead_nonce(s->aead, nonce, d->send_counter);
    if (s->aead->seal(d->send_key, nonce, dst, SV_DATAGRAM_HEADER, dst + SV_DATAGRAM_HEADER, plain, len) !=
        0) {
        return 0;
    }
    d->send_counter++;
    s->last_sent = now;
    sv_session_note_sent(s, now);
    return len + SV_DATAGRAM_OVERHEAD;
}

/* ---- receiving ---- */

static bool is_epoch(const struct epoch *epoch, uint8_t number)
{
    return epoch->valid && epoch->number == number;
}

/* The client changes its epoch by its own SwitchKeys, never by what comes. */
static struct epoch *find_epoch(struct sv_session *s, uint8_t number)
{
    struct sv_datagrams *d = s->datagrams;
    if (is_epoch(&d->current, number)) {
        return &d->current;
    }
    if (s->server && is_epoch(&d->next, number)) {
        return &d->next;
    }
    return is_epoch(&d->old, number) ? &d->old : NULL;
}

static int open_in(const struct sv_aead_impl *aead, struct epoch *epoch, uint8_t *datagram, size_t len,
                   uint8_t *dst)
{
    uint8_t nonce[SV_AEAD_NONCE], *body = datagram + SV_DATAGRAM_HEADER;
    uint64_t counter = sv_load64le(datagram + 2);
    if (counter >= SV_COUNTER_LIMIT || !sv_replay_check(&epoch->replay, counter)) {
        return SV_E_REPLAY;
    }
    sv_aead_nonce(aead, nonce, counter);
    int status = aead->open(epoch->key, nonce, datagram, SV_DATAGRAM_HEADER, dst, body,
                            len - SV_DATAGRAM_OVERHEAD);
    if (status == 0) {
        sv_replay_update(&epoch->replay, counter);
    }
    return status;
}

/* Counters begin at 0 with every epoch. */
static void note_counter(struct sv_session *s, struct epoch *epoch, uint64_t counter)
{
    s->counters.datagrams_received++;
    if (counter >= epoch->expected) {
        s->counters.datagrams_expected += counter + 1 - epoch->expected;
        epoch->expected = counter + 1;
    }
}

static int open_datagram(struct sv_session *s, uint64_t now, uint8_t *datagram, size_t len, uint8_t *dst)
{
    bool takes = s->state == SV_SESSION_LIVE || (s->server && s->state == SV_SESSION_WAIT);
    if (!takes || !sv_session_has_datagrams(s)) {
        return SV_E_STATE;
    }
    if (len < SV_DATAGRAM_OVERHEAD || datagram[0] != SV_FRAME_IP_PACKET) {
        return SV_E_MALFORMED;
    }
    if (!make(s)) {
        return SV_E_NOMEM;
    }
    sv_datagrams_expire(s, now);
    struct epoch *epoch = find_epoch(s, datagram[1]);
    if (!epoch) {
        return SV_E_STATE;
    }
    int status = open_in(s->aead, epoch, datagram, len, dst);
    if (status == 0) {
        note_counter(s, epoch, sv_load64le(datagram + 2));
    }
    if (status == 0 && epoch == &s->datagrams->next) {
        promote(s->datagrams, now);
    }
    return status;
}

uint64_t sv_session_datagrams_missing(const struct sv_session *s)
{
    return s->counters.datagrams_expected - s->counters.datagrams_received;
}

int sv_session_open_datagram(struct sv_session *s, uint64_t now, uint8_t *datagram, size_t len,
                             struct sv_received *out)
{
    return sv_session_open_datagram_to(s, now, datagram, len, datagram + SV_DATAGRAM_HEADER, out);
}

int sv_session_open_datagram_to(struct sv_session *s, uint64_t now, uint8_t *datagram, size_t len,
                                uint8_t *dst, struct sv_received *out)
{
    memset(out, 0, sizeof *out);
    int status = open_datagram(s, now, datagram, len, dst);
    if (status != 0) {
        s->counters.datagrams_dropped++;
        return status;
    }
    sv_session_note_received(s, now);
    if (s->state == SV_SESSION_WAIT) {
        sv_session_go_live(s, out);
    }
    out->event = sv_session_take_packet(s, dst, len - SV_DATAGRAM_OVERHEAD, out);
    return 0;
}
