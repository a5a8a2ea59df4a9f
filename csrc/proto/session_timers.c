/* Keepalives and every deadline of a session (product.md, "Adaptive keepalive"). */
#include <string.h>

#include "proto/session_internal.h"

enum { STAMP = 8, REPORT = SV_KEEPALIVE_PLAIN - STAMP, PROBES_TO_SUSPECT = 2 };

/* ---- intervals ---- */

static uint16_t smaller_bound(uint16_t a, uint16_t b)
{
    return b != 0 && b < a ? b : a;
}

uint16_t sv_session_healthy_secs(const struct sv_session *s)
{
    uint16_t secs = smaller_bound(SV_KEEPALIVE_DEFAULT_SECS, s->settings->keepalive_secs);
    return smaller_bound(secs, s->keepalive_secs);
}

static uint64_t after_secs(uint64_t from, uint64_t secs)
{
    return from + secs * SV_NS_PER_S;
}

/* While one waits for flush the next is counted from its flush. */
uint64_t sv_session_next_keepalive(const struct sv_session *s)
{
    if (s->pending & SV_PENDING_KEEPALIVE) {
        return SV_NEVER;
    }
    return after_secs(s->last_keepalive, sv_quality_interval_secs(&s->quality));
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t sv_session_patience(const struct sv_session *s)
{
    uint64_t rtt = s->quality.checks > 0 && s->quality.srtt_ns > 0 ? s->quality.srtt_ns : s->handshake_rtt;
    return later(SV_NS_PER_S, 4 * rtt);
}

/* When unanswered data asks for a keepalive. One that is on its way already gets the same time to be
 * answered. */
static uint64_t probe_at(const struct sv_session *s)
{
    if (s->unanswered_since == 0 || s->suspect) {
        return SV_NEVER;
    }
    return later(s->unanswered_since, later(s->last_keepalive, s->last_probe)) + sv_session_patience(s);
}

static uint64_t rekey_at(const struct sv_session *s)
{
    if (s->handshake || !sv_session_rekey_agreed(s)) {
        return SV_NEVER;
    }
    return after_secs(s->rekeyed_at, s->rekey_secs);
}

static uint64_t rekey_overdue_at(const struct sv_session *s)
{
    return sv_session_rekey_agreed(s) ? after_secs(s->rekeyed_at, 2 * s->rekey_secs) : SV_NEVER;
}

/* ---- keepalives on the wire ---- */

static uint32_t to_us(uint64_t ns)
{
    uint64_t us = ns / SV_NS_PER_US;
    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

/* The timestamp is random: it tells the server nothing and cannot be acknowledged before it was seen. */
void sv_session_keepalive_plain(struct sv_session *s, uint64_t now, uint8_t dst[SV_KEEPALIVE_PLAIN])
{
    sv_random(s->asked, STAMP);
    s->keepalive_asked = true;
    s->last_keepalive = now;
    memcpy(dst, s->asked, STAMP);
    sv_store32be(dst + 8, to_us(s->quality.srtt_ns));
    sv_store32be(dst + 12, to_us(s->quality.jitter_ns));
    sv_store16be(dst + 16, (uint16_t)(sv_quality_loss(&s->quality) * 65535.0 + 0.5));
    sv_store16be(dst + 18, sv_quality_interval_secs(&s->quality));
}

static void take_report(struct sv_session *s, const uint8_t *report)
{
    s->quality.srtt_ns = sv_load32be(report) * SV_NS_PER_US;
    s->quality.jitter_ns = sv_load32be(report + 4) * SV_NS_PER_US;
    s->peer_loss = sv_load16be(report + 8);
    s->peer_interval_secs = sv_load16be(report + 10);
}

enum sv_session_event sv_session_receive_keepalive(struct sv_session *s, uint64_t now, const uint8_t *plain,
                                                   size_t len, struct sv_received *out)
{
    if (len < STAMP) {
        return sv_session_offend(s, out, SV_DISCONNECT_PROTOCOL_ERROR, "short keepalive");
    }
    s->counters.keepalives_received++;
    s->last_keepalive = now;
    if (len >= SV_KEEPALIVE_PLAIN) {
        take_report(s, plain + STAMP);
    }
    if (s->ack_count < SV_SESSION_ACKS) {
        memcpy(s->acks[s->ack_count++], plain, STAMP);
    }
    return SV_SESSION_NOTHING;
}

void sv_session_receive_ack(struct sv_session *s, uint64_t now, const uint8_t *plain, size_t len)
{
    if (!s->keepalive_asked || len < STAMP || !sv_equal(plain, s->asked, STAMP)) {
        return;
    }
    s->keepalive_asked = false;
    s->counters.acks_received++;
    sv_quality_on_answer(&s->quality, now - s->last_keepalive);
    s->next_keepalive = sv_session_next_keepalive(s);
}

/* ---- timers ---- */

static uint64_t live_deadline(const struct sv_session *s)
{
    uint64_t at = sooner(s->last_received + SV_SILENCE_NS, sooner(s->answer_by, sv_datagrams_deadline(s)));
    if (s->server) {
        return sooner(at, rekey_overdue_at(s));
    }
    return sooner(sooner(at, rekey_at(s)), sooner(s->next_keepalive, probe_at(s)));
}

uint64_t sv_session_deadline(const struct sv_session *s)
{
    switch (s->state) {
    case SV_SESSION_START:
    case SV_SESSION_HELLO:
    case SV_SESSION_WAIT:
        return s->answer_by;
    case SV_SESSION_LIVE:
        return live_deadline(s);
    default:
        return s->failed ? 0 : SV_NEVER;
    }
}

static enum sv_session_event die(struct sv_session *s)
{
    sv_session_close(s);
    s->failed = false;
    return SV_SESSION_ON_DEAD;
}

static enum sv_session_event server_timer(struct sv_session *s, uint64_t now)
{
    if (now < rekey_overdue_at(s)) {
        return SV_SESSION_NOTHING;
    }
    sv_session_disconnect(s, SV_DISCONNECT_REKEY_OVERDUE, NULL);
    return SV_SESSION_ON_OFFENCE;
}

/* Another keepalive is due: one that is unanswered by now is lost. */
static void ask(struct sv_session *s)
{
    if (s->keepalive_asked) {
        s->keepalive_asked = false;
        sv_quality_on_loss(&s->quality, s->last_received <= s->last_keepalive);
    }
    s->pending |= SV_PENDING_KEEPALIVE;
    s->next_keepalive = SV_NEVER;
}

static enum sv_session_event probe(struct sv_session *s, uint64_t now)
{
    s->last_probe = now;
    s->probes++;
    ask(s);
    if (sv_quality_dead(&s->quality)) {
        return die(s);
    }
    s->suspect = s->probes >= PROBES_TO_SUSPECT;
    return s->suspect ? SV_SESSION_ON_SUSPECT : SV_SESSION_NOTHING;
}

void sv_session_probe(struct sv_session *s, uint64_t now)
{
    if (!s->server && s->state == SV_SESSION_LIVE) {
        s->probes = 0;
        s->last_probe = now;
        sv_session_note_sent(s, now);
        ask(s);
    }
}

void sv_session_doubt(struct sv_session *s)
{
    s->suspect = s->state == SV_SESSION_LIVE;
}

static enum sv_session_event client_timer(struct sv_session *s, uint64_t now)
{
    if (now >= rekey_at(s) && !sv_session_start_rekey(s)) {
        return die(s);
    }
    if (now >= probe_at(s)) {
        return probe(s, now);
    }
    if (now >= s->next_keepalive) {
        ask(s);
    }
    return sv_quality_dead(&s->quality) ? die(s) : SV_SESSION_NOTHING;
}

enum sv_session_event sv_session_on_timer(struct sv_session *s, uint64_t now)
{
    if (s->failed) {
        return die(s);
    }
    if (s->state >= SV_SESSION_CLOSING) {
        return SV_SESSION_NOTHING;
    }
    if (now >= s->answer_by) {
        return die(s);
    }
    if (s->state != SV_SESSION_LIVE) {
        return SV_SESSION_NOTHING;
    }
    if (now >= s->last_received + SV_SILENCE_NS) {
        return die(s);
    }
    sv_datagrams_expire(s, now);
    return s->server ? server_timer(s, now) : client_timer(s, now);
}
