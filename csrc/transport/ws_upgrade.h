/* The client's HTTP/1.1 upgrade (RFC 6455, section 4.1): one request, one answer of bounded length; and what the server's
 * own library leaves unchecked of a request. */
#ifndef SV_TRANSPORT_WS_UPGRADE_H
#define SV_TRANSPORT_WS_UPGRADE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SV_WS_KEY = 24, SV_WS_REQUEST_MAX = 2048, SV_WS_ANSWER_MAX = 8192, SV_WS_WHY = 128 };

/* The request into dst (SV_WS_REQUEST_MAX bytes) with a fresh key; its length, or 0 when host or path are too long or hold what a request may not. `key` gets the key, NUL-ended. */
size_t sv_ws_write_request(char *dst, char key[SV_WS_KEY + 1], const char *host, const char *path);

/* Whether it is 16 bytes in base64, as both sides must have it. */
bool sv_ws_is_key(const char *key);

/* Looks at the answer so far. >0: complete and right, that many bytes; 0: more is needed; SV_E_PROTOCOL / SV_E_REFUSED: `why` has the words. */
int sv_ws_read_answer(const char *bytes, size_t len, const char *key, char why[SV_WS_WHY]);

#endif
