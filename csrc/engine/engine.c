/* Opening and closing: what is shared first, then the workers, and all of it back in reverse. */
#include <smartvpn/engine.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "crypto/aead.h"
#include "crypto/keys.h"
#include "engine/dialer.h"
#include "engine/hub.h"
#include "engine/listeners.h"
#include "engine/wg_control.h"
#include "engine/wg_kernel.h"

static size_t worker_count(unsigned wanted)
{
    long cores = wanted ? (long)wanted : sysconf(_SC_NPROCESSORS_ONLN);

    return cores < 1 ? 1 : cores > SV_MAX_WORKERS ? SV_MAX_WORKERS : (size_t)cores;
}

/* What all engines have in common. */
static int open_base(struct sv_engine *engine, size_t workers)
{
    int error = sv_crypto_init();

    if (!error) {
        error = sv_aead_init();
    }
    if (error) {
        return error;
    }
    sv_random(engine->secret, sizeof engine->secret);
    engine->opened_at = sv_clock_now();
    error = sv_rcu_init(&engine->rcu, workers);
    return error ? error : sv_events_init(engine);
}

/* And what a server and a client have in common besides. */
static int open_keys(struct sv_engine *engine, size_t workers, const uint8_t private_key[32])
{
    int error = open_base(engine, workers);

    if (!error) {
        memcpy(engine->private_key, private_key, 32);
        sv_x25519_public(engine->public_key, private_key);
    }
    return error;
}

static int open_core(struct sv_engine *engine, size_t workers, const char *tun_name,
                     const uint8_t private_key[32])
{
    int error = open_keys(engine, workers, private_key);

    return error ? error : sv_tun_open(&engine->tun, tun_name ? tun_name : "svpn%d", workers);
}

static int open_workers(struct sv_engine *engine, size_t count)
{
    engine->workers = aligned_alloc(64, count * sizeof *engine->workers);
    if (!engine->workers) {
        return SV_E_NOMEM;
    }
    memset(engine->workers, 0, count * sizeof *engine->workers);
    engine->worker_count = count;
    for (size_t i = 0; i < count; i++) {
        int error = sv_worker_open(&engine->workers[i], engine, i);

        if (error) {
            return error;
        }
    }
    return 0;
}

static int start_workers(struct sv_engine *engine)
{
    int error = 0;

    for (size_t i = 0; i < engine->worker_count && !error; i++) {
        error = engine->workers[i].started ? 0 : sv_worker_start(&engine->workers[i]);
    }
    return error;
}

/* The device's tables: before the workers, who have their part in it. */
static int prepare_wg(struct sv_engine *engine, const sv_server_config *config)
{
    int error = config->wireguard ? sv_wg_new(&engine->wg, engine) : 0;

    if (engine->wg) {
        engine->wg->kernel = config->wg_kernel;
    }
    return error;
}

/* The interface takes the place of the TUN device. */
static int open_kernel(struct sv_engine *engine, const sv_server_config *config)
{
    char name[SV_TUN_NAME];
    int error = open_keys(engine, 1, config->private_key);

    if (!error && (config->listen_addr || !config->wireguard)) {
        return sv_fail(SV_E_UNSUPPORTED, "the kernel carries WireGuard alone, no other transport");
    }
    if (!error && config->default_bytes_per_sec) {
        return sv_fail(SV_E_INVALID,
                       "defaultRateLimitBytesPerSec: cannot be held while the kernel carries WireGuard");
    }
    if (!error) {
        error = sv_wg_kernel_open(config->tun_name ? config->tun_name : "svpn%d", config->wg_private_key,
                                  name);
    }
    if (error) {
        return error;
    }
    error = sv_tun_stand_in(&engine->tun, name);
    if (error) {
        sv_wg_kernel_close(name);
        return error;
    }
    return 0;
}

static int listen_here(struct sv_wg *wg, const sv_server_config *config)
{
    int error = sv_wg_set_private_key(wg, config->wg_private_key);

    if (!error) {
        error = sv_wg_set_port(wg, config->wg_listen_port);
    }
    return error ? error : sv_wg_set_up(wg, true);
}

/* From here on the interface goes with the device. */
static int listen_in_kernel(struct sv_wg *wg, const sv_server_config *config)
{
    int error = sv_wg_set_private_key(wg, config->wg_private_key);

    wg->port = config->wg_listen_port;
    if (!error) {
        error = sv_wg_kernel_listen(wg, config->wg_private_key, &wg->port);
    }
    wg->kernel_at = error ? SV_NEVER : 0;
    return error;
}

static int open_hub_wg(struct sv_engine *engine, const sv_server_config *config)
{
    struct sv_wg *wg = engine->wg;
    int error;

    if (!wg) {
        return 0;
    }
    atomic_store(&wg->mtu, config->mtu ? config->mtu : SV_DEFAULT_MTU);
    sv_wg_lock(wg);
    error = wg->kernel ? listen_in_kernel(wg, config) : listen_here(wg, config);
    sv_wg_unlock(wg);
    return error;
}

static int open_server(struct sv_engine *engine, const sv_server_config *config)
{
    size_t workers = config->wg_kernel ? 1 : worker_count(config->workers);
    int error = config->wg_kernel ? open_kernel(engine, config)
                                  : open_core(engine, workers, config->tun_name, config->private_key);

    if (!error) {
        error = prepare_wg(engine, config);
    }
    if (!error) {
        error = sv_hub_new(&engine->hub, engine, config);
    }
    if (!error) {
        error = open_workers(engine, workers);
    }
    if (!error) {
        error = sv_tun_up(&engine->tun, config->mtu ? config->mtu : SV_DEFAULT_MTU);
    }
    if (!error) {
        error = sv_listeners_open(engine, config);
    }
    if (!error) {
        error = open_hub_wg(engine, config);
    }
    if (!error) {
        error = sv_hub_start_control(engine->hub);
    }
    return error || config->begin_later ? error : start_workers(engine);
}

static struct sv_engine *engine_new(void)
{
    struct sv_engine *engine = aligned_alloc(64, sizeof *engine);

    if (engine) {
        memset(engine, 0, sizeof *engine);
    }
    return engine;
}

/* The engine to *out, or all of it back. */
static int opened(sv_engine **out, struct sv_engine *engine, int error)
{
    *out = error ? NULL : engine;
    if (error) {
        sv_engine_close(engine);
    }
    return error;
}

int sv_server_open(sv_engine **out, const sv_server_config *config)
{
    struct sv_engine *engine = engine_new();

    if (engine) {
        engine->server = true;
    }
    return opened(out, engine, engine ? open_server(engine, config) : SV_E_NOMEM);
}

int sv_server_begin(sv_engine *engine)
{
    return engine->server ? start_workers(engine) : SV_E_STATE;
}

static int open_client(struct sv_engine *engine, const sv_client_config *config)
{
    int error = open_core(engine, 1, config->tun_name, config->private_key);

    if (!error) {
        error = open_workers(engine, 1);
    }
    if (!error) {
        error = sv_dialer_new(&engine->dialer, &engine->workers[0], config);
    }
    if (!error) {
        error = sv_tun_up(&engine->tun, config->mtu ? config->mtu : SV_DEFAULT_MTU);
    }
    if (!error) {
        sv_dialer_begin(engine->dialer);
        error = start_workers(engine);
    }
    return error;
}

int sv_client_open(sv_engine **out, const sv_client_config *config)
{
    struct sv_engine *engine = engine_new();

    return opened(out, engine, engine ? open_client(engine, config) : SV_E_NOMEM);
}

static int open_tun(struct sv_engine *engine, size_t workers, const sv_wg_config *config)
{
    return config->has_tun_fd
               ? sv_tun_adopt(&engine->tun, config->tun_fd)
               : sv_tun_open(&engine->tun, config->tun_name ? config->tun_name : "wg%d", workers);
}

static int open_wg(struct sv_engine *engine, const sv_wg_config *config)
{
    size_t workers = config->has_tun_fd ? 1 : worker_count(config->workers);
    int error = open_base(engine, workers);

    if (!error) {
        error = open_tun(engine, workers, config);
    }
    if (!error) {
        error = sv_wg_new(&engine->wg, engine);
    }
    if (!error) {
        error = open_workers(engine, workers);
    }
    if (!error) {
        error = sv_wg_control_new(&engine->wg_control, engine->wg, config);
    }
    if (!error && config->mtu) {
        error = sv_tun_up(&engine->tun, config->mtu);
    }
    if (!error) {
        error = start_workers(engine);
    }
    return error ? error : sv_wg_control_start(engine->wg_control);
}

int sv_wg_connect(sv_engine *engine)
{
    if (!engine->wg) {
        return SV_E_STATE;
    }
    sv_wg_lock(engine->wg);
    for (struct sv_wg_member *member = engine->wg->members; member; member = member->next) {
        sv_wg_speak(member);
    }
    sv_wg_unlock(engine->wg);
    return 0;
}

int sv_wg_open(sv_engine **out, const sv_wg_config *config)
{
    struct sv_engine *engine = engine_new();

    return opened(out, engine, engine ? open_wg(engine, config) : SV_E_NOMEM);
}

static void stop_workers(struct sv_engine *engine)
{
    for (size_t i = 0; i < engine->worker_count; i++) {
        if (engine->workers[i].started) {
            sv_worker_stop(&engine->workers[i]);
        }
    }
    for (size_t i = 0; i < engine->worker_count; i++) {
        sv_worker_join(&engine->workers[i]);
    }
}

static void close_workers(struct sv_engine *engine)
{
    for (size_t i = 0; i < engine->worker_count; i++) {
        sv_worker_close(&engine->workers[i]);
    }
    for (size_t i = 0; i < engine->worker_count; i++) {
        sv_buf_pool_clear(&engine->workers[i].pool);
    }
    free(engine->workers);
}

void sv_engine_close(sv_engine *engine)
{
    if (!engine) {
        return;
    }
    sv_wg_control_free(engine->wg_control);
    stop_workers(engine);
    if (engine->hub) {
        sv_hub_stop_control(engine->hub);
    }
    close_workers(engine);
    sv_dialer_free(engine->dialer);
    sv_wg_free(engine->wg);
    sv_rcu_clear(&engine->rcu);
    sv_hub_free(engine->hub);
    sv_tun_close(&engine->tun);
    sv_events_clear(engine);
    sv_wipe(engine, sizeof *engine);
    free(engine);
}

const char *sv_engine_tun_name(const sv_engine *engine)
{
    return engine->tun.name;
}

uint16_t sv_engine_wg_port(const sv_engine *engine)
{
    return engine->wg ? engine->wg->port : 0;
}

const char *sv_engine_aead(void)
{
    return sv_aead_init() ? "" : sv_aead_name();
}

void sv_engine_set_log(void (*fn)(void *ctx, int level, const char *line), void *ctx, int most_verbose)
{
    sv_log_set(fn, ctx, (enum sv_log_level)most_verbose);
}
