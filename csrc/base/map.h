/* A hash table from fixed-size keys to the caller's objects: any number of readers without a lock while one writer changes it.
 *
 * The writer (whoever holds the owner's lock) inserts and removes single entries; readers see each change at once or a moment
 * later, never a half one. Objects and outgrown tables are freed by the caller's grace period (base/rcu.h).
 * Hashes are keyed (SipHash-style secret per map), since keys come from the network.
 */
#ifndef SV_BASE_MAP_H
#define SV_BASE_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sv_rcu;
struct sv_map_table;

struct sv_map {
    struct sv_map_table *_Atomic table;
    struct sv_rcu *rcu; /* where outgrown tables go to be freed */
    size_t key_size;    /* bytes, at most 32 */
    size_t count;       /* live entries; the writer's */
    uint64_t secret[2]; /* hash key */
};

/* key_size 1..32; rcu may be NULL in single-threaded use (old tables are then freed at once). `secret` is 16 random bytes. */
int sv_map_init(struct sv_map *map, size_t key_size, struct sv_rcu *rcu, const uint8_t secret[16]);
void sv_map_clear(struct sv_map *map);

/* The object under the key or NULL. Lock-free; between sv_rcu_online and offline when concurrent. */
void *sv_map_get(const struct sv_map *map, const void *key);

/* Writer only. The key is copied. SV_E_EXISTS leaves the old entry; SV_E_NOMEM changes nothing. */
int sv_map_insert(struct sv_map *map, const void *key, void *object);

/* Writer only: replaces or inserts, returns the old object (or NULL) through *old. */
int sv_map_set(struct sv_map *map, const void *key, void *object, void **old);

/* Writer only: takes the entry out and returns its object, or NULL. */
void *sv_map_remove(struct sv_map *map, const void *key);

/* Writer only: calls visit for each entry until it returns false; visit must not change the map. */
void sv_map_each(const struct sv_map *map, bool (*visit)(void *ctx, const void *key, void *object),
                 void *ctx);

#endif
