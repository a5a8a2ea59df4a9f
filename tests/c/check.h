/* The few macros every C test uses. A failed check is printed with its place and counted; the program goes on. */
#ifndef SV_TESTS_CHECK_H
#define SV_TESTS_CHECK_H

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static atomic_ulong check_passed, check_failed; /* threads check as well */

static inline void check_note(int ok, const char *file, int line, const char *what)
{
    if (ok) {
        check_passed++;
        return;
    }
    check_failed++;
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
}

static inline void check_eq(long long a, long long b, const char *file, int line, const char *what)
{
    check_note(a == b, file, line, what);
    if (a != b) {
        fprintf(stderr, "    %lld != %lld\n", a, b);
    }
}

#define CHECK(cond) check_note((cond) ? 1 : 0, __FILE__, __LINE__, #cond)
#define CHECK_EQ(a, b) check_eq((long long)(a), (long long)(b), __FILE__, __LINE__, #a " == " #b)
#define CHECK_MEM(a, b, n) \
    check_note(memcmp((a), (b), (n)) == 0, __FILE__, __LINE__, #a " == " #b " (" #n " bytes)")
#define CHECK_STR(a, b) check_note(strcmp((a), (b)) == 0, __FILE__, __LINE__, #a " == " #b)
#define RUN(test) (fprintf(stderr, "  %s\n", #test), test())
#define CHECK_DONE(name)                                                                                     \
    (printf("%s: %lu passed, %lu failed\n", (name), atomic_load(&check_passed), atomic_load(&check_failed)), \
     check_failed ? 1 : 0)

#endif
