/* Log lines for people. Never on the packet path, never a key or a token; what strangers can cause goes through a limit. */
#ifndef SV_BASE_LOG_H
#define SV_BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sv_log_level { SV_LOG_ERROR, SV_LOG_WARNING, SV_LOG_INFO, SV_LOG_DEBUG };

/* May be called from any thread of the library; `line` is text without newline. NULL (the start value): lines go to stderr. */
typedef void (*sv_log_fn)(void *ctx, int level, const char *line);

void sv_log_set(sv_log_fn fn, void *ctx, enum sv_log_level most_verbose);

void sv_log(enum sv_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* At most one line a second per limit; the next line that passes tells how many were left out. */
struct sv_log_limit {
    atomic_uint_fast64_t next; /* ns */
    atomic_uint_fast32_t dropped;
};

void sv_log_limited(struct sv_log_limit *limit, uint64_t now, enum sv_log_level level, const char *format,
                    ...) __attribute__((format(printf, 4, 5)));

/* Text from the network made fit for a log: printable ASCII stays, the rest becomes \xNN; cut at size. Returns dst. */
char *sv_log_escape(char *dst, size_t size, const void *text, size_t len);

#endif
