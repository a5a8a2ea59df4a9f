/* Configuration requests: whatever comes, it is taken whole or not at all, and what the device says of itself is a request that it takes. */
#include <stdlib.h>
#include <string.h>

#include <smartvpn/wg.h>

#include "crypto/keys.h"
#include "engine/wg.h"

static struct sv_engine *engine;

/* A device with one worker that never runs: tables, no sockets. */
static void make(void)
{
    struct sv_wg_worker *part = calloc(1, sizeof *part);

    sv_crypto_init();
    engine = aligned_alloc(64, sizeof *engine);
    memset(engine, 0, sizeof *engine);
    engine->workers = aligned_alloc(64, sizeof *engine->workers);
    memset(engine->workers, 0, sizeof *engine->workers);
    engine->worker_count = 1;
    part->udp = part->next = (struct sv_udp){.fd4 = -1, .fd6 = -1};
    engine->workers[0].wg = part;
    if (sv_ring_init(&engine->workers[0].pokes, 8) || sv_rcu_init(&engine->rcu, 1) ||
        sv_wg_new(&engine->wg, engine)) {
        abort();
    }
}

static void empty(void)
{
    static const char all[] = "private_key=0000000000000000000000000000000000000000000000000000000000000000\n"
                              "listen_port=0\nfwmark=0\nreplace_peers=true\n";

    if (sv_wg_set(engine, all, sizeof all - 1)) {
        abort();
    }
    while (sv_ring_pop(&engine->workers[0].pokes)) {
    }
    sv_rcu_reclaim(&engine->rcu);
}

static char *get(size_t *len)
{
    char *text;

    if (sv_wg_get(engine, &text, len)) {
        abort();
    }
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *before, *after;
    size_t before_len, after_len;
    int error;

    if (!engine) {
        make();
    }
    before = get(&before_len);
    error = sv_wg_set(engine, (const char *)data, size);
    after = get(&after_len);
    if (error && (before_len != after_len || memcmp(before, after, before_len) != 0)) {
        abort();
    }
    sv_wg_text_free(before, before_len);
    sv_wg_text_free(after, after_len);
    empty();
    return 0;
}
