/* What is not data: initiations, responses, cookies, and the peers' timers. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "engine/wg.h"

static struct sv_wg_member *member_of(struct sv_wg_peer *peer)
{
    return SV_CONTAINER_OF(peer, struct sv_wg_member, peer);
}

static void count_bytes(atomic_uint_fast64_t *counter, size_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ---- sending ---- */

static void send_to(struct sv_worker *worker, const struct sv_endpoint *to, const uint8_t *message,
                    size_t len)
{
    struct sv_endpoint endpoint = *to;

    sv_udp_send(&worker->wg->udp, &endpoint, message, len, len);
}

static void set_path(struct sv_wg_member *member, const struct sv_endpoint *from)
{
    struct sv_wg_path *path = atomic_load(&member->path);

    if (!path || !sv_endpoint_identical(&path->to, from)) {
        sv_wg_set_endpoint(member, from); /* without memory the old one stays */
    }
}

/* ---- initiations that we send; under the lock ---- */

static void drop_index(struct sv_wg *wg, uint32_t index)
{
    if (index) {
        sv_map_remove(&wg->attempts, &index);
    }
}

static void initiate(struct sv_worker *worker, struct sv_wg_member *member, bool again)
{
    struct sv_wg *wg = member->wg;
    struct sv_wg_self *self = atomic_load(&wg->self);
    struct sv_wg_path *path = atomic_load(&member->path);
    uint8_t message[SV_WG_INITIATION_SIZE];
    uint32_t index = sv_wg_new_index(wg), replaced = 0;

    if (!self || !path || !wg->up || sv_map_insert(&wg->attempts, &index, member)) {
        drop_index(wg, sv_wg_drop_attempt(&member->peer));
        return;
    }
    if (sv_wg_write_initiation(&member->peer, &self->identity, worker->loop.now, sv_clock_wall(), index,
                               again, message, &replaced)) {
        drop_index(wg, sv_wg_drop_attempt(&member->peer));
        drop_index(wg, replaced);
        return;
    }
    drop_index(wg, replaced);
    sv_wg_adopt_sockets(worker);
    send_to(worker, &path->to, message, sizeof message);
    count_bytes(&member->bytes_out, sizeof message);
}

static void want_handshake(struct sv_worker *worker, struct sv_wg_member *member)
{
    if (sv_wg_want_keys(&member->peer, worker->loop.now)) {
        initiate(worker, member, false);
    }
    sv_wg_schedule(member, worker->loop.now);
}

void sv_wg_want_handshake(struct sv_worker *worker, struct sv_wg_member *member)
{
    sv_wg_lock(member->wg);
    want_handshake(worker, member);
    sv_wg_unlock(member->wg);
}

/* ---- packets that wait for it; under the lock ---- */

static void unstage(struct sv_wg_member *member)
{
    struct sv_wg_staged *oldest = member->staged;

    member->staged = oldest->next;
    if (!member->staged) {
        member->staged_last = &member->staged;
    }
    member->staged_count--;
    member->staged_bytes -= oldest->len;
    atomic_fetch_sub(&member->wg->staged_bytes, oldest->len);
    free(oldest);
}

void sv_wg_drop_staged(struct sv_wg_member *member)
{
    while (member->staged) {
        unstage(member);
    }
}

static struct sv_wg_staged *take_staged(struct sv_wg_member *member)
{
    struct sv_wg_staged *all = member->staged;

    atomic_fetch_sub(&member->wg->staged_bytes, member->staged_bytes);
    member->staged = NULL;
    member->staged_last = &member->staged;
    member->staged_count = member->staged_bytes = 0;
    return all;
}

/* The newest stay: they are what somebody still waits for. */
static void stage(struct sv_wg_member *member, const struct sv_buf *buf)
{
    uint32_t len = (uint32_t)sv_buf_len(buf);
    struct sv_wg_staged *staged = malloc(sizeof *staged + len + SV_WG_PADDING);

    if (!staged || atomic_load(&member->wg->staged_bytes) + len > SV_WG_STAGED_BYTES_ALL) {
        free(staged);
        return;
    }
    *staged = (struct sv_wg_staged){.len = len, .kind = buf->kind, .segment_size = buf->segment_size};
    memcpy(staged->packet, buf->data, len);
    *member->staged_last = staged;
    member->staged_last = &staged->next;
    member->staged_count++;
    member->staged_bytes += len;
    atomic_fetch_add(&member->wg->staged_bytes, len);
    while (member->staged_count > SV_WG_STAGED_PACKETS ||
           (member->staged_bytes > SV_WG_STAGED_BYTES && member->staged_count > 1)) {
        unstage(member);
    }
}

void sv_wg_stage(struct sv_worker *worker, struct sv_wg_member *member, const struct sv_buf *buf)
{
    sv_wg_lock(member->wg);
    if (member->wg->up && atomic_load(&member->wg->self)) {
        stage(member, buf);
        want_handshake(worker, member);
    }
    sv_wg_unlock(member->wg);
}

/* ---- who may be answered; under the lock ---- */

static void source_of(const struct sv_endpoint *from, uint8_t source[16])
{
    static const uint8_t mapped[12] = {[10] = 0xFF, [11] = 0xFF};

    if (from->to.any.sa_family == AF_INET) {
        memcpy(source, mapped, sizeof mapped);
        memcpy(source + 12, &from->to.in4.sin_addr, 4);
    } else {
        memcpy(source, &from->to.in6.sin6_addr, 16);
    }
}

static void ask_for_cookie(struct sv_worker *worker, const struct sv_wg_self *self,
                           const struct sv_endpoint *from, const uint8_t *message, size_t len)
{
    struct sv_wg *wg = worker->engine->wg;
    uint8_t id[SV_ENDPOINT_ID], cookie[SV_WG_MAC], reply[SV_WG_COOKIE_SIZE];

    sv_wg_make_cookie(&wg->jar, worker->loop.now, id, sv_endpoint_id(from, id), cookie);
    sv_wg_write_cookie(reply, message, len, &self->identity.macs, cookie);
    sv_count(&wg->cookies_sent, 1);
    send_to(worker, from, reply, sizeof reply);
}

/* Under load whoever shows, by mac2, that he is where he says may come in (section 5.3). */
static bool admit(struct sv_worker *worker, const struct sv_wg_self *self, const struct sv_endpoint *from,
                  const uint8_t *message, size_t len)
{
    struct sv_wg *wg = worker->engine->wg;
    uint64_t now = worker->loop.now;
    uint8_t id[SV_ENDPOINT_ID], source[16];

    if (!sv_wg_load_note(&wg->load, now)) {
        return true;
    }
    source_of(from, source);
    if (sv_wg_check_mac2(&wg->jar, now, id, sv_endpoint_id(from, id), message, len)) {
        return sv_wg_load_may_enter(&wg->load, now, source);
    }
    if (sv_wg_load_may_ask(&wg->load, now, source)) {
        ask_for_cookie(worker, self, from, message, len);
    }
    return false;
}

static bool is_admitted(struct sv_worker *worker, const struct sv_wg_self *self,
                        const struct sv_endpoint *from, const uint8_t *message, size_t len)
{
    struct sv_wg *wg = worker->engine->wg;
    bool admitted = false;

    if (!sv_wg_check_mac1(message, len, &self->identity.macs)) {
        atomic_fetch_add_explicit(&wg->strangers, 1, memory_order_relaxed);
        return false;
    }
    sv_wg_lock(wg);
    admitted = wg->up && admit(worker, self, from, message, len);
    sv_wg_unlock(wg);
    return admitted;
}

/* ---- as responder ---- */

static void answer(struct sv_worker *worker, struct sv_wg_member *member, struct sv_wg_hello *hello,
                   const struct sv_endpoint *from)
{
    struct sv_wg *wg = worker->engine->wg;
    struct sv_wg_keypair *made = NULL;
    uint8_t message[SV_WG_RESPONSE_SIZE];

    if (sv_wg_answer(&member->peer, hello, worker->loop.now, sv_wg_new_index(wg), message, &made)) {
        sv_count(&wg->bad_handshakes, 1);
        return;
    }
    if (sv_wg_install(member, made)) {
        sv_wg_peer_reset(&member->peer); /* out of memory: the peer will try again */
        sv_wg_reap(member);
        return;
    }
    sv_wg_reap(member);
    set_path(member, from);
    count_bytes(&member->bytes_in, SV_WG_INITIATION_SIZE);
    count_bytes(&member->bytes_out, sizeof message);
    send_to(worker, from, message, sizeof message);
    sv_wg_schedule(member, worker->loop.now);
}

/* Opening costs two scalar multiplications, which no other worker has to wait for. */
static void on_initiation(struct sv_worker *worker, const struct sv_wg_self *self,
                          const struct sv_endpoint *from, const uint8_t *message)
{
    struct sv_wg *wg = worker->engine->wg;
    struct sv_wg_hello hello;
    struct sv_wg_member *member = NULL;
    int error = sv_wg_open_initiation(&hello, &self->identity, message);

    sv_wg_lock(wg);
    if (!error && atomic_load(&wg->self) == self) {
        member = sv_wg_find(wg, hello.noise.rs);
    }
    if (member && !sv_wg_source_allows(member, from)) {
        member = NULL;
    }
    if (member) {
        answer(worker, member, &hello, from);
    } else {
        sv_count(&wg->bad_handshakes, 1);
    }
    sv_wg_unlock(wg);
    sv_wipe(&hello, sizeof hello);
}

void sv_wg_on_first_data(struct sv_worker *worker, struct sv_wg_keypair *keypair)
{
    struct sv_wg_member *member = member_of(keypair->peer);
    struct sv_wg_staged *staged = NULL;

    sv_wg_lock(member->wg);
    if (sv_wg_confirm(&member->peer, keypair, worker->loop.now, sv_clock_wall())) {
        sv_wg_reap(member);
        sv_count(&member->wg->handshakes, 1);
        sv_wg_note_connected(member);
        staged = take_staged(member);
        sv_wg_schedule(member, worker->loop.now);
    }
    sv_wg_unlock(member->wg);
    if (staged) {
        sv_wg_send_staged(worker, member, staged, false);
    }
}

/* ---- as initiator ---- */

static struct sv_wg_member *read_response(struct sv_worker *worker, const struct sv_endpoint *from,
                                          const uint8_t *message)
{
    struct sv_wg *wg = worker->engine->wg;
    uint32_t index = sv_wg_receiver(message);
    struct sv_wg_member *member = sv_map_get(&wg->attempts, &index);
    struct sv_wg_keypair *made = NULL;

    if (!member || sv_wg_read_response(&member->peer, worker->loop.now, sv_clock_wall(), message, &made)) {
        sv_count(&wg->bad_handshakes, 1);
        return NULL;
    }
    sv_map_remove(&wg->attempts, &index);
    if (sv_wg_install(member, made)) {
        sv_wg_peer_reset(&member->peer); /* out of memory: as if there had been no answer */
        made = NULL;
    } else {
        sv_count(&wg->handshakes, 1);
        sv_wg_note_connected(member);
        count_bytes(&member->bytes_in, SV_WG_RESPONSE_SIZE);
        set_path(member, from);
    }
    sv_wg_reap(member);
    sv_wg_schedule(member, worker->loop.now);
    return made ? member : NULL;
}

static void on_response(struct sv_worker *worker, const struct sv_endpoint *from, const uint8_t *message)
{
    struct sv_wg *wg = worker->engine->wg;
    struct sv_wg_staged *staged = NULL;
    struct sv_wg_member *member;

    sv_wg_lock(wg);
    member = read_response(worker, from, message);
    if (member) {
        staged = take_staged(member);
    }
    sv_wg_unlock(wg);
    if (member) {
        sv_wg_send_staged(worker, member, staged, true);
    }
}

/* It answers our initiation, or our response, by the index that we gave there. */
static void on_cookie(struct sv_worker *worker, const uint8_t *message)
{
    struct sv_wg *wg = worker->engine->wg;
    uint32_t index = sv_wg_receiver(message);
    struct sv_wg_member *member;
    struct sv_wg_keypair *keypair;

    sv_wg_lock(wg);
    member = sv_map_get(&wg->attempts, &index);
    keypair = member ? NULL : sv_map_get(&wg->keypairs, &index);
    if (keypair) {
        member = member_of(keypair->peer);
    }
    if (!member || sv_wg_read_cookie(&member->peer.cookie, worker->loop.now, message, &member->peer.macs)) {
        sv_count(&wg->bad_handshakes, 1);
    }
    sv_wg_unlock(wg);
}

void sv_wg_on_handshake(struct sv_worker *worker, const struct sv_endpoint *from, uint8_t *message,
                        size_t len)
{
    struct sv_wg *wg = worker->engine->wg;
    const struct sv_wg_self *self = atomic_load_explicit(&wg->self, memory_order_acquire);
    enum sv_wg_type type = sv_wg_type(message, len);

    if (!self) {
        return;
    }
    switch (type) {
    case SV_WG_INITIATION:
        if (is_admitted(worker, self, from, message, len)) {
            on_initiation(worker, self, from, message);
        }
        break;
    case SV_WG_RESPONSE:
        if (is_admitted(worker, self, from, message, len)) {
            on_response(worker, from, message);
        }
        break;
    case SV_WG_COOKIE:
        on_cookie(worker, message);
        break;
    default:
        atomic_fetch_add_explicit(&wg->strangers, 1, memory_order_relaxed);
        break;
    }
}

/* ---- roaming ---- */

void sv_wg_on_roam(struct sv_wg_member *member, const struct sv_endpoint *from)
{
    sv_wg_lock(member->wg);
    set_path(member, from);
    sv_wg_unlock(member->wg);
}

/* ---- time ---- */

/* A keepalive that was wanted; without keys it is a handshake that says the same. */
static bool keep_alive(struct sv_worker *worker, struct sv_wg_member *member)
{
    if (sv_wg_sending(&member->peer, worker->loop.now)) {
        return true;
    }
    want_handshake(worker, member);
    return false;
}

/* The peer's name may have another address by now, which whoever knows the name can find out. */
static void tell_silence(struct sv_wg *wg)
{
    const sv_event event = {.type = SV_EVENT_LOOKUP, .code = -1};

    if (wg->follows) {
        sv_event_put(wg->engine, &event);
    }
}

/* true: a keepalive is to be sent, without the lock. */
static bool on_time(struct sv_worker *worker, struct sv_wg_member *member)
{
    unsigned todo = sv_wg_peer_on_time(&member->peer, worker->loop.now);
    bool keepalive = false;

    sv_wg_reap(member);
    sv_wg_note_age(member, worker->loop.now);
    if (member->keepalive_wanted) {
        member->keepalive_wanted = false;
        todo |= SV_WG_DO_KEEPALIVE;
    }
    if (todo & SV_WG_DO_FORGET) {
        drop_index(member->wg, sv_wg_drop_attempt(&member->peer));
    }
    if (todo & SV_WG_DO_GIVE_UP) {
        drop_index(member->wg, sv_wg_drop_attempt(&member->peer));
        sv_wg_drop_staged(member);
    }
    if (todo & SV_WG_DO_RETRY) {
        tell_silence(member->wg);
        initiate(worker, member, true);
    } else if (todo & SV_WG_DO_INITIATE) {
        want_handshake(worker, member);
    }
    if (todo & SV_WG_DO_KEEPALIVE) {
        keepalive = keep_alive(worker, member);
    }
    sv_wg_schedule(member, worker->loop.now);
    return keepalive;
}

/* One peer at a time: others' handshakes need not wait for all that are due. */
void sv_wg_on_timer(struct sv_worker *worker)
{
    struct sv_wg *wg = worker->engine->wg;
    struct sv_deadline *due;

    do {
        struct sv_wg_member *member = NULL;
        bool keepalive = false;

        sv_wg_lock(wg);
        due = sv_heap_pop(&wg->deadlines, worker->loop.now);
        if (due) {
            member = SV_CONTAINER_OF(due, struct sv_wg_member, deadline);
            keepalive = on_time(worker, member);
        }
        pthread_mutex_unlock(&wg->lock); /* the timer is set when all are done */
        if (keepalive) {
            sv_wg_send_keepalive(worker, member);
        }
    } while (due);
}
