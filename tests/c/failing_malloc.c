/* For tests only, preloaded into a daemon: memory ends. Of the two numbers in the file FAILING_MALLOC the first says how many more allocations the C library of
 * the extension gets on the main thread, where the daemon's commands run; none after these; as many as it wants while it is negative. The second
 * counts those that failed. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static volatile int64_t *left, *failed;

__attribute__((constructor)) static void open_file(void)
{
    const char *path = getenv("FAILING_MALLOC");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, 2 * sizeof *left, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    left = at == MAP_FAILED ? NULL : at;
    failed = left ? left + 1 : NULL;
}

static int fails(const void *caller)
{
    Dl_info info;

    if (!left || *left < 0 || gettid() != getpid() || !dladdr(caller, &info) || !info.dli_fname ||
        !strstr(info.dli_fname, "/_core.")) {
        return 0;
    }
    if (*left > 0) {
        --*left;
        return 0;
    }
    ++*failed;
    errno = ENOMEM;
    return 1;
}

#define OR_NULL(allocation) (fails(__builtin_return_address(0)) ? NULL : (allocation))

void *malloc(size_t size)
{
    return OR_NULL(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    return OR_NULL(__libc_calloc(count, size));
}

void *realloc(void *old, size_t size)
{
    return OR_NULL(__libc_realloc(old, size));
}

void *reallocarray(void *old, size_t count, size_t size)
{
    return OR_NULL(__libc_realloc(old, count * size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return OR_NULL(__libc_memalign(alignment, size));
}
