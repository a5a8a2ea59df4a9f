/* The map agrees with a plain array under random changes, its searches end whatever was removed, and its
 * readers never miss a key that stays, nor get an object under a wrong key or after its end. */
#include "tests/c/check.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/map.h"
#include "base/rcu.h"

/* The one failed allocation below is meant to return NULL. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

enum { KEYS = 700, STEPS = 200000, MAX_KEY = 32 };
enum { READERS = 3, CHANGES = 100000, STEADY = 64, FLEETING = 512, FRESH = 300000, FEW = 8 };

static const uint8_t secret[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};

static uint32_t random_number(void)
{
    static uint64_t x = UINT64_C(0x9e3779b97f4a7c15);

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(x >> 32);
}

/* Keys differ in few bits, at either end, as addresses and indexes do. */
static const uint8_t *make_key(uint8_t key[MAX_KEY], size_t size, uint32_t number)
{
    memset(key, 0x77, MAX_KEY);
    if (size == 1) {
        key[0] = (uint8_t)number;
    } else {
        key[0] = (uint8_t)number;
        key[size - 1] = (uint8_t)(number >> 8);
    }
    return key;
}

static char objects[4][KEYS];
static void *model[KEYS];

static size_t live_in_model(void)
{
    size_t live = 0;

    for (size_t i = 0; i < KEYS; i++) {
        live += model[i] != NULL;
    }
    return live;
}

static void random_step(struct sv_map *map, uint32_t keys)
{
    uint8_t key[MAX_KEY];
    uint32_t number = random_number() % keys;
    void *object = &objects[random_number() % 4][number];
    void *old = NULL;

    make_key(key, map->key_size, number);
    switch (random_number() % 4) {
    case 0:
        CHECK_EQ(sv_map_insert(map, key, object), model[number] ? SV_E_EXISTS : 0);
        model[number] = model[number] ? model[number] : object;
        break;
    case 1:
        CHECK_EQ(sv_map_set(map, key, object, &old), 0);
        CHECK(old == model[number]);
        model[number] = object;
        break;
    default:
        CHECK(sv_map_remove(map, key) == model[number]);
        model[number] = NULL;
    }
}

struct visit {
    size_t count, wrong;
    size_t limit;
};

static bool visit_entry(void *ctx, const void *key, void *object)
{
    struct visit *visit = ctx;
    const uint8_t *bytes = key;
    size_t number = (size_t)bytes[0] | (size_t)bytes[3] << 8;

    visit->wrong += number >= KEYS || model[number] != object;
    return ++visit->count < visit->limit;
}

static void check_all(const struct sv_map *map, uint32_t keys)
{
    uint8_t key[MAX_KEY];

    CHECK_EQ(map->count, live_in_model());
    for (uint32_t i = 0; i < keys; i++) {
        CHECK(sv_map_get(map, make_key(key, map->key_size, i)) == model[i]);
    }
}

static void agrees_with_an_array(size_t key_size)
{
    uint32_t keys = key_size == 1 ? 256 : KEYS;
    struct sv_map map;

    memset(model, 0, sizeof model);
    CHECK_EQ(sv_map_init(&map, key_size, NULL, secret), 0);
    for (int step = 0; step < STEPS / 8; step++) {
        random_step(&map, keys);
        if (step % 1000 == 0) {
            check_all(&map, keys);
        }
    }
    check_all(&map, keys);
    sv_map_clear(&map);
}

static void every_key_size(void)
{
    static const size_t sizes[] = {1, 4, 6, 8, 12, 16, 31, 32};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        agrees_with_an_array(sizes[i]);
    }
}

static void each_visits_every_entry_once(void)
{
    struct sv_map map;
    struct visit all = {.limit = SIZE_MAX};
    struct visit some = {.limit = 3};

    memset(model, 0, sizeof model);
    CHECK_EQ(sv_map_init(&map, 4, NULL, secret), 0);
    sv_map_each(&map, visit_entry, &all);
    CHECK_EQ(all.count, 0);
    for (int step = 0; step < 5000; step++) {
        random_step(&map, KEYS);
    }
    sv_map_each(&map, visit_entry, &all);
    CHECK_EQ(all.count, live_in_model());
    CHECK_EQ(all.wrong, 0);
    sv_map_each(&map, visit_entry, &some);
    CHECK_EQ(some.count, 3);
    sv_map_clear(&map);
}

static void bad_arguments(void)
{
    struct sv_map map;
    void *old = &map;

    CHECK_EQ(sv_map_init(&map, 0, NULL, secret), SV_E_INVALID);
    sv_map_clear(&map);
    CHECK_EQ(sv_map_init(&map, MAX_KEY + 1, NULL, secret), SV_E_INVALID);
    sv_map_clear(&map);
    CHECK_EQ(sv_map_init(&map, 4, NULL, secret), 0);
    CHECK_EQ(sv_map_insert(&map, "abcd", NULL), SV_E_INVALID);
    CHECK_EQ(sv_map_set(&map, "abcd", NULL, &old), SV_E_INVALID);
    CHECK(!old && !sv_map_get(&map, "abcd"));
    CHECK_EQ(map.count, 0);
    sv_map_clear(&map);
}

/* Fresh keys come and go for ever: removed ones must not fill the table (a search would never end), and the
 * tables made on the way are few and all handed to the grace period. */
static void churn_costs_few_rebuilds(void)
{
    static struct sv_rcu rcu;
    struct sv_map map;
    char object;
    size_t rebuilds;

    CHECK_EQ(sv_rcu_init(&rcu, 1), 0);
    CHECK_EQ(sv_map_init(&map, 4, &rcu, secret), 0);
    sv_rcu_online(&rcu, 0);
    for (uint32_t i = 0; i < STEPS; i++) {
        CHECK_EQ(sv_map_insert(&map, &i, &object), 0);
        if (i >= 100) {
            uint32_t oldest = i - 100;

            CHECK(sv_map_remove(&map, &oldest) == &object);
            CHECK(!sv_map_get(&map, &oldest));
        }
    }
    CHECK_EQ(map.count, 100);
    rebuilds = sv_rcu_reclaim(&rcu);
    CHECK(rebuilds > 10);
    CHECK(rebuilds < STEPS / 50);
    sv_rcu_offline(&rcu, 0);
    sv_map_clear(&map);
    sv_rcu_clear(&rcu);
}

struct order {
    uint32_t keys[KEYS];
    size_t count;
};

static bool note_order(void *ctx, const void *key, void *object)
{
    struct order *order = ctx;

    (void)object;
    order->keys[order->count++] = sv_load32le(key);
    return true;
}

static void table_order(struct order *order, const uint8_t key[16])
{
    struct sv_map map;
    char object;
    uint8_t number[4];

    order->count = 0;
    CHECK_EQ(sv_map_init(&map, 4, NULL, key), 0);
    for (uint32_t i = 0; i < KEYS; i++) {
        sv_store32le(number, i);
        CHECK_EQ(sv_map_insert(&map, number, &object), 0);
    }
    sv_map_each(&map, note_order, order);
    CHECK_EQ(order->count, KEYS);
    sv_map_clear(&map);
}

/* Where a key lands depends on every part of the secret, so nobody outside can aim keys at one place. */
static void places_depend_on_the_secret(void)
{
    static struct order one, same, other;

    table_order(&one, secret);
    table_order(&same, secret);
    CHECK_MEM(one.keys, same.keys, sizeof one.keys);
    for (size_t i = 0; i < sizeof secret; i++) {
        uint8_t changed[16];

        memcpy(changed, secret, sizeof changed);
        changed[i] ^= 1;
        table_order(&other, changed);
        CHECK(memcmp(one.keys, other.keys, sizeof one.keys) != 0);
    }
}

/* A map that claims 2^58 entries cannot get a table for one more. */
static void without_memory_nothing_changes(void)
{
    struct sv_map map;
    char object;
    size_t inserted = 0;
    size_t real;

    CHECK_EQ(sv_map_init(&map, 8, NULL, secret), 0);
    for (;; inserted++) {
        uint64_t key = inserted;

        real = map.count;
        map.count = (size_t)1 << 58;
        int error = sv_map_insert(&map, &key, &object);

        map.count = error ? real : real + 1;
        if (error) {
            CHECK_EQ(error, SV_E_NOMEM);
            CHECK(!sv_map_get(&map, &key));
            break;
        }
    }
    CHECK(inserted > 0);
    CHECK_EQ(map.count, inserted);
    for (uint64_t key = 0; key < inserted; key++) {
        CHECK(sv_map_get(&map, &key) == &object);
    }
    uint64_t next = inserted;

    CHECK_EQ(sv_map_insert(&map, &next, &object), 0);
    sv_map_clear(&map);
}

struct entry {
    struct sv_rcu_head rcu;
    uint32_t number; /* of its key; all ones once it is freed */
};

struct reader {
    size_t index;
    void (*look)(struct reader *);
    pthread_t thread;
    unsigned long looks, missed, wrong;
};

static struct sv_rcu shared_rcu;
static struct sv_map shared;
static atomic_bool stop;
static atomic_size_t running;

static struct entry *new_entry(uint32_t number)
{
    struct entry *entry = malloc(sizeof *entry);

    entry->number = number;
    return entry;
}

static void end_entry(struct sv_rcu_head *head)
{
    struct entry *entry = (struct entry *)head;

    entry->number = UINT32_MAX;
    free(entry);
}

static void look_at_all(struct reader *reader)
{
    uint8_t key[MAX_KEY];

    for (uint32_t number = 0; number < STEADY + FLEETING; number++) {
        const struct entry *entry = sv_map_get(&shared, make_key(key, MAX_KEY, number));

        reader->missed += !entry && number < STEADY;
        reader->wrong += entry && entry->number != number;
    }
    reader->looks++;
}

static void *read_shared(void *arg)
{
    struct reader *reader = arg;

    atomic_fetch_add(&running, 1);
    while (!atomic_load(&stop)) {
        sv_rcu_online(&shared_rcu, reader->index);
        reader->look(reader);
        if (reader->looks % 4 == 0) {
            sv_rcu_offline(&shared_rcu, reader->index);
        }
    }
    sv_rcu_offline(&shared_rcu, reader->index);
    return NULL;
}

static void put_entry(uint32_t number)
{
    uint8_t key[MAX_KEY];
    void *old;

    CHECK_EQ(sv_map_set(&shared, make_key(key, MAX_KEY, number), new_entry(number), &old), 0);
    if (old) {
        sv_rcu_defer(&shared_rcu, &((struct entry *)old)->rcu, end_entry);
    }
}

static void drop_entry(uint32_t number)
{
    uint8_t key[MAX_KEY];
    void *old = sv_map_remove(&shared, make_key(key, MAX_KEY, number));

    if (old) {
        sv_rcu_defer(&shared_rcu, &((struct entry *)old)->rcu, end_entry);
    }
}

/* Now the map grows to all keys, now it shrinks to few; steady keys are replaced but never taken out. */
static void change_shared(void)
{
    for (uint32_t i = 0; i < CHANGES; i++) {
        uint32_t number = random_number() % (STEADY + FLEETING);
        bool growing = i / 2000 % 2 == 0;

        if (number < STEADY || (random_number() % 8 == 0) != growing) {
            put_entry(number);
        } else {
            drop_entry(number);
        }
        if (i % 16 == 0) {
            sv_rcu_reclaim(&shared_rcu);
        }
    }
}

static bool free_entry(void *ctx, const void *key, void *object)
{
    (void)ctx;
    (void)key;
    free(object);
    return true;
}

static void run_readers(void (*look)(struct reader *), void (*change)(void))
{
    struct reader readers[READERS] = {0};

    atomic_store(&stop, false);
    atomic_store(&running, 0);
    for (size_t i = 0; i < READERS; i++) {
        readers[i].index = i;
        readers[i].look = look;
        CHECK_EQ(pthread_create(&readers[i].thread, NULL, read_shared, &readers[i]), 0);
    }
    while (atomic_load(&running) < READERS) {
    }
    change();
    atomic_store(&stop, true);
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        CHECK(readers[i].looks > 0);
        CHECK_EQ(readers[i].missed, 0);
        CHECK_EQ(readers[i].wrong, 0);
    }
}

static void readers_beside_a_writer(void)
{
    CHECK_EQ(sv_rcu_init(&shared_rcu, READERS), 0);
    CHECK_EQ(sv_map_init(&shared, MAX_KEY, &shared_rcu, secret), 0);
    for (uint32_t number = 0; number < STEADY; number++) {
        put_entry(number);
    }
    run_readers(look_at_all, change_shared);
    sv_map_each(&shared, free_entry, NULL);
    sv_map_clear(&shared);
    sv_rcu_clear(&shared_rcu);
}

static void look_for_absent(struct reader *reader)
{
    for (uint32_t key = FRESH; key < FRESH + 1000; key++) {
        reader->wrong += sv_map_get(&shared, &key) != NULL;
    }
    reader->looks++;
}

static void pass_fresh_keys_through(void)
{
    char object;

    for (uint32_t key = 0; key < FRESH; key++) {
        CHECK_EQ(sv_map_insert(&shared, &key, &object), 0);
        if (key >= FEW) {
            uint32_t oldest = key - FEW;

            CHECK(sv_map_remove(&shared, &oldest) == &object);
        }
        sv_rcu_reclaim(&shared_rcu);
    }
}

/* The unused slot where a search for nothing ends may be filled at that very moment. */
static void absent_keys_stay_absent(void)
{
    CHECK_EQ(sv_rcu_init(&shared_rcu, READERS), 0);
    CHECK_EQ(sv_map_init(&shared, 4, &shared_rcu, secret), 0);
    run_readers(look_for_absent, pass_fresh_keys_through);
    sv_map_clear(&shared);
    sv_rcu_clear(&shared_rcu);
}

int main(void)
{
    RUN(every_key_size);
    RUN(each_visits_every_entry_once);
    RUN(bad_arguments);
    RUN(churn_costs_few_rebuilds);
    RUN(places_depend_on_the_secret);
    RUN(without_memory_nothing_changes);
    RUN(readers_beside_a_writer);
    RUN(absent_keys_stay_absent);
    return CHECK_DONE("base_map");
}
