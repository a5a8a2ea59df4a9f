/* The hub's entries: made, replaced and taken out one by one, whatever the number of clients. */
#include "engine/hub.h"
#include "engine/wg.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "crypto/hash.h"
#include "crypto/keys.h"

/* ---- entries ---- */

static void hash_id(uint8_t hash[32], const char *id)
{
    sv_hash(hash, &(struct sv_piece){id, strlen(id)}, 1);
}

struct sv_client *sv_hub_find_client(struct sv_hub *hub, const char *id)
{
    uint8_t hash[32];

    hash_id(hash, id);
    return sv_map_get(&hub->clients_by_id, hash);
}

static int compile_acl(struct sv_acl **acl, const char *const *allow, size_t allow_count,
                       const char *const *deny, size_t deny_count, const char *what)
{
    const char *bad = NULL;
    int error = sv_acl_new(acl, allow, allow_count, deny, deny_count, &bad);

    return error == SV_E_INVALID ? sv_fail(error, "%s: not a pattern: '%.64s'", what, bad ? bad : "") : error;
}

static int compile_policy(struct sv_policy **policy, const sv_client_entry *entry)
{
    struct sv_acl *source = NULL, *destination = NULL;
    int error = compile_acl(&source, entry->source_allow, entry->source_allow_count, entry->source_deny,
                            entry->source_deny_count, "source rules");

    if (!error) {
        error = compile_acl(&destination, entry->destination_allow, entry->destination_allow_count,
                            entry->destination_deny, entry->destination_deny_count, "destination rules");
    }
    *policy = error ? NULL : sv_policy_new(source, destination, entry->priority);
    if (!*policy) {
        sv_acl_free(source);
        sv_acl_free(destination);
        return error ? error : SV_E_NOMEM;
    }
    return 0;
}

/* NULL when nothing is limited; SV_E_NOMEM through *error. */
static struct sv_limiter *make_limiter(uint64_t rate, uint64_t burst, int *error)
{
    struct sv_limiter *limiter;

    *error = 0;
    if (!rate) {
        return NULL;
    }
    limiter = calloc(1, sizeof *limiter);
    if (!limiter) {
        *error = SV_E_NOMEM;
        return NULL;
    }
    limiter->bytes_per_sec = rate;
    limiter->burst_bytes = burst;
    sv_bucket_init(&limiter->up, rate, burst);
    sv_bucket_init(&limiter->down, rate, burst);
    return limiter;
}

static void swap_limiter(struct sv_hub *hub, struct sv_client *client, struct sv_limiter *limiter)
{
    struct sv_limiter *old = atomic_exchange(&client->limiter, limiter);

    if (old) {
        sv_rcu_defer(&hub->engine->rcu, &old->rcu, sv_rcu_free);
    }
}

static void swap_policy(struct sv_hub *hub, struct sv_client *client, struct sv_policy *policy)
{
    struct sv_policy *old = atomic_exchange(&client->policy, policy);

    if (old) {
        sv_rcu_defer(&hub->engine->rcu, &old->rcu, sv_policy_free_rcu);
    }
}

static int register_client(struct sv_hub *hub, struct sv_client *client)
{
    int error = sv_map_insert(&hub->clients_by_id, client->id_hash, client);

    if (!error) {
        error = sv_map_insert(&hub->clients_by_key, client->key, client);
        if (error) {
            sv_map_remove(&hub->clients_by_id, client->id_hash);
        }
    }
    return error;
}

static int new_client(struct sv_hub *hub, const sv_client_entry *entry, uint32_t address_index,
                      struct sv_client **out)
{
    struct sv_client *client = calloc(1, sizeof *client);
    int error;

    if (!client) {
        return SV_E_NOMEM;
    }
    strcpy(client->id, entry->client_id);
    hash_id(client->id_hash, client->id);
    memcpy(client->key, entry->public_key, 32);
    client->address_index = address_index;
    error = register_client(hub, client);
    if (error) {
        free(client);
        return error;
    }
    *out = client;
    return 0;
}

/* ---- taking out ---- */

static void end_seats(struct sv_hub *hub, struct sv_client *client, unsigned code)
{
    while (client->seats) {
        sv_seat_end(hub, client->seats, code);
    }
}

static void free_client(struct sv_rcu_head *head)
{
    struct sv_client *client = SV_CONTAINER_OF(head, struct sv_client, rcu);

    sv_policy_free(atomic_load(&client->policy));
    free(atomic_load(&client->limiter));
    free(client->ended);
    free(client);
}

void sv_client_free_if_unused(struct sv_hub *hub, struct sv_client *client)
{
    if (client->removed && !client->conns) {
        sv_rcu_defer(&hub->engine->rcu, &client->rcu, free_client);
    }
}

static void remove_locked(struct sv_hub *hub, struct sv_client *client, unsigned code)
{
    end_seats(hub, client, code);
    sv_hub_wg_remove(hub, client, code);
    sv_map_remove(&hub->clients_by_id, client->id_hash);
    sv_map_remove(&hub->clients_by_key, client->key);
    sv_pool_release(hub->pool, client->address_index);
    sv_heap_remove(&hub->expiries, &client->expiry);
    sv_hub_unlist_untold(hub, client);
    client->removed = true;
    sv_client_free_if_unused(hub, client);
}

/* ---- replacing ---- */

/* Sessions that may no longer be: each by its own link's source. */
static void end_refused(struct sv_hub *hub, struct sv_client *client)
{
    int64_t now = (int64_t)(sv_clock_wall() / SV_NS_PER_S);

    for (struct sv_seat *seat = client->seats, *next; seat; seat = next) {
        unsigned code = seat->conn ? sv_client_refusal(client, seat->conn->remote, now)
                                   : SV_DISCONNECT_NORMAL;

        next = seat->next;
        if (code) {
            sv_seat_end(hub, seat, code);
        }
    }
}

static int change_key(struct sv_hub *hub, struct sv_client *client, const uint8_t key[32])
{
    int error;

    if (memcmp(client->key, key, 32) == 0) {
        return 0;
    }
    error = sv_map_insert(&hub->clients_by_key, key, client);
    if (error) {
        return error;
    }
    sv_map_remove(&hub->clients_by_key, client->key);
    memcpy(client->key, key, 32);
    end_seats(hub, client, SV_DISCONNECT_KEY_ROTATED);
    return 0;
}

static void change_address(struct sv_hub *hub, struct sv_client *client, uint32_t index)
{
    if (index != client->address_index) {
        end_seats(hub, client, SV_DISCONNECT_KICKED);
        sv_pool_release(hub->pool, client->address_index);
        client->address_index = index;
    }
}

static int arm_expiry(struct sv_hub *hub, struct sv_client *client)
{
    uint64_t at = client->expires_at > 0 ? (uint64_t)client->expires_at * SV_NS_PER_S : SV_NEVER;
    int error = sv_heap_set(&hub->expiries, &client->expiry, at);

    pthread_cond_signal(&hub->changed);
    return error;
}

struct rules {
    struct sv_policy *policy;
    struct sv_limiter *limiter;
    bool new_limit; /* false: the limiter stays as it is */
};

static void free_rules(struct rules *rules)
{
    sv_policy_free(rules->policy);
    free(rules->limiter);
}

/* The rules are the client's from now on, also on SV_E_NOMEM. */
static int apply_rules(struct sv_hub *hub, struct sv_client *client, const sv_client_entry *entry,
                       struct rules *rules)
{
    int error;

    client->disabled = entry->disabled;
    client->expires_at = entry->expires_at;
    client->max_sessions = entry->max_connections ? entry->max_connections : 1;
    swap_policy(hub, client, rules->policy);
    if (rules->new_limit) {
        client->entry_rate = entry->bytes_per_sec;
        client->entry_burst = entry->burst_bytes;
        swap_limiter(hub, client, rules->limiter);
    }
    *rules = (struct rules){0};
    error = arm_expiry(hub, client);
    end_refused(hub, client);
    return error;
}

static void format_addresses(const struct sv_hub *hub, const struct sv_client *client, char *addr4,
                             char *addr6)
{
    uint8_t addr[16];

    if (addr4) {
        sv_pool_addr4(hub->pool, client->address_index, addr);
        sv_addr_format(addr4, SV_ADDR_TEXT_SIZE, addr);
    }
    if (addr6) {
        addr6[0] = '\0';
        if (hub->has6 && sv_pool_addr6(hub->pool, client->address_index, addr)) {
            sv_addr_format(addr6, SV_ADDR_TEXT_SIZE, addr);
        }
    }
}

/* What of an entry may be another's already, but for its address; client NULL: it is new. */
static int check_locked(struct sv_hub *hub, const struct sv_client *client, const sv_client_entry *entry)
{
    const struct sv_client *other = sv_map_get(&hub->clients_by_key, entry->public_key);

    if (other && other != client) {
        return sv_fail(SV_E_EXISTS, "publicKey: client '%s' has this key", other->id);
    }
    return sv_hub_wg_check(hub, client, entry);
}

static int read_limit(const struct sv_hub *hub, const struct sv_client *client, const sv_client_entry *entry,
                      struct rules *rules)
{
    uint64_t rate = entry->bytes_per_sec ? entry->bytes_per_sec : hub->default_rate;
    uint64_t burst = entry->bytes_per_sec ? entry->burst_bytes : hub->default_burst;
    int error = 0;

    rules->new_limit = !client || entry->limit_anew || client->entry_rate != entry->bytes_per_sec ||
                       client->entry_burst != entry->burst_bytes;
    if (rules->new_limit) {
        rules->limiter = make_limiter(rate, burst, &error);
    }
    return error;
}

/* The client under the entry's key, with its address claimed; new where there was none. */
static int identify(struct sv_hub *hub, const sv_client_entry *entry, struct sv_client **client)
{
    uint32_t index;
    int error = sv_hub_claim_address(hub, *client, entry, &index);

    if (error) {
        return error;
    }
    error = *client ? change_key(hub, *client, entry->public_key) : new_client(hub, entry, index, client);
    if (error) {
        sv_hub_unclaim_address(hub, *client, entry, index);
        return error;
    }
    change_address(hub, *client, index);
    return 0;
}

/* Up to `identify` whatever fails changes nothing; without memory for what comes then there is no client: it must not come in by half its rules. */
static int put_locked(struct sv_hub *hub, const sv_client_entry *entry, struct rules *rules,
                      struct sv_client **out)
{
    struct sv_client *client = sv_hub_find_client(hub, entry->client_id);
    int error = check_locked(hub, client, entry);

    if (!error) {
        error = read_limit(hub, client, entry, rules);
    }
    if (!error) {
        error = identify(hub, entry, &client);
    }
    if (error) {
        return error;
    }
    error = apply_rules(hub, client, entry, rules);
    if (!error) {
        error = sv_hub_wg_sync(hub, client, entry->wg_public_key);
    }
    if (error) {
        remove_locked(hub, client, SV_DISCONNECT_INTERNAL);
        return error;
    }
    *out = client;
    return 0;
}

/* What is stored as otherwise than it is here must not come in as it is here. */
static void put_out(struct sv_hub *hub, const sv_client_entry *entry)
{
    struct sv_client *client = sv_hub_find_client(hub, entry->client_id);

    if (client) {
        remove_locked(hub, client, SV_DISCONNECT_INTERNAL);
    }
    sv_hub_keep_address(hub, entry->assigned_ip);
}

/* In words of its own: others may have been left by an earlier call. */
static int in_words(int error)
{
    return error == SV_E_NOMEM ? sv_fail(error, "out of memory") : error;
}

/* The policy of an entry that may be put, as far as that can be told without the lock. */
static int read_entry(const sv_client_entry *entry, struct sv_policy **policy)
{
    size_t id_len = entry->client_id ? strlen(entry->client_id) : 0;

    if (id_len == 0 || id_len >= SV_CLIENT_ID_SIZE) {
        return sv_fail(SV_E_INVALID, "clientId: must have 1 to %d bytes", SV_CLIENT_ID_SIZE - 1);
    }
    return compile_policy(policy, entry);
}

int sv_hub_put_client(sv_engine *engine, const sv_client_entry *entry, char *addr4, char *addr6)
{
    struct sv_hub *hub = engine->hub;
    struct sv_client *client = NULL;
    struct rules rules = {0};
    int error;

    if (!hub) {
        return SV_E_STATE;
    }
    error = read_entry(entry, &rules.policy);
    pthread_mutex_lock(&hub->lock);
    if (!error) {
        error = put_locked(hub, entry, &rules, &client);
    }
    if (!error) {
        format_addresses(hub, client, addr4, addr6);
    } else if (entry->agreed) {
        put_out(hub, entry);
    }
    pthread_mutex_unlock(&hub->lock);
    free_rules(&rules);
    return in_words(error);
}

int sv_hub_check_client(sv_engine *engine, const sv_client_entry *entry)
{
    struct sv_hub *hub = engine->hub;
    struct sv_policy *policy = NULL;
    int error = hub ? read_entry(entry, &policy) : SV_E_STATE;

    if (error) {
        return in_words(error);
    }
    pthread_mutex_lock(&hub->lock);
    error = check_locked(hub, sv_hub_find_client(hub, entry->client_id), entry);
    pthread_mutex_unlock(&hub->lock);
    sv_policy_free(policy);
    return error;
}

/* ---- commands about one client ---- */

int sv_hub_remove_client(sv_engine *engine, const char *client_id, unsigned code)
{
    struct sv_hub *hub = engine->hub;
    struct sv_client *client;

    if (!hub) {
        return SV_E_STATE;
    }
    pthread_mutex_lock(&hub->lock);
    client = sv_hub_find_client(hub, client_id);
    if (client) {
        remove_locked(hub, client, code);
    }
    pthread_mutex_unlock(&hub->lock);
    return client ? 0 : sv_fail(SV_E_NOT_FOUND, "client '%.128s' does not exist", client_id);
}

static bool disconnect_locked(struct sv_hub *hub, struct sv_client *client, const uint8_t *session_id,
                              unsigned code)
{
    bool found = sv_hub_wg_disconnect(hub, client, session_id, code);

    for (struct sv_seat *seat = client->seats, *next; seat; seat = next) {
        next = seat->next;
        if (seat->conn && (!session_id || memcmp(seat->session_id, session_id, 16) == 0)) {
            found = true;
            sv_seat_end(hub, seat, code);
        }
    }
    return found;
}

int sv_hub_disconnect(sv_engine *engine, const char *client_id, const uint8_t *session_id, unsigned code)
{
    struct sv_hub *hub = engine->hub;
    struct sv_client *client;
    bool found;

    if (!hub) {
        return SV_E_STATE;
    }
    pthread_mutex_lock(&hub->lock);
    client = sv_hub_find_client(hub, client_id);
    found = client && disconnect_locked(hub, client, session_id, code);
    pthread_mutex_unlock(&hub->lock);
    if (!client) {
        return sv_fail(SV_E_NOT_FOUND, "client '%.128s' does not exist", client_id);
    }
    return found ? 0 : sv_fail(SV_E_NOT_FOUND, "client '%.128s' has no such session", client_id);
}

int sv_hub_set_rate_limit(sv_engine *engine, const char *client_id, uint64_t bytes_per_sec,
                          uint64_t burst_bytes)
{
    struct sv_hub *hub = engine->hub;
    struct sv_limiter *limiter;
    struct sv_client *client;
    int error;

    if (!hub) {
        return SV_E_STATE;
    }
    if (bytes_per_sec && engine->wg && engine->wg->kernel) {
        return sv_fail(SV_E_INVALID, "bytesPerSec: cannot be held while the kernel carries WireGuard");
    }
    limiter = make_limiter(bytes_per_sec, burst_bytes, &error);
    if (error) {
        return in_words(error);
    }
    pthread_mutex_lock(&hub->lock);
    client = sv_hub_find_client(hub, client_id);
    if (client) {
        swap_limiter(hub, client, limiter);
    }
    pthread_mutex_unlock(&hub->lock);
    if (!client) {
        free(limiter);
        return sv_fail(SV_E_NOT_FOUND, "client '%.128s' does not exist", client_id);
    }
    return 0;
}

static bool free_entry(void *ctx, const void *key, void *object)
{
    (void)ctx;
    (void)key;
    free_client(object);
    return true;
}

static bool free_seat(void *ctx, const void *key, void *object)
{
    (void)ctx;
    (void)key;
    free(object);
    return true;
}

void sv_hub_free(struct sv_hub *hub)
{
    if (!hub) {
        return;
    }
    sv_heap_clear(&hub->deadlines);
    sv_heap_clear(&hub->expiries);
    sv_map_each(&hub->seats_by_id, free_seat, NULL);
    sv_map_each(&hub->clients_by_id, free_entry, NULL);
    sv_map_clear(&hub->seats_by_id);
    sv_map_clear(&hub->clients_by_id);
    sv_map_clear(&hub->clients_by_key);
    sv_map_clear(&hub->routes);
    sv_pool_free(hub->pool);
    sv_admission_clear(&hub->admission);
    free(hub->proxies);
    pthread_cond_destroy(&hub->changed);
    pthread_mutex_destroy(&hub->lock);
    free(hub);
}
