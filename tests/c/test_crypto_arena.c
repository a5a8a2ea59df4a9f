/* Slots come zeroed and apart from each other, are wiped when put back, survive a limit of no locked memory,
 * and threads may share. */
#include "tests/c/check.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "crypto/keys.h"

/* The sanitizers put an mlock() that does nothing and succeeds in place of the real one. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOCKS false
#elif defined(__has_feature)
#define LOCKS (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer))
#else
#define LOCKS true
#endif

enum { SLOTS = 1000, SLOT = 200 };

static bool all_zero(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

static void slots_are_zeroed_and_apart(void)
{
    struct sv_arena *arena = sv_arena_new(SLOT);
    static uint8_t *slots[SLOTS];
    CHECK(arena != NULL);
    for (size_t i = 0; i < SLOTS; i++) {
        slots[i] = sv_arena_get(arena);
        CHECK(slots[i] != NULL);
        CHECK_EQ((uintptr_t)slots[i] % alignof(max_align_t), 0);
        CHECK(all_zero(slots[i], SLOT));
        memset(slots[i], (int)(i % 255) + 1, SLOT);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        CHECK(slots[i][0] == i % 255 + 1 && memcmp(slots[i], slots[i] + 1, SLOT - 1) == 0);
    }
    for (size_t i = 0; i < SLOTS; i += 2) {
        sv_arena_put(arena, slots[i]);
    }
    for (size_t i = 0; i < SLOTS; i += 2) {
        slots[i] = sv_arena_get(arena);
        CHECK(all_zero(slots[i], SLOT));
    }
    sv_arena_free(arena);
}

/* Beyond the link to the next idle slot nothing of a secret stays, while the arena lives. */
static void put_wipes(void)
{
    struct sv_arena *arena = sv_arena_new(SLOT);
    uint8_t *slot = sv_arena_get(arena);
    memset(slot, 0x5a, SLOT);
    sv_arena_put(arena, slot);
    CHECK(all_zero(slot + sizeof(void *), SLOT - sizeof(void *)));
    CHECK(sv_arena_get(arena) == slot);
    sv_arena_free(arena);
}

static void odd_sizes(void)
{
    static const size_t sizes[] = {1, 31, 32, 4096, 16384, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct sv_arena *arena = sv_arena_new(sizes[i]);
        uint8_t *a = sv_arena_get(arena), *b = sv_arena_get(arena);
        memset(a, 1, sizes[i]);
        CHECK(all_zero(b, sizes[i]));
        memset(b, 2, sizes[i]);
        CHECK(a[0] == 1 && a[sizes[i] - 1] == 1);
        sv_arena_put(arena, a);
        sv_arena_free(arena);
    }
    CHECK(sv_arena_new(0) == NULL);
    sv_arena_free(NULL);
}

/* Kilobytes the kernel counts as locked. */
static long locked_kb(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long kb = -1;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "VmLck: %ld", &kb) == 1) {
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return kb;
}

static void slots_are_packed_into_locked_pages(void)
{
    long before = locked_kb();
    struct sv_arena *arena = sv_arena_new(64);
    for (int i = 0; i < 200; i++) {
        sv_arena_get(arena);
    }
    long locked = locked_kb() - before;
    CHECK(before >= 0);
    CHECK_EQ(locked, LOCKS ? 16 : 0);
    sv_arena_free(arena);
    CHECK_EQ(locked_kb(), before);
}

static void count_line(void *ctx, int level, const char *line)
{
    (void)line;
    *(int *)ctx += level == SV_LOG_WARNING;
}

/* In a process of its own: no memory may be locked, root's right to do so given up. */
static int without_locked_memory(void)
{
    int warnings = 0;
    struct rlimit none = {0, 0};
    struct sv_arena *arena = sv_arena_new(SLOT);
    sv_log_set(count_line, &warnings, SV_LOG_WARNING);
    if (setrlimit(RLIMIT_MEMLOCK, &none) != 0 || (geteuid() == 0 && setuid(65534) != 0)) {
        return 2;
    }
    for (int i = 0; i < 500; i++) {
        uint8_t *slot = sv_arena_get(arena);
        if (!slot || !all_zero(slot, SLOT)) {
            return 3;
        }
    }
    sv_arena_free(arena);
    return warnings == (LOCKS ? 1 : 0) ? 0 : 4;
}

static void limit_reached(void)
{
    fflush(NULL);
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        _exit(without_locked_memory());
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

static struct sv_arena *shared;

static void *churn(void *wrong)
{
    uint8_t *held[16] = {0};
    for (unsigned i = 0; i < 3000; i++) {
        unsigned k = i * 7 % 16;
        sv_arena_put(shared, held[k]);
        held[k] = sv_arena_get(shared);
        *(int *)wrong += !held[k] || !all_zero(held[k], 48);
        memset(held[k], 0xff, 48);
    }
    for (unsigned k = 0; k < 16; k++) {
        sv_arena_put(shared, held[k]);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t ids[4];
    int wrong[4] = {0};
    shared = sv_arena_new(48);
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(pthread_create(&ids[i], NULL, churn, &wrong[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(pthread_join(ids[i], NULL), 0);
        CHECK_EQ(wrong[i], 0);
    }
    sv_arena_free(shared);
}

int main(void)
{
    CHECK_EQ(sv_crypto_init(), 0);
    RUN(slots_are_zeroed_and_apart);
    RUN(put_wipes);
    RUN(odd_sizes);
    RUN(slots_are_packed_into_locked_pages);
    RUN(limit_reached);
    RUN(threads);
    return CHECK_DONE("crypto_arena");
}
