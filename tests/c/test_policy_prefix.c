/* The trie agrees with a plain list under random changes, holds nested prefixes of every length, and its readers
 * never miss an entry that stays nor see one after its end. */
#include "tests/c/check.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/rcu.h"
#include "policy/prefix.h"
#include "tests/c/random.h"

enum { STEPS = 100000, MODEL = 400, BASES = 6 };
enum { READERS = 3, CHANGES = 60000, STEADY = 32, FLEETING = 256 };

static struct sv_prefix prefix_of(const char *text)
{
    struct sv_prefix prefix = {.bits = 0};

    CHECK_EQ(sv_prefix_parse(&prefix, text), 0);
    return prefix;
}

static void *find(const struct sv_trie *trie, const char *text)
{
    uint8_t addr[16];

    CHECK_EQ(sv_addr_parse(addr, text), 0);
    return sv_trie_find(trie, addr);
}

/* ---- the model ---- */

static struct {
    struct sv_prefix prefix;
    void *object;
} model[MODEL];
static size_t model_count;

static size_t place_in_model(const struct sv_prefix *prefix)
{
    for (size_t i = 0; i < model_count; i++) {
        if (model[i].prefix.bits == prefix->bits && memcmp(model[i].prefix.addr, prefix->addr, 16) == 0) {
            return i;
        }
    }
    return model_count;
}

static void *find_in_model(const uint8_t addr[16])
{
    void *best = NULL;
    int bits = -1;

    for (size_t i = 0; i < model_count; i++) {
        if (model[i].prefix.bits > bits && sv_prefix_contains(&model[i].prefix, addr)) {
            bits = model[i].prefix.bits;
            best = model[i].object;
        }
    }
    return best;
}

/* A few addresses of either family with a few bits changed: prefixes nest and part at every length. */
static void random_addr(uint8_t addr[16])
{
    static const char *const bases[BASES] = {"10.8.0.0", "10.8.0.1", "192.168.255.255",
                                             "fd00::1",  "::",       "2001:db8::"};

    CHECK_EQ(sv_addr_parse(addr, bases[random_below(BASES)]), 0);
    for (uint32_t i = random_below(4); i; i--) {
        unsigned bit = sv_addr_is4(addr) && random_below(8) ? 96 + random_below(32) : random_below(128);

        addr[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
    }
}

static struct sv_prefix random_prefix(void)
{
    struct sv_prefix prefix;

    random_addr(prefix.addr);
    prefix.bits = (uint8_t)(random_below(2) ? 96 + random_below(33) : random_below(129));
    sv_addr_mask(prefix.addr, prefix.bits);
    return prefix;
}

static void set_both(struct sv_trie *trie, const struct sv_prefix *prefix, void *object)
{
    size_t place = place_in_model(prefix);
    void *old = NULL;

    if (place == MODEL) {
        return;
    }
    CHECK_EQ(sv_trie_set(trie, prefix, object, &old), 0);
    CHECK(old == (place < model_count ? model[place].object : NULL));
    model[place].prefix = *prefix;
    model[place].object = object;
    model_count += place == model_count;
}

static void remove_both(struct sv_trie *trie, const struct sv_prefix *prefix)
{
    size_t place = place_in_model(prefix);

    CHECK(sv_trie_remove(trie, prefix) == (place < model_count ? model[place].object : NULL));
    if (place < model_count) {
        model[place] = model[--model_count];
    }
}

/* Grows and shrinks by turns. */
static void random_step(struct sv_trie *trie, int step)
{
    static char objects[64];
    struct sv_prefix prefix = random_prefix();
    bool growing = step / 2000 % 2 == 0;

    if (random_below(4) == 0) {
        prefix = model_count ? model[random_below((uint32_t)model_count)].prefix : prefix;
    }
    if (random_below(8) < (growing ? 6u : 2u)) {
        set_both(trie, &prefix, &objects[random_below(sizeof objects)]);
    } else {
        remove_both(trie, &prefix);
    }
    CHECK_EQ(trie->count, model_count);
}

struct walk {
    size_t count, limit, wrong;
    struct sv_prefix before;
};

/* In address order, a prefix before those inside it. */
static bool visit(void *ctx, const struct sv_prefix *prefix, void *object)
{
    struct walk *walk = ctx;
    size_t place = place_in_model(prefix);
    int order = memcmp(walk->before.addr, prefix->addr, 16);

    walk->wrong += place == model_count || model[place].object != object;
    walk->wrong += walk->count && (order > 0 || (order == 0 && walk->before.bits >= prefix->bits));
    walk->before = *prefix;
    return ++walk->count < walk->limit;
}

static void check_walk(const struct sv_trie *trie)
{
    struct walk all = {.limit = SIZE_MAX}, some = {.limit = 3};

    sv_trie_each(trie, visit, &all);
    CHECK_EQ(all.count, model_count);
    CHECK_EQ(all.wrong, 0);
    sv_trie_each(trie, visit, &some);
    CHECK_EQ(some.count, model_count < 3 ? model_count : 3);
}

static void empty_both(struct sv_trie *trie)
{
    while (model_count) {
        struct sv_prefix prefix = model[0].prefix;

        remove_both(trie, &prefix);
    }
    CHECK_EQ(trie->count, 0);
    CHECK(atomic_load(&trie->root) == NULL);
}

static void agrees_with_a_list(void)
{
    struct sv_trie trie;

    model_count = 0;
    sv_trie_init(&trie, NULL);
    for (int step = 0; step < STEPS; step++) {
        uint8_t addr[16];

        random_step(&trie, step);
        random_addr(addr);
        CHECK(sv_trie_find(&trie, addr) == find_in_model(addr));
        if (step % 1000 == 0) {
            check_walk(&trie);
        }
    }
    empty_both(&trie);
    sv_trie_clear(&trie);
}

/* ---- single cases ---- */

static void longest_prefix_wins(void)
{
    static const char *const texts[] = {"0.0.0.0/0", "10.0.0.0/8", "10.8.0.0/16",
                                        "10.8.0.2",  "::/0",       "fd00::/8"};
    char objects[6];
    struct sv_trie trie;

    sv_trie_init(&trie, NULL);
    CHECK(!find(&trie, "10.8.0.2"));
    for (size_t i = 0; i < 6; i++) {
        struct sv_prefix prefix = prefix_of(texts[i]);

        CHECK_EQ(sv_trie_set(&trie, &prefix, &objects[i], NULL), 0);
    }
    CHECK(find(&trie, "10.8.0.2") == &objects[3]);
    CHECK(find(&trie, "10.8.0.3") == &objects[2]);
    CHECK(find(&trie, "10.9.0.0") == &objects[1]);
    CHECK(find(&trie, "11.0.0.0") == &objects[0]);
    CHECK(find(&trie, "fd00::1") == &objects[5]);
    CHECK(find(&trie, "fe00::1") == &objects[4]);
    sv_trie_clear(&trie);
}

/* A peer that may send "all of IPv6" may not send IPv4. */
static void ip6_default_holds_no_ip4(void)
{
    struct sv_prefix wide = prefix_of("::/0"), half = prefix_of("::/1"), ip4 = prefix_of("10.0.0.0/8");
    char objects[3];
    struct sv_trie trie;

    sv_trie_init(&trie, NULL);
    CHECK_EQ(sv_trie_set(&trie, &wide, &objects[0], NULL), 0);
    CHECK_EQ(sv_trie_set(&trie, &half, &objects[1], NULL), 0);
    CHECK(!find(&trie, "10.0.0.1"));
    CHECK(find(&trie, "::1") == &objects[1]);
    CHECK(find(&trie, "fd00::1") == &objects[0]);
    CHECK_EQ(sv_trie_set(&trie, &ip4, &objects[2], NULL), 0);
    CHECK(find(&trie, "10.0.0.1") == &objects[2]);
    CHECK(!find(&trie, "11.0.0.1"));
    sv_trie_clear(&trie);
}

/* No entry without an object, and an error changes nothing. */
static void nothing_is_not_an_object(void)
{
    struct sv_prefix prefix = prefix_of("10.0.0.0/8");
    char object;
    void *old = &object;
    struct sv_trie trie;

    sv_trie_init(&trie, NULL);
    CHECK_EQ(sv_trie_set(&trie, &prefix, NULL, &old), SV_E_INVALID);
    CHECK(!old);
    CHECK_EQ(trie.count, 0);
    CHECK_EQ(sv_trie_set(&trie, &prefix, &object, NULL), 0);
    CHECK_EQ(sv_trie_set(&trie, &prefix, NULL, NULL), SV_E_INVALID);
    CHECK(find(&trie, "10.0.0.1") == &object);
    CHECK_EQ(trie.count, 1);
    sv_trie_clear(&trie);
}

static bool count_entry(void *ctx, const struct sv_prefix *prefix, void *object)
{
    (void)prefix;
    (void)object;
    ++*(size_t *)ctx;
    return true;
}

static struct sv_prefix first_bits(const uint8_t addr[16], unsigned bits)
{
    struct sv_prefix prefix = {.bits = (uint8_t)bits};

    memcpy(prefix.addr, addr, 16);
    sv_addr_mask(prefix.addr, bits);
    return prefix;
}

static void set_first_bits(struct sv_trie *trie, const uint8_t addr[16], unsigned bits, void *object)
{
    struct sv_prefix prefix = first_bits(addr, bits);

    CHECK_EQ(sv_trie_set(trie, &prefix, object, NULL), 0);
}

/* The deepest trie there can be: an address under prefixes of all lengths, and beside each of them another. */
static void prefixes_of_every_length(void)
{
    static char objects[129], beside;
    uint8_t addr[16];
    struct sv_trie trie;
    size_t entries = 0;

    random_bytes(addr, sizeof addr);
    sv_trie_init(&trie, NULL);
    for (unsigned bits = 0; bits <= 128; bits++) {
        set_first_bits(&trie, addr, bits, &objects[bits]);
    }
    for (unsigned bits = 0; bits < 128; bits++) {
        uint8_t other[16];

        memcpy(other, addr, 16);
        other[bits / 8] ^= (uint8_t)(0x80 >> bits % 8);
        CHECK(sv_trie_find(&trie, other) == &objects[bits]);
        set_first_bits(&trie, other, bits + 1, &beside);
        CHECK(sv_trie_find(&trie, other) == &beside);
    }
    CHECK(sv_trie_find(&trie, addr) == &objects[128]);
    sv_trie_each(&trie, count_entry, &entries);
    CHECK_EQ(entries, 257);
    for (unsigned bits = 128; bits > 0; bits--) {
        struct sv_prefix prefix = first_bits(addr, bits);

        CHECK(sv_trie_remove(&trie, &prefix) == &objects[bits]);
        CHECK(!sv_trie_remove(&trie, &prefix));
        CHECK(sv_trie_find(&trie, addr) == &objects[bits - 1]);
    }
    sv_trie_clear(&trie);
    CHECK_EQ(trie.count, 0);
    CHECK(!sv_trie_find(&trie, addr));
}

/* ---- readers beside a writer ---- */

struct entry {
    struct sv_rcu_head rcu;
    uint32_t number; /* of its prefix; all ones once it is freed */
};

struct reader {
    size_t index;
    pthread_t thread;
    unsigned long looks, wrong;
};

static struct sv_rcu shared_rcu;
static struct sv_trie shared;
static atomic_bool stop;
static atomic_size_t running;

/* The steady ones are networks that never go, the fleeting ones lie inside them and beside each other. */
static struct sv_prefix numbered(uint32_t number)
{
    struct sv_prefix prefix = {.addr = {[10] = 0xFF, [11] = 0xFF, [12] = 10}, .bits = 120};

    prefix.addr[13] = (uint8_t)(number % STEADY);
    if (number >= STEADY) {
        prefix.addr[15] = (uint8_t)number;
        prefix.bits = (uint8_t)(122 + number % 7);
        sv_addr_mask(prefix.addr, prefix.bits);
    }
    return prefix;
}

static void end_entry(struct sv_rcu_head *head)
{
    struct entry *entry = (struct entry *)head;

    entry->number = UINT32_MAX;
    free(entry);
}

static bool belongs(const struct entry *entry, const uint8_t addr[16])
{
    struct sv_prefix prefix;

    if (!entry || entry->number >= STEADY + FLEETING) {
        return false;
    }
    prefix = numbered(entry->number);
    return sv_prefix_contains(&prefix, addr);
}

static void *read_shared(void *arg)
{
    struct reader *reader = arg;

    atomic_fetch_add(&running, 1);
    while (!atomic_load(&stop)) {
        sv_rcu_online(&shared_rcu, reader->index);
        for (uint32_t number = 0; number < STEADY + FLEETING; number++) {
            struct sv_prefix prefix = numbered(number);

            reader->wrong += !belongs(sv_trie_find(&shared, prefix.addr), prefix.addr);
        }
        reader->looks++;
    }
    sv_rcu_offline(&shared_rcu, reader->index);
    return NULL;
}

static void put_entry(uint32_t number)
{
    struct sv_prefix prefix = numbered(number);
    struct entry *entry = malloc(sizeof *entry);
    void *old;

    entry->number = number;
    CHECK_EQ(sv_trie_set(&shared, &prefix, entry, &old), 0);
    if (old) {
        sv_rcu_defer(&shared_rcu, &((struct entry *)old)->rcu, end_entry);
    }
}

static void drop_entry(uint32_t number)
{
    struct sv_prefix prefix = numbered(number);
    struct entry *old = sv_trie_remove(&shared, &prefix);

    if (old) {
        sv_rcu_defer(&shared_rcu, &old->rcu, end_entry);
    }
}

static void change_shared(void)
{
    for (uint32_t i = 0; i < CHANGES; i++) {
        uint32_t number = random_below(STEADY + FLEETING);
        bool growing = i / 2000 % 2 == 0;

        if (number < STEADY || (random_below(8) == 0) != growing) {
            put_entry(number);
        } else {
            drop_entry(number);
        }
        if (i % 16 == 0) {
            sv_rcu_reclaim(&shared_rcu);
        }
    }
}

static bool free_entry(void *ctx, const struct sv_prefix *prefix, void *object)
{
    (void)ctx;
    (void)prefix;
    free(object);
    return true;
}

static void readers_beside_a_writer(void)
{
    struct reader readers[READERS] = {0};

    CHECK_EQ(sv_rcu_init(&shared_rcu, READERS), 0);
    sv_trie_init(&shared, &shared_rcu);
    for (uint32_t number = 0; number < STEADY; number++) {
        put_entry(number);
    }
    for (size_t i = 0; i < READERS; i++) {
        readers[i].index = i;
        CHECK_EQ(pthread_create(&readers[i].thread, NULL, read_shared, &readers[i]), 0);
    }
    while (atomic_load(&running) < READERS) {
    }
    change_shared();
    atomic_store(&stop, true);
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        CHECK(readers[i].looks > 0);
        CHECK_EQ(readers[i].wrong, 0);
    }
    sv_trie_each(&shared, free_entry, NULL);
    sv_trie_clear(&shared);
    sv_rcu_clear(&shared_rcu);
}

int main(void)
{
    RUN(agrees_with_a_list);
    RUN(longest_prefix_wins);
    RUN(ip6_default_holds_no_ip4);
    RUN(nothing_is_not_an_object);
    RUN(prefixes_of_every_length);
    RUN(readers_beside_a_writer);
    return CHECK_DONE("policy_prefix");
}
