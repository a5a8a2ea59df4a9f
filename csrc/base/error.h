/* Statuses with words: what a status alone cannot say goes into this thread's detail text. */
#ifndef SV_BASE_ERROR_H
#define SV_BASE_ERROR_H

#include <smartvpn/base.h>

/* Sets the thread's detail text and returns the status, so that a failure is one line: return sv_fail(SV_E_…, "…", …). */
int sv_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
