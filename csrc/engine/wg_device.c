#include "engine/wg.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "engine/wg_kernel.h"

static const uint64_t RECLAIM_EVERY = 50 * SV_NS_PER_MS;
static const uint64_t KERNEL_EVERY = SV_NS_PER_S;

/* ---- the lock and the time ---- */

void sv_wg_lock(struct sv_wg *wg)
{
    pthread_mutex_lock(&wg->lock);
}

static uint64_t next_deadline(const struct sv_wg *wg)
{
    uint64_t at = sv_heap_next(&wg->deadlines);

    at = wg->kernel_at < at ? wg->kernel_at : at;
    return wg->reclaim_at < at ? wg->reclaim_at : at;
}

void sv_wg_unlock(struct sv_wg *wg)
{
    bool sooner = next_deadline(wg) < wg->timer_at;

    if (sooner) {
        wg->timer_at = next_deadline(wg); /* asked for: nobody else needs to ask */
    }
    pthread_mutex_unlock(&wg->lock);
    if (sooner) {
        atomic_store(&wg->timer_wanted, true);
        sv_worker_poke(&wg->engine->workers[0]);
    }
}

static void arm(struct sv_worker *timekeeper)
{
    struct sv_wg *wg = timekeeper->engine->wg;

    sv_wg_lock(wg);
    wg->timer_at = next_deadline(wg);
    sv_timer_set(timekeeper->wg->timer, wg->timer_at);
    pthread_mutex_unlock(&wg->lock);
}

static void on_timer(void *ctx)
{
    struct sv_worker *timekeeper = ctx;
    struct sv_wg *wg = timekeeper->engine->wg;

    sv_wg_lock(wg);
    if (timekeeper->loop.now >= wg->reclaim_at) {
        wg->reclaim_at = sv_rcu_reclaim(&wg->engine->rcu) ? timekeeper->loop.now + RECLAIM_EVERY : SV_NEVER;
    }
    if (timekeeper->loop.now >= wg->kernel_at) {
        sv_wg_kernel_read(wg, timekeeper->loop.now);
        wg->kernel_at = timekeeper->loop.now + KERNEL_EVERY;
    }
    pthread_mutex_unlock(&wg->lock);
    sv_wg_on_timer(timekeeper);
    arm(timekeeper);
}

void sv_wg_schedule_at(struct sv_wg_member *member, uint64_t at)
{
    /* Without memory the peer is looked at when its next packet moves it; nothing is lost but a timer. */
    sv_heap_set(&member->wg->deadlines, &member->deadline, at);
}

void sv_wg_schedule(struct sv_wg_member *member, uint64_t now)
{
    sv_wg_schedule_at(member, member->wg->up ? sv_wg_peer_deadline(&member->peer, now) : SV_NEVER);
}

void sv_wg_free_later(struct sv_wg *wg, struct sv_rcu_head *head, void (*free_fn)(struct sv_rcu_head *))
{
    sv_rcu_defer(&wg->engine->rcu, head, free_fn);
    if (wg->reclaim_at == SV_NEVER) {
        wg->reclaim_at = sv_clock_now() + RECLAIM_EVERY;
    }
}

/* ---- keypairs ---- */

/* 0 means none. */
uint32_t sv_wg_new_index(struct sv_wg *wg)
{
    uint32_t index;

    do {
        sv_random(&index, sizeof index);
    } while (index == 0 || sv_map_get(&wg->keypairs, &index) || sv_map_get(&wg->attempts, &index));
    return index;
}

int sv_wg_install(struct sv_wg_member *member, struct sv_wg_keypair *keypair)
{
    int error = sv_map_insert(&member->wg->keypairs, &keypair->local, keypair);

    if (!error) {
        sv_wg_list_heard(member);
    }
    return error;
}

void sv_wg_reap(struct sv_wg_member *member)
{
    struct sv_wg_keypair *keypair = member->peer.retired, *next;

    member->peer.retired = NULL;
    for (; keypair; keypair = next) {
        next = keypair->next_retired;
        sv_map_remove(&member->wg->keypairs, &keypair->local);
        sv_wg_free_later(member->wg, &keypair->rcu, sv_wg_keypair_free);
    }
}

static void drop_attempt(struct sv_wg_member *member)
{
    uint32_t index = sv_wg_drop_attempt(&member->peer);

    if (index) {
        sv_map_remove(&member->wg->attempts, &index);
    }
}

void sv_wg_forget_keys(struct sv_wg_member *member)
{
    drop_attempt(member);
    sv_wg_peer_reset(&member->peer);
    sv_wg_reap(member);
    sv_wg_drop_staged(member);
}

/* ---- identity ---- */

static void free_self(struct sv_rcu_head *head)
{
    struct sv_wg_self *self = SV_CONTAINER_OF(head, struct sv_wg_self, rcu);

    sv_arena_put(self->secrets, self);
}

static void publish_self(struct sv_wg *wg, struct sv_wg_self *self)
{
    struct sv_wg_self *old = atomic_exchange(&wg->self, self);

    if (old) {
        sv_wg_free_later(wg, &old->rcu, free_self);
    }
}

int sv_wg_set_private_key(struct sv_wg *wg, const uint8_t private_key[SV_KEY])
{
    static const uint8_t none[SV_KEY];
    struct sv_wg_self *self = NULL, *old = atomic_load(&wg->self);
    struct sv_wg_member *same;

    if (old && sv_equal(old->identity.private_key, private_key, SV_KEY)) {
        return 0;
    }
    if (!sv_equal(private_key, none, SV_KEY)) {
        self = sv_arena_get(wg->secrets);
        if (!self) {
            return SV_E_NOMEM;
        }
        self->secrets = wg->secrets;
        sv_wg_identity_init(&self->identity, private_key);
        same = sv_wg_find(wg, self->identity.public_key);
        if (same) {
            sv_wg_remove(wg, same);
        }
    }
    publish_self(wg, self);
    /* Keys of the old identity are no good for the new one. */
    for (struct sv_wg_member *member = wg->members; member; member = member->next) {
        sv_wg_forget_keys(member);
        sv_wg_schedule(member, sv_clock_now());
    }
    return 0;
}

/* ---- sockets ---- */

static void close_all(struct sv_udp *sockets, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        sv_udp_close(&sockets[i]);
    }
}

static int open_all(struct sv_wg *wg, struct sv_udp *sockets, uint16_t *port)
{
    size_t count = wg->engine->worker_count;

    for (size_t i = 0; i < count; i++) {
        enum sv_udp_share share = count == 1 ? SV_UDP_ALONE : i == 0 ? SV_UDP_FIRST : SV_UDP_JOIN;
        int error = sv_udp_open(&sockets[i], port, share, wg->mark);

        if (error) {
            close_all(sockets, i);
            return error;
        }
    }
    return 0;
}

/* Hands each worker its sockets; it closes those it has. */
static void hand_over(struct sv_wg *wg, const struct sv_udp *sockets)
{
    for (size_t i = 0; i < wg->engine->worker_count; i++) {
        struct sv_worker *worker = &wg->engine->workers[i];

        if (worker->wg->swap) {
            sv_udp_close(&worker->wg->next);
        }
        worker->wg->next = sockets[i];
        worker->wg->swap = true;
        atomic_store(&worker->wg->swap_wanted, true);
        sv_worker_poke(worker);
    }
}

static int reopen(struct sv_wg *wg, uint16_t port)
{
    struct sv_udp sockets[SV_MAX_WORKERS];
    int error = open_all(wg, sockets, &port);

    if (!error) {
        wg->port = port;
        hand_over(wg, sockets);
    }
    return error;
}

int sv_wg_set_port(struct sv_wg *wg, uint16_t port)
{
    if (wg->up && (port != wg->port || port == 0)) {
        return reopen(wg, port);
    }
    wg->port = port;
    return 0;
}

/* The worker's own sockets are closed under the lock only, so they are open here. */
int sv_wg_set_mark(struct sv_wg *wg, uint32_t mark)
{
    int error = 0;

    for (size_t i = 0; i < wg->engine->worker_count && !error; i++) {
        struct sv_wg_worker *part = wg->engine->workers[i].wg;

        error = sv_udp_set_mark(part->swap ? &part->next : &part->udp, mark);
    }
    if (!error) {
        wg->mark = mark;
    }
    return error;
}

static void go_down(struct sv_wg *wg)
{
    struct sv_udp none[SV_MAX_WORKERS];

    for (size_t i = 0; i < SV_MAX_WORKERS; i++) {
        none[i] = (struct sv_udp){.fd4 = -1, .fd6 = -1};
    }
    hand_over(wg, none);
    for (struct sv_wg_member *member = wg->members; member; member = member->next) {
        sv_wg_forget_keys(member);
        sv_wg_schedule(member, 0);
    }
}

static void come_up(struct sv_wg *wg)
{
    for (struct sv_wg_member *member = wg->members; member; member = member->next) {
        if (member->keepalive_wanted || member->peer.persistent_secs != 0) {
            sv_wg_speak(member);
        }
    }
}

int sv_wg_set_up(struct sv_wg *wg, bool up)
{
    int error = 0;

    if (wg->up == up) {
        return 0;
    }
    if (up) {
        error = reopen(wg, wg->port);
    }
    if (error) {
        return error;
    }
    wg->up = up;
    if (up) {
        come_up(wg);
    } else {
        go_down(wg);
    }
    return 0;
}

/* ---- members ---- */

struct sv_wg_member *sv_wg_find(struct sv_wg *wg, const uint8_t public_key[SV_KEY])
{
    return sv_map_get(&wg->by_key, public_key);
}

struct sv_wg_member *sv_wg_add(struct sv_wg *wg, const uint8_t public_key[SV_KEY])
{
    struct sv_wg_member *member = calloc(1, sizeof *member);

    if (!member || sv_map_insert(&wg->by_key, public_key, member)) {
        free(member);
        return NULL;
    }
    member->wg = wg;
    sv_wg_peer_init(&member->peer, wg->arena, public_key);
    member->staged_last = &member->staged;
    member->prev = wg->members_last;
    *(member->prev ? &member->prev->next : &wg->members) = member;
    wg->members_last = member;
    return member;
}

static void unlink_member(struct sv_wg *wg, struct sv_wg_member *member)
{
    sv_wg_unlist(member);
    *(member->prev ? &member->prev->next : &wg->members) = member->next;
    *(member->next ? &member->next->prev : &wg->members_last) = member->prev;
}

static void forget_psk(struct sv_wg_member *member)
{
    if (member->peer.psk) {
        sv_arena_put(member->wg->secrets, (void *)(uintptr_t)member->peer.psk);
        member->peer.psk = NULL;
    }
}

static void free_member(struct sv_rcu_head *head)
{
    struct sv_wg_member *member = SV_CONTAINER_OF(head, struct sv_wg_member, rcu);

    free(atomic_load(&member->path));
    forget_psk(member);
    sv_wipe(&member->peer, sizeof member->peer);
    free(member);
}

/* What is still counted of it from now on is lost: a few packets that were under way. */
static void keep_traffic(struct sv_wg *wg, const struct sv_wg_member *member)
{
    const sv_counter *from = &member->traffic.bytes_in;
    sv_counter *to = &wg->gone.bytes_in;

    for (size_t i = 0; i < sizeof wg->gone / sizeof *to; i++) {
        sv_count_shared(&to[i], sv_counted(&from[i]));
    }
}

/* Keypairs are deferred before the member they point to, and so freed before it. */
void sv_wg_remove(struct sv_wg *wg, struct sv_wg_member *member)
{
    if (wg->kernel) {
        sv_wg_kernel_remove(wg, member->peer.public_key);
    }
    sv_wg_disallow_all(member);
    sv_wg_forget_keys(member);
    keep_traffic(wg, member);
    sv_heap_remove(&wg->deadlines, &member->deadline);
    sv_map_remove(&wg->by_key, member->peer.public_key);
    unlink_member(wg, member);
    sv_wg_free_later(wg, &member->rcu, free_member);
}

int sv_wg_set_psk(struct sv_wg_member *member, const uint8_t psk[SV_KEY])
{
    static const uint8_t none[SV_KEY];
    uint8_t *kept = NULL;

    if (!sv_equal(psk, none, SV_KEY)) {
        kept = sv_arena_get(member->wg->secrets);
        if (!kept) {
            return SV_E_NOMEM;
        }
        memcpy(kept, psk, SV_KEY);
    }
    forget_psk(member);
    member->peer.psk = kept;
    return 0;
}

int sv_wg_set_endpoint(struct sv_wg_member *member, const struct sv_endpoint *to)
{
    struct sv_wg_path *path = calloc(1, sizeof *path), *old;

    if (!path) {
        return SV_E_NOMEM;
    }
    path->to = *to;
    old = atomic_exchange(&member->path, path);
    if (old) {
        sv_wg_free_later(member->wg, &old->rcu, sv_rcu_free);
    }
    return 0;
}

void sv_wg_speak(struct sv_wg_member *member)
{
    member->keepalive_wanted = true;
    if (member->wg->up) {
        sv_wg_schedule_at(member, 0);
    }
}

void sv_wg_set_persistent(struct sv_wg_member *member, uint16_t secs)
{
    member->peer.persistent_secs = secs;
    if (secs != 0) {
        sv_wg_speak(member);
    } else {
        sv_wg_schedule(member, sv_clock_now());
    }
}

/* ---- opening and closing ---- */

int sv_wg_new(struct sv_wg **out, struct sv_engine *engine)
{
    struct sv_wg *wg = calloc(1, sizeof *wg);
    int error;

    *out = wg;
    if (!wg) {
        return SV_E_NOMEM;
    }
    wg->engine = engine;
    wg->timer_at = wg->reclaim_at = wg->kernel_at = SV_NEVER;
    atomic_init(&wg->mtu, SV_DEFAULT_MTU);
    pthread_mutex_init(&wg->lock, NULL);
    sv_heap_init(&wg->deadlines);
    sv_trie_init(&wg->allowed, &engine->rcu);
    wg->arena = sv_arena_new(sizeof(struct sv_wg_keypair));
    wg->secrets = sv_arena_new(sizeof(struct sv_wg_self));
    error = wg->arena && wg->secrets ? 0 : SV_E_NOMEM;
    error = error ? error : sv_map_init(&wg->by_key, SV_KEY, &engine->rcu, engine->secret);
    error = error ? error : sv_map_init(&wg->keypairs, sizeof(uint32_t), &engine->rcu, engine->secret);
    error = error ? error : sv_map_init(&wg->attempts, sizeof(uint32_t), &engine->rcu, engine->secret);
    return error ? error : sv_wg_load_init(&wg->load, engine->secret);
}

void sv_wg_free(struct sv_wg *wg)
{
    if (!wg) {
        return;
    }
    if (wg->kernel) {
        sv_wg_kernel_close(wg->engine->tun.name);
        wg->kernel = false;
    }
    while (wg->members) {
        sv_wg_remove(wg, wg->members);
    }
    publish_self(wg, NULL);
    sv_rcu_clear(&wg->engine->rcu);
    sv_arena_free(wg->arena);
    sv_arena_free(wg->secrets);
    sv_map_clear(&wg->by_key);
    sv_map_clear(&wg->keypairs);
    sv_map_clear(&wg->attempts);
    sv_trie_clear(&wg->allowed);
    sv_heap_clear(&wg->deadlines);
    sv_wg_load_clear(&wg->load);
    pthread_mutex_destroy(&wg->lock);
    sv_wipe(wg, sizeof *wg);
    free(wg);
}

int sv_wg_worker_open(struct sv_worker *worker)
{
    struct sv_wg_worker *part = calloc(1, sizeof *part);

    worker->wg = part;
    if (!part) {
        return SV_E_NOMEM;
    }
    part->udp = (struct sv_udp){.fd4 = -1, .fd6 = -1};
    part->batch = sv_udp_batch_new();
    part->aead = sv_aead_batch_new();
    part->out = malloc(SV_WG_OUT);
    if (worker->index == 0) {
        part->timer = sv_timer_new(&worker->loop, on_timer, worker);
    }
    if (!part->batch || !part->out || (!part->timer && worker->index == 0)) {
        return SV_E_NOMEM;
    }
    return sv_wg_lanes_open(worker);
}

static void close_watch(struct sv_watch **watch)
{
    if (*watch) {
        sv_watch_close(*watch);
        *watch = NULL;
    }
}

void sv_wg_worker_close(struct sv_worker *worker)
{
    struct sv_wg_worker *part = worker->wg;

    if (!part) {
        return;
    }
    close_watch(&part->watch4);
    close_watch(&part->watch6);
    if (part->timer) {
        sv_timer_close(part->timer);
    }
    sv_udp_close(&part->udp);
    if (part->swap) {
        sv_udp_close(&part->next);
    }
    sv_wg_lanes_close(worker);
    sv_udp_batch_free(part->batch);
    sv_aead_batch_free(part->aead);
    free(part->out);
    free(part);
    worker->wg = NULL;
}

static struct sv_watch *watch(struct sv_worker *worker, int fd, void (*on_ready)(void *, int))
{
    struct sv_watch *made = fd < 0 ? NULL : sv_watch_new(&worker->loop, fd, on_ready, worker);

    if (made) {
        sv_watch_set(made, SV_READABLE);
    } else if (fd >= 0) {
        sv_log(SV_LOG_ERROR, "out of memory: worker %zu does not listen", worker->index);
    }
    return made;
}

void sv_wg_adopt_sockets(struct sv_worker *worker)
{
    struct sv_wg_worker *part = worker->wg;

    if (part->swap) {
        close_watch(&part->watch4);
        close_watch(&part->watch6);
        sv_udp_close(&part->udp);
        part->udp = part->next;
        part->swap = false;
        part->watch4 = watch(worker, part->udp.fd4, sv_wg_on_udp4);
        part->watch6 = watch(worker, part->udp.fd6, sv_wg_on_udp6);
    }
}

static void take_sockets(struct sv_worker *worker)
{
    sv_wg_flush(worker);
    sv_wg_lock(worker->engine->wg);
    sv_wg_adopt_sockets(worker);
    sv_wg_unlock(worker->engine->wg);
}

void sv_wg_obey(struct sv_worker *worker)
{
    if (atomic_exchange(&worker->wg->swap_wanted, false)) {
        take_sockets(worker);
    }
    if (worker->index == 0 && atomic_exchange(&worker->engine->wg->timer_wanted, false)) {
        arm(worker);
    }
}
