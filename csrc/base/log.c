#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

enum { MAX_LINE = 1024 };

/* Read-locked while a line is delivered: when sv_log_set returns, nobody is inside the old function. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static sv_log_fn log_fn;
static void *log_ctx;
static atomic_int log_level = SV_LOG_INFO;

void sv_log_set(sv_log_fn fn, void *ctx, enum sv_log_level most_verbose)
{
    pthread_rwlock_wrlock(&lock);
    log_fn = fn;
    log_ctx = ctx;
    atomic_store_explicit(&log_level, (int)most_verbose, memory_order_relaxed);
    pthread_rwlock_unlock(&lock);
}

static bool wanted(enum sv_log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

static void print_line(enum sv_log_level level, const char *line)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};

    fprintf(stderr, "smartvpn: %s: %s\n", names[level], line);
}

/* One call is one line, whatever the text holds. */
static void flatten(char *line)
{
    for (; *line; line++) {
        if ((unsigned char)*line < ' ' || *line == 0x7f) {
            *line = ' ';
        }
    }
}

/* A text that cannot be converted is replaced by its format. */
static void compose(char *line, size_t size, const char *format, va_list args)
{
    if (vsnprintf(line, size, format, args) < 0) {
        snprintf(line, size, "%s", format);
    }
}

static void deliver(enum sv_log_level level, char *line)
{
    flatten(line);
    pthread_rwlock_rdlock(&lock);
    if (log_fn) {
        log_fn(log_ctx, (int)level, line);
    } else {
        print_line(level, line);
    }
    pthread_rwlock_unlock(&lock);
}

void sv_log(enum sv_log_level level, const char *format, ...)
{
    char line[MAX_LINE];
    int saved = errno;
    va_list args;

    if (!wanted(level)) {
        return;
    }
    va_start(args, format);
    compose(line, sizeof line, format, args);
    va_end(args);
    deliver(level, line);
    errno = saved;
}

/* Of the threads that come when the time is up, one wins. */
static bool pass(struct sv_log_limit *limit, uint64_t now)
{
    uint_fast64_t next = atomic_load_explicit(&limit->next, memory_order_relaxed);

    if (now >= next && atomic_compare_exchange_strong_explicit(&limit->next, &next, now + SV_NS_PER_S,
                                                               memory_order_relaxed, memory_order_relaxed)) {
        return true;
    }
    atomic_fetch_add_explicit(&limit->dropped, 1, memory_order_relaxed);
    return false;
}

void sv_log_limited(struct sv_log_limit *limit, uint64_t now, enum sv_log_level level, const char *format,
                    ...)
{
    char line[MAX_LINE];
    int saved = errno;
    va_list args;

    if (!wanted(level) || !pass(limit, now)) {
        return;
    }
    va_start(args, format);
    compose(line, sizeof line - 64, format, args);
    va_end(args);

    uint_fast32_t dropped = atomic_exchange_explicit(&limit->dropped, 0, memory_order_relaxed);
    size_t length = strlen(line);

    if (dropped) {
        snprintf(line + length, sizeof line - length, " (%" PRIuFAST32 " like it left out)", dropped);
    }
    deliver(level, line);
    errno = saved;
}

char *sv_log_escape(char *dst, size_t size, const void *text, size_t len)
{
    const uint8_t *p = text;
    size_t used = 0;

    for (size_t i = 0; i < len; i++) {
        bool plain = p[i] >= ' ' && p[i] <= '~';
        size_t width = plain ? 1 : 4;

        if (used + width >= size) {
            break;
        }
        snprintf(dst + used, size - used, plain ? "%c" : "\\x%02x", p[i]);
        used += width;
    }
    if (size) {
        dst[used] = '\0';
    }
    return dst;
}
