/* io/udp → proto open (replay) → allowed IPs → packet/gro → io/tun. */
#include <string.h>

#include "base/bytes.h"
#include "engine/hub.h"
#include "engine/wg.h"

static struct sv_wg_member *member_of(struct sv_wg_peer *peer)
{
    return SV_CONTAINER_OF(peer, struct sv_wg_member, peer);
}

static void drop(struct sv_worker *worker, enum sv_verdict verdict, size_t bytes)
{
    sv_count(&worker->traffic.drops[verdict], 1);
    sv_count(&worker->traffic.bytes_dropped, bytes);
}

/* ---- one packet ---- */

/* Bytes of the packet that a padded plaintext begins with; 0: none. */
static size_t inner_length(const uint8_t *plain, size_t len)
{
    size_t inner = 0;

    if (len >= SV_IP4_HEADER && plain[0] >> 4 == 4) {
        inner = sv_load16be(plain + 2);
    } else if (len >= SV_IP6_HEADER && plain[0] >> 4 == 6) {
        inner = SV_IP6_HEADER + (size_t)sv_load16be(plain + 4);
    }
    return inner <= len ? inner : 0;
}

void sv_wg_deliver(struct sv_worker *worker, struct sv_wg_member *member, uint8_t *packet, size_t len,
                   const struct sv_ip *ip)
{
    sv_count_shared(&member->traffic.packets_in, 1);
    sv_count_shared(&member->traffic.bytes_in, len);
    sv_inbound_forward(worker, packet, len, 0, 0, ip, NULL);
}

static void drop_of(struct sv_wg_member *member, enum sv_verdict verdict, size_t bytes)
{
    sv_count_shared(&member->traffic.drops[verdict], 1);
    sv_count_shared(&member->traffic.bytes_dropped, bytes);
}

static struct sv_limiter *limiter_of(const struct sv_wg_member *member)
{
    return member->client ? sv_hub_limiter(member->client) : NULL;
}

/* By the hub's rules, and those of the client that the member is. */
static void to_hub(struct sv_worker *worker, struct sv_wg_member *member, uint8_t *packet, size_t len,
                   const struct sv_ip *ip)
{
    enum sv_verdict verdict = sv_hub_check_destination(worker->engine->hub, member->client, ip);
    struct sv_limiter *limiter = limiter_of(member);

    if (verdict != SV_PASS) {
        drop_of(member, verdict, len);
    } else if (limiter && limiter->bytes_per_sec) {
        sv_wg_limit_up(worker, member, limiter, packet, len, ip);
    } else {
        sv_wg_deliver(worker, member, packet, len, ip);
    }
}

static void on_packet(struct sv_worker *worker, struct sv_wg_member *member, uint8_t *plain, size_t len)
{
    size_t inner = inner_length(plain, len);
    const struct sv_wg_allowed *allowed;
    struct sv_ip ip;

    if (!inner || sv_ip_parse(&ip, plain, inner)) {
        drop_of(member, SV_DROP_MALFORMED, len);
        return;
    }
    allowed = sv_trie_find(&member->wg->allowed, ip.src);
    if (!allowed || allowed->member != member) {
        drop_of(member, SV_DROP_SOURCE, inner);
    } else if (worker->engine->hub) {
        to_hub(worker, member, plain, inner, &ip);
    } else {
        sv_wg_deliver(worker, member, plain, inner, &ip);
    }
}

/* ---- the datagrams of one receive ---- */

/* What a run of messages under one keypair amounted to. */
struct run {
    struct sv_wg_keypair *keypair;
    size_t bytes; /* authentic ones */
    bool data;
    bool checked, refused; /* whether the client may come from there */
};

static struct sv_wg_keypair *keypair_of(struct sv_worker *worker, const uint8_t *message)
{
    struct sv_wg_worker *part = worker->wg;
    uint32_t index = sv_wg_receiver(message);

    if (!part->from || part->from_index != index) {
        part->from = sv_map_get(&worker->engine->wg->keypairs, &index);
        part->from_index = index;
    }
    return part->from;
}

static void end_run(struct sv_worker *worker, const struct sv_endpoint *from, struct run *run)
{
    struct sv_wg_keypair *keypair = run->keypair;
    struct sv_wg_member *member;
    const struct sv_wg_path *path;

    if (!run->bytes) {
        *run = (struct run){0};
        return;
    }
    member = member_of(keypair->peer);
    atomic_fetch_add_explicit(&member->bytes_in, run->bytes, memory_order_relaxed);
    sv_wg_note_received(&member->peer, worker->loop.now, run->data);
    path = atomic_load_explicit(&member->path, memory_order_acquire);
    if (!path || !sv_endpoint_identical(&path->to, from)) {
        sv_wg_on_roam(member, from);
    }
    if (atomic_load_explicit(&member->peer.current, memory_order_relaxed) != keypair) {
        sv_wg_on_first_data(worker, keypair);
    }
    if (sv_wg_wants_keys_on_receive(keypair, worker->loop.now)) {
        sv_wg_want_handshake(worker, member);
    }
    *run = (struct run){0};
}

/* Asked once an authentic message shows that it comes from elsewhere than the last. */
static bool is_refused(const struct sv_endpoint *from, struct run *run)
{
    struct sv_wg_member *member = member_of(run->keypair->peer);
    const struct sv_wg_path *path;

    if (member->client && !run->checked) {
        run->checked = true;
        path = atomic_load_explicit(&member->path, memory_order_acquire);
        run->refused = !(path && sv_endpoint_same(&path->to, from)) && !sv_wg_source_allows(member, from);
        if (!run->refused && !atomic_load_explicit(&member->client->on_wg, memory_order_relaxed)) {
            atomic_store_explicit(&member->client->on_wg, true, memory_order_relaxed);
        }
    }
    return run->refused;
}

static void on_data(struct sv_worker *worker, const struct sv_endpoint *from, struct run *run,
                    uint8_t *message, size_t len)
{
    struct sv_wg_keypair *keypair = keypair_of(worker, message);
    int error;

    if (!keypair) {
        atomic_fetch_add_explicit(&worker->engine->wg->strangers, 1, memory_order_relaxed);
        return;
    }
    if (run->keypair != keypair) {
        end_run(worker, from, run);
        run->keypair = keypair;
    }
    error = sv_wg_open_data(keypair, worker->wg->aead, worker->loop.now, message, len);
    if (error) {
        drop(worker, error == SV_E_AUTH ? SV_DROP_MALFORMED : SV_DROP_REPLAY, len);
        return;
    }
    if (is_refused(from, run)) {
        drop(worker, SV_DROP_SOURCE, len);
        return;
    }
    run->bytes += len;
    if (len > SV_WG_DATA_OVERHEAD) {
        run->data = true;
        on_packet(worker, member_of(keypair->peer), message + SV_WG_DATA_HEADER, len - SV_WG_DATA_OVERHEAD);
    }
}

/* A sender's super-packet comes as messages under one keypair whose counters follow one another. */
static void expect_train(struct sv_worker *worker, const uint8_t *bytes, size_t len, size_t segment)
{
    const struct sv_wg_keypair *keypair;
    uint64_t first, count = 1;

    if (len == segment || sv_wg_type(bytes, segment) != SV_WG_DATA ||
        !(keypair = keypair_of(worker, bytes))) {
        return;
    }
    first = sv_wg_counter(bytes);
    for (size_t at = segment; at < len; at += segment, count++) {
        const uint8_t *message = bytes + at;

        if (sv_wg_type(message, len - at < segment ? len - at : segment) != SV_WG_DATA ||
            sv_wg_receiver(message) != keypair->local || sv_wg_counter(message) != first + count) {
            break;
        }
    }
    sv_aead_batch_begin(worker->wg->aead, keypair->receive_key, first, count, segment - SV_WG_DATA_OVERHEAD);
}

static void on_datagrams(void *ctx, const struct sv_endpoint *from, uint8_t *bytes, size_t len,
                         size_t segment)
{
    struct sv_worker *worker = ctx;
    struct run run = {0};
    size_t at = 0;

    expect_train(worker, bytes, len, segment);
    do {
        size_t n = len - at < segment ? len - at : segment;

        if (sv_wg_type(bytes + at, n) == SV_WG_DATA) {
            on_data(worker, from, &run, bytes + at, n);
        } else {
            sv_wg_on_handshake(worker, from, bytes + at, n);
        }
        at += segment;
    } while (at < len);
    end_run(worker, from, &run);
    sv_aead_batch_end(worker->wg->aead);
}

/* *fd is read anew each time: a message may make the worker take other sockets. */
static void receive(struct sv_worker *worker, const int *fd)
{
    struct sv_wg_worker *part = worker->wg;

    for (int i = 0; i < SV_WG_RECEIVES_PER_TURN; i++) {
        int n = sv_udp_receive(*fd, part->batch, on_datagrams, worker);

        sv_gro_flush(worker->gro); /* the next receive takes the same place */
        if (n < SV_UDP_BATCH) {
            break;
        }
    }
    part->from = NULL; /* good for this turn only */
}

void sv_wg_on_udp4(void *ctx, int events)
{
    struct sv_worker *worker = ctx;

    (void)events;
    receive(worker, &worker->wg->udp.fd4);
}

void sv_wg_on_udp6(void *ctx, int events)
{
    struct sv_worker *worker = ctx;

    (void)events;
    receive(worker, &worker->wg->udp.fd6);
}
