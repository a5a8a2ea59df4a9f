/* Statuses, version and the export mark: what every other public header stands on. */
#ifndef SMARTVPN_BASE_H
#define SMARTVPN_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef SV_API
#define SV_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The one list of errors: name, value, text. Functions return 0 or one of these. */
#define SV_ERRORS(X)                           \
    X(NOMEM, -1, "out of memory")              \
    X(INVALID, -2, "invalid argument")         \
    X(MALFORMED, -3, "malformed input")        \
    X(AGAIN, -4, "would block")                \
    X(SYSTEM, -5, "system call failed")        \
    X(AUTH, -6, "authentication failed")       \
    X(REPLAY, -7, "replayed")                  \
    X(STATE, -8, "not possible in this state") \
    X(NOT_FOUND, -9, "not found")              \
    X(EXISTS, -10, "already exists")           \
    X(FULL, -11, "full")                       \
    X(CLOSED, -12, "closed")                   \
    X(TIMEOUT, -13, "timed out")               \
    X(PROTOCOL, -14, "protocol error")         \
    X(REFUSED, -15, "refused")                 \
    X(UNREACHABLE, -16, "unreachable")         \
    X(UNSUPPORTED, -17, "not supported")       \
    X(PERMISSION, -18, "permission denied")    \
    X(IN_USE, -19, "address in use")           \
    X(EXHAUSTED, -20, "counter exhausted")

#define SV_ERROR_ENUM(name, value, text) SV_E_##name = (value),
typedef enum sv_error { SV_OK = 0, SV_ERRORS(SV_ERROR_ENUM) } sv_error;
#undef SV_ERROR_ENUM

/* The text of a status; never NULL. */
SV_API const char *sv_strerror(int error);

/* What the last failed call of this thread has to add to its status ("cannot listen on 0.0.0.0:443: Address already in use"); "" when nothing.
 * Valid until this thread's next call. */
SV_API const char *sv_error_detail(void);

/* The library's version, "major.minor.patch". */
SV_API const char *sv_version(void);

#ifdef __cplusplus
}
#endif
#endif
