#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

#ifndef SV_VERSION
#define SV_VERSION "0.1.0"
#endif

static _Thread_local char detail[256];

const char *sv_error_detail(void)
{
    return detail;
}

int sv_fail(int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    return error;
}

const char *sv_strerror(int error)
{
#define SV_ERROR_CASE(name, value, text) \
    case value:                          \
        return text;
    switch (error) {
    case 0:
        return "success";
        SV_ERRORS(SV_ERROR_CASE)
    default:
        return "unknown error";
    }
#undef SV_ERROR_CASE
}

const char *sv_version(void)
{
    return SV_VERSION;
}
