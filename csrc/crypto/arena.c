#include "crypto/keys.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sodium.h>

#include "base/log.h"

enum { CHUNK = 16 * 1024 }; /* bytes mapped and locked at a time, rounded up to pages */

struct chunk {
    struct chunk *next;
    size_t size; /* bytes mapped, this header included */
    alignas(64) uint8_t slots[];
};

struct free_slot {
    struct free_slot *next;
};

struct sv_arena {
    pthread_mutex_t lock;
    size_t slot_size; /* a multiple of the strictest alignment */
    struct chunk *chunks;
    struct free_slot *idle; /* all zeros but for their links */
};

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static void warn_unlocked(void)
{
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&warned)) {
        sv_log(SV_LOG_WARNING,
               "the limit of locked memory (RLIMIT_MEMLOCK) is reached: keys may be swapped out");
    }
}

/* sodium_mlock keeps the pages out of core dumps even where it cannot lock them. */
static struct chunk *map_chunk(size_t slot_size)
{
    size_t size = round_up(sizeof(struct chunk) + slot_size, (size_t)sysconf(_SC_PAGESIZE));
    size = size < CHUNK ? CHUNK : size;
    struct chunk *chunk = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (chunk == MAP_FAILED) {
        return NULL;
    }
    if (sodium_mlock(chunk, size) != 0) {
        warn_unlocked();
    }
    chunk->size = size;
    return chunk;
}

static void make_idle(struct sv_arena *arena, void *slot)
{
    struct free_slot *idle = slot;
    idle->next = arena->idle;
    arena->idle = idle;
}

static bool grow(struct sv_arena *arena)
{
    struct chunk *chunk = map_chunk(arena->slot_size);
    if (!chunk) {
        return false;
    }
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    for (size_t n = (chunk->size - sizeof *chunk) / arena->slot_size; n > 0; n--) {
        make_idle(arena, chunk->slots + (n - 1) * arena->slot_size);
    }
    return true;
}

struct sv_arena *sv_arena_new(size_t slot_size)
{
    if (slot_size == 0 || slot_size > SIZE_MAX / 2) {
        return NULL;
    }
    struct sv_arena *arena = calloc(1, sizeof *arena);
    if (arena) {
        pthread_mutex_init(&arena->lock, NULL);
        arena->slot_size = round_up(slot_size, alignof(max_align_t));
    }
    return arena;
}

void sv_arena_free(struct sv_arena *arena)
{
    if (!arena) {
        return;
    }
    while (arena->chunks) {
        struct chunk *chunk = arena->chunks;
        size_t size = chunk->size;
        arena->chunks = chunk->next;
        sodium_munlock(chunk, size); /* wipes */
        munmap(chunk, size);
    }
    pthread_mutex_destroy(&arena->lock);
    free(arena);
}

void *sv_arena_get(struct sv_arena *arena)
{
    pthread_mutex_lock(&arena->lock);
    struct free_slot *slot = arena->idle || grow(arena) ? arena->idle : NULL;
    if (slot) {
        arena->idle = slot->next;
        slot->next = NULL;
    }
    pthread_mutex_unlock(&arena->lock);
    return slot;
}

void sv_arena_put(struct sv_arena *arena, void *slot)
{
    if (!slot) {
        return;
    }
    sv_wipe(slot, arena->slot_size);
    pthread_mutex_lock(&arena->lock);
    make_idle(arena, slot);
    pthread_mutex_unlock(&arena->lock);
}
