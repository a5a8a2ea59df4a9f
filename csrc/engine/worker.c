/* A thread with its loop, its TUN queue, its links and its deadlines; a packet is carried from read to write without a queue between. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "crypto/keys.h"
#include "engine/dialer.h"
#include "engine/wg.h"

enum {
    POOL_SMALL = 65536, /* buffers: 128 MB at the very most, all but a few never made */
    POOL_LARGE = 4096,  /* 256 MB at the very most */
    RING_PACKETS = 1024,
    RING_POKES = 64,
    CLASSIFIER_FLOWS = 16384,
    TURN_BYTES = 2 << 20, /* of queued packets in one turn: a few hundred µs */
    STOP_WAIT_MS = 1200,  /* for Disconnects to go out and peers to close */
};

static void obey(struct sv_worker *worker);

static void on_wake(void *ctx)
{
    struct sv_worker *worker = ctx;

    sv_rcu_online(&worker->engine->rcu, worker->index);
    sv_buf_pool_collect(&worker->pool);
}

void sv_worker_flush(struct sv_worker *worker)
{
    size_t drained = 0;

    while (worker->dirty && drained < TURN_BYTES) {
        struct sv_conn *conn = worker->dirty;

        sv_worker_unmark_dirty(conn);
        drained += sv_conn_flush(conn);
    }
}

static void arm_timer(struct sv_worker *worker)
{
    uint64_t at = sv_heap_next(&worker->deadlines);

    if (worker->stopping && worker->stop_at < at) {
        at = worker->stop_at;
    }
    if (worker->dirty) {
        at = worker->loop.now; /* the turn was full */
    }
    if (at != worker->timer_at) {
        worker->timer_at = at;
        sv_timer_set(worker->timer, at);
    }
}

static void stop_if_idle(struct sv_worker *worker)
{
    if (worker->stopping && (!worker->conns || worker->loop.now >= worker->stop_at)) {
        sv_loop_stop(&worker->loop);
    }
}

/* The turn's end: everything that was collected in the turn goes out, then the loop may wait. Whoever is dirty after that comes next turn. */
static void on_sleep(void *ctx)
{
    struct sv_worker *worker = ctx;

    sv_inbound_flush(worker);
    do {
        sv_outbound_strays(worker);
        obey(worker);
        sv_outbound_push_strays(worker);
        sv_worker_flush(worker);
        if (worker->wg) {
            sv_wg_flush(worker);
        }
    } while (!sv_ring_sleep(&worker->packets) || !sv_ring_sleep(&worker->pokes));
    arm_timer(worker);
    stop_if_idle(worker);
    sv_rcu_offline(&worker->engine->rcu, worker->index);
}

static void on_tun(void *ctx, int events)
{
    (void)events;
    sv_outbound_tun_ready(ctx);
}

static void on_packets(void *ctx, int events)
{
    struct sv_worker *worker = ctx;

    (void)events;
    sv_ring_wake(&worker->packets);
    sv_outbound_strays(worker);
}

static void on_poke(void *ctx, int events)
{
    struct sv_worker *worker = ctx;

    (void)events;
    sv_ring_wake(&worker->pokes);
    obey(worker);
}

static void on_timer(void *ctx)
{
    struct sv_worker *worker = ctx;
    struct sv_deadline *due;

    worker->timer_at = SV_NEVER;
    while ((due = sv_heap_pop(&worker->deadlines, worker->loop.now))) {
        sv_conn_on_deadline(SV_CONTAINER_OF(due, struct sv_conn, deadline));
    }
}

void sv_worker_wake_at(struct sv_conn *conn, uint64_t at)
{
    struct sv_deadline *deadline = &conn->deadline;

    /* A later deadline is left to the earlier one, which looks again when it fires: packets move deadlines all the time. */
    if (at != SV_NEVER && (!deadline->place || at < deadline->at)) {
        if (sv_heap_set(&conn->worker->deadlines, deadline, at)) {
            sv_conn_abort(conn);
        }
    }
}

void sv_worker_mark_dirty(struct sv_conn *conn)
{
    if (!conn->dirty) {
        conn->dirty = true;
        conn->next_dirty = NULL;
        *conn->worker->dirty_last = conn;
        conn->worker->dirty_last = &conn->next_dirty;
    }
}

/* In the turn it is the first one. */
void sv_worker_unmark_dirty(struct sv_conn *conn)
{
    struct sv_worker *worker = conn->worker;
    struct sv_conn **at = &worker->dirty;

    if (!conn->dirty) {
        return;
    }
    while (*at != conn) {
        at = &(*at)->next_dirty;
    }
    *at = conn->next_dirty;
    if (!*at) {
        worker->dirty_last = at;
    }
    conn->dirty = false;
}

static void begin_stop(struct sv_worker *worker)
{
    unsigned code = worker->engine->server ? SV_DISCONNECT_SHUTTING_DOWN : SV_DISCONNECT_NORMAL;
    struct sv_conn *conn, *next;

    if (worker->stopping) {
        return;
    }
    worker->stopping = true;
    worker->stop_at = worker->loop.now + STOP_WAIT_MS * SV_NS_PER_MS;
    if (worker->ws) {
        sv_ws_server_stop_accepting(worker->ws);
    }
    if (worker->quic) {
        sv_quic_server_stop_accepting(worker->quic);
    }
    if (worker->engine->dialer) {
        sv_dialer_stop(worker->engine->dialer);
    }
    sv_watch_set(worker->tun_watch, 0);
    for (conn = worker->conns; conn; conn = next) {
        next = conn->next;
        sv_conn_disconnect(conn, code);
    }
}

static void disconnect_kicked(struct sv_worker *worker)
{
    struct sv_conn *conn = atomic_exchange(&worker->kicked, NULL), *next;

    for (; conn; conn = next) {
        next = conn->next_kicked;
        if (!conn->closing) {
            if (conn->kick_code == SV_DISCONNECT_SUPERSEDED) {
                sv_hub_pass_on(conn);
            }
            sv_conn_disconnect(conn, conn->kick_code);
        }
    }
}

static void obey(struct sv_worker *worker)
{
    while (sv_ring_pop(&worker->pokes)) {
    }
    disconnect_kicked(worker);
    if (worker->wg) {
        sv_wg_obey(worker);
    }
    sv_dialer_obey(worker->engine);
    if (atomic_load(&worker->stop_wanted)) {
        begin_stop(worker);
    }
}

/* A full ring has pokes to come, after which the worker looks as well. */
void sv_worker_poke(struct sv_worker *worker)
{
    sv_ring_push(&worker->pokes, worker);
}

void sv_worker_stop(struct sv_worker *worker)
{
    atomic_store(&worker->stop_wanted, true);
    sv_worker_poke(worker);
}

void sv_worker_kick(struct sv_conn *conn, uint8_t code)
{
    struct sv_worker *worker = conn->worker;

    conn->kick_code = code;
    conn->next_kicked = atomic_load(&worker->kicked);
    while (!atomic_compare_exchange_weak(&worker->kicked, &conn->next_kicked, conn)) {
    }
    sv_worker_poke(worker);
}

static int open_watches(struct sv_worker *worker)
{
    worker->timer = sv_timer_new(&worker->loop, on_timer, worker);
    worker->tun_watch = sv_watch_new(&worker->loop, worker->tun_queue, on_tun, worker);
    worker->packet_watch = sv_watch_new(&worker->loop, worker->packets.fd, on_packets, worker);
    worker->poke_watch = sv_watch_new(&worker->loop, worker->pokes.fd, on_poke, worker);
    if (!worker->timer || !worker->tun_watch || !worker->packet_watch || !worker->poke_watch) {
        return SV_E_NOMEM;
    }
    sv_watch_set(worker->tun_watch, SV_READABLE);
    sv_watch_set(worker->packet_watch, SV_READABLE);
    sv_watch_set(worker->poke_watch, SV_READABLE);
    return 0;
}

static int open_memory(struct sv_worker *worker)
{
    int error;

    sv_buf_pool_init(&worker->pool, POOL_SMALL, POOL_LARGE);
    sv_heap_init(&worker->deadlines);
    worker->classifier = sv_classifier_new(CLASSIFIER_FLOWS, worker->engine->secret);
    worker->gro = malloc(sizeof *worker->gro);
    if (worker->gro) {
        sv_gro_init(worker->gro, sv_inbound_write_tun, worker, worker->engine->tun.udp_gso);
    }
    worker->rx = sv_buf_get(&worker->pool, SV_BUF_LARGE);
    if (!worker->classifier || !worker->gro || !worker->rx) {
        return SV_E_NOMEM;
    }
    error = sv_ring_init(&worker->packets, RING_PACKETS);
    return error ? error : sv_ring_init(&worker->pokes, RING_POKES);
}

int sv_worker_open(struct sv_worker *worker, struct sv_engine *engine, size_t index)
{
    int error;

    worker->engine = engine;
    worker->index = index;
    worker->tun_queue = engine->tun.queues[index];
    worker->timer_at = SV_NEVER;
    worker->dirty_last = &worker->dirty;
    pthread_mutex_init(&worker->conns_lock, NULL);
    for (size_t i = 0; i < SV_MAX_WORKERS; i++) {
        worker->strays_last[i] = &worker->strays[i];
    }
    error = sv_loop_init(&worker->loop, worker, on_wake, on_sleep);
    if (error) {
        return error;
    }
    error = open_memory(worker);
    if (!error && engine->wg) {
        error = sv_wg_worker_open(worker);
    }
    return error ? error : open_watches(worker);
}

static void *run(void *ctx)
{
    struct sv_worker *worker = ctx;

    sv_loop_run(&worker->loop);
    sv_rcu_offline(&worker->engine->rcu, worker->index);
    return NULL;
}

int sv_worker_start(struct sv_worker *worker)
{
    sigset_t all, before;
    int error;

    /* Signals belong to the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&worker->thread, NULL, run, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    worker->started = error == 0;
    return error ? sv_fail(SV_E_SYSTEM, "cannot start a thread: %s", strerror(error)) : 0;
}

void sv_worker_join(struct sv_worker *worker)
{
    if (worker->started) {
        pthread_join(worker->thread, NULL);
        worker->started = false;
    }
}

static void close_watches(struct sv_worker *worker)
{
    struct sv_watch *watches[] = {worker->tun_watch, worker->packet_watch, worker->poke_watch};

    for (size_t i = 0; i < sizeof watches / sizeof *watches; i++) {
        if (watches[i]) {
            sv_watch_close(watches[i]);
        }
    }
    if (worker->timer) {
        sv_timer_close(worker->timer);
    }
}

static void close_memory(struct sv_worker *worker)
{
    struct sv_buf *buf, *next;

    while (worker->packets.cells && (buf = sv_ring_pop(&worker->packets))) {
        for (; buf; buf = next) {
            next = buf->next;
            sv_buf_put_remote(buf);
        }
    }
    sv_ring_clear(&worker->packets);
    sv_ring_clear(&worker->pokes);
    sv_buf_put(worker->rx);
    sv_buf_put(worker->gathered);
    sv_classifier_free(worker->classifier);
    free(worker->gro);
    sv_heap_clear(&worker->deadlines);
}

/* The loop runs once more in sv_loop_clear: links that were aborted report there that they are closed. */
void sv_worker_close(struct sv_worker *worker)
{
    if (!worker->engine) {
        return;
    }
    for (struct sv_conn *conn = worker->conns; conn; conn = conn->next) {
        sv_conn_abort(conn);
    }
    if (worker->engine->dialer) {
        sv_dialer_close(worker->engine->dialer);
    }
    if (worker->ws) {
        sv_ws_server_close(worker->ws);
    }
    sv_quic_server_close(worker->quic);
    sv_wg_worker_close(worker);
    close_watches(worker);
    sv_loop_clear(&worker->loop);
    close_memory(worker);
    pthread_mutex_destroy(&worker->conns_lock);
}
