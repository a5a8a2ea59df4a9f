#include "base/map.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/rcu.h"
#include "base/siphash.h"

enum { MIN_CAPACITY = 16, MAX_KEY = 32 };

/* A slot gets its key once in a table's life, before its first object is published. So a reader that sees an
 * object sees its key whole, and a removed entry keeps its key: only that same key may use the slot again. */
struct slot {
    void *_Atomic object; /* NULL: never used, a search ends here; &removed: a search goes on */
    uint32_t hash;        /* upper half; the lower half chose the place */
    uint8_t key[];
};

struct sv_map_table {
    struct sv_rcu_head rcu;
    size_t mask;   /* capacity - 1 */
    size_t stride; /* bytes from slot to slot */
    size_t used;   /* slots with a key, live or removed; at most 3/4, so every search ends */
    _Alignas(64) uint8_t slots[];
};

static char removed;

static struct slot *slot_at(const struct sv_map_table *table, size_t index)
{
    return (struct slot *)(void *)((uintptr_t)table->slots + (index & table->mask) * table->stride);
}

static void *live(void *object)
{
    return object == &removed ? NULL : object;
}

/* The writer's look at a slot. */
static void *live_object(const struct slot *slot)
{
    return live(atomic_load_explicit(&slot->object, memory_order_relaxed));
}

static struct sv_map_table *new_table(size_t capacity, size_t key_size)
{
    size_t stride = (offsetof(struct slot, key) + key_size + 7) & ~(size_t)7;
    size_t size;

    if (__builtin_mul_overflow(capacity, stride, &size) ||
        __builtin_add_overflow(size, sizeof(struct sv_map_table) + 63, &size)) {
        return NULL;
    }
    struct sv_map_table *table = aligned_alloc(_Alignof(struct sv_map_table), size & ~(size_t)63);

    if (table) {
        memset(table, 0, size & ~(size_t)63);
        table->mask = capacity - 1;
        table->stride = stride;
    }
    return table;
}

int sv_map_init(struct sv_map *map, size_t key_size, struct sv_rcu *rcu, const uint8_t secret[16])
{
    *map = (struct sv_map){.rcu = rcu, .key_size = key_size};
    if (key_size < 1 || key_size > MAX_KEY) {
        return SV_E_INVALID;
    }
    map->secret[0] = sv_load64le(secret);
    map->secret[1] = sv_load64le(secret + 8);

    struct sv_map_table *table = new_table(MIN_CAPACITY, key_size);

    atomic_store_explicit(&map->table, table, memory_order_release);
    return table ? 0 : SV_E_NOMEM;
}

void sv_map_clear(struct sv_map *map)
{
    free(atomic_load_explicit(&map->table, memory_order_relaxed));
    *map = (struct sv_map){.table = NULL};
}

/* The key's slot, or the unused one where the search ended. */
struct place {
    struct slot *slot;
    void *object; /* as the search saw it: an unused slot may get another key right after */
};

static struct place find(const struct sv_map *map, const struct sv_map_table *table, const void *key,
                         uint64_t hash)
{
    for (size_t i = (size_t)hash;; i++) {
        struct slot *slot = slot_at(table, i);
        void *object = atomic_load_explicit(&slot->object, memory_order_acquire);

        /* The key may be read only after the object was seen. */
        if (!object || (slot->hash == (uint32_t)(hash >> 32) && memcmp(slot->key, key, map->key_size) == 0)) {
            return (struct place){slot, object};
        }
    }
}

static struct place find_current(const struct sv_map *map, const void *key, uint64_t hash)
{
    return find(map, atomic_load_explicit(&map->table, memory_order_acquire), key, hash);
}

void *sv_map_get(const struct sv_map *map, const void *key)
{
    return live(find_current(map, key, sv_siphash(map->secret, key, map->key_size)).object);
}

static void fill(struct sv_map_table *table, struct slot *slot, const void *key, size_t key_size,
                 uint64_t hash, void *object)
{
    slot->hash = (uint32_t)(hash >> 32);
    memcpy(slot->key, key, key_size);
    table->used++;
    atomic_store_explicit(&slot->object, object, memory_order_release);
}

static void copy_live(const struct sv_map *map, struct sv_map_table *to, const struct sv_map_table *from)
{
    for (size_t i = 0; i <= from->mask; i++) {
        const struct slot *slot = slot_at(from, i);
        void *object = live_object(slot);

        if (object) {
            uint64_t hash = sv_siphash(map->secret, slot->key, map->key_size);

            fill(to, find(map, to, slot->key, hash).slot, slot->key, map->key_size, hash, object);
        }
    }
}

/* Half full at most: a quarter of the table is filled before the next rebuild, so inserts cost the same. */
static size_t fitting_capacity(size_t count)
{
    size_t capacity = MIN_CAPACITY;

    while (capacity / 2 < count) {
        capacity *= 2;
    }
    return capacity;
}

static void retire(struct sv_map *map, struct sv_map_table *table)
{
    if (map->rcu) {
        sv_rcu_defer(map->rcu, &table->rcu, sv_rcu_free);
    } else {
        free(table);
    }
}

static int rebuild(struct sv_map *map, struct sv_map_table *old)
{
    struct sv_map_table *table = new_table(fitting_capacity(map->count + 1), map->key_size);

    if (!table) {
        return SV_E_NOMEM;
    }
    copy_live(map, table, old);
    atomic_store_explicit(&map->table, table, memory_order_release);
    retire(map, old);
    return 0;
}

static int add_key(struct sv_map *map, const void *key, uint64_t hash, void *object)
{
    struct sv_map_table *table = atomic_load_explicit(&map->table, memory_order_relaxed);

    if (table->used >= (table->mask + 1) / 4 * 3) {
        int error = rebuild(map, table);

        if (error) {
            return error;
        }
        table = atomic_load_explicit(&map->table, memory_order_relaxed);
    }
    fill(table, find(map, table, key, hash).slot, key, map->key_size, hash, object);
    map->count++;
    return 0;
}

int sv_map_set(struct sv_map *map, const void *key, void *object, void **old)
{
    uint64_t hash = sv_siphash(map->secret, key, map->key_size);
    struct place place = find_current(map, key, hash);

    *old = live(place.object);
    if (!object) {
        return SV_E_INVALID;
    }
    if (!place.object) {
        return add_key(map, key, hash, object);
    }
    map->count += *old == NULL;
    atomic_store_explicit(&place.slot->object, object, memory_order_release);
    return 0;
}

int sv_map_insert(struct sv_map *map, const void *key, void *object)
{
    void *old;

    return sv_map_get(map, key) ? SV_E_EXISTS : sv_map_set(map, key, object, &old);
}

void *sv_map_remove(struct sv_map *map, const void *key)
{
    struct place place = find_current(map, key, sv_siphash(map->secret, key, map->key_size));
    void *object = live(place.object);

    if (object) {
        atomic_store_explicit(&place.slot->object, (void *)&removed, memory_order_release);
        map->count--;
    }
    return object;
}

void sv_map_each(const struct sv_map *map, bool (*visit)(void *ctx, const void *key, void *object), void *ctx)
{
    const struct sv_map_table *table = atomic_load_explicit(&map->table, memory_order_relaxed);

    for (size_t i = 0; i <= table->mask; i++) {
        const struct slot *slot = slot_at(table, i);
        void *object = live_object(slot);

        if (object && !visit(ctx, slot->key, object)) {
            return;
        }
    }
}
