#include "transport/ws_upgrade.h"

#include <openssl/evp.h>
#include <smartvpn/base.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "crypto/keys.h"

static const char GUID[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
static const char SUBPROTOCOL[] = "smartvpn.v1";

static bool is_clean(const char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text <= ' ' || *text == 0x7F) {
            return false;
        }
    }
    return true;
}

size_t sv_ws_write_request(char *dst, char key[SV_WS_KEY + 1], const char *host, const char *path)
{
    uint8_t random[16];
    int n;

    if (!is_clean(host) || !is_clean(path)) {
        return 0;
    }
    sv_random(random, sizeof random);
    EVP_EncodeBlock((unsigned char *)key, random, sizeof random);
    n = snprintf(dst, SV_WS_REQUEST_MAX,
                 "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
                 path, host, key, SUBPROTOCOL);
    return n > 0 && n < SV_WS_REQUEST_MAX ? (size_t)n : 0;
}

/* Section 4.2.2, step 5.4. */
static void expected_accept(char accept[32], const char *key)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int digest_len = 0;
    char text[SV_WS_KEY + sizeof GUID];

    snprintf(text, sizeof text, "%s%s", key, GUID);
    EVP_Digest(text, strlen(text), digest, &digest_len, EVP_sha1(), NULL);
    EVP_EncodeBlock((unsigned char *)accept, digest, (int)digest_len);
}

/* The value of a header line, without spaces around it; NULL when the line has another name. */
static const char *header_value(const char *line, size_t len, const char *name, size_t *value_len)
{
    size_t n = strlen(name);
    const char *end = line + len;

    if (len <= n || line[n] != ':' || strncasecmp(line, name, n) != 0) {
        return NULL;
    }
    for (line += n + 1; line < end && (*line == ' ' || *line == '\t'); line++) {
    }
    while (end > line && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    *value_len = (size_t)(end - line);
    return line;
}

/* Whether a comma-separated list holds the token, in any case of letters. */
static bool list_has(const char *value, size_t len, const char *token)
{
    const char *end = value + len;
    size_t n = strlen(token);

    while (value < end) {
        const char *comma = memchr(value, ',', (size_t)(end - value));
        const char *stop = comma ? comma : end, *last = stop;

        while (value < last && (*value == ' ' || *value == '\t')) {
            value++;
        }
        while (last > value && (last[-1] == ' ' || last[-1] == '\t')) {
            last--;
        }
        if ((size_t)(last - value) == n && strncasecmp(value, token, n) == 0) {
            return true;
        }
        value = stop + 1;
    }
    return false;
}

struct answer {
    bool upgrade, connection, accept, extension, protocol_wrong;
};

static void read_header_line(struct answer *answer, const char *line, size_t len, const char *accept)
{
    const char *value;
    size_t n = 0;

    if ((value = header_value(line, len, "Upgrade", &n))) {
        answer->upgrade = list_has(value, n, "websocket");
    } else if ((value = header_value(line, len, "Connection", &n))) {
        answer->connection = answer->connection || list_has(value, n, "upgrade");
    } else if ((value = header_value(line, len, "Sec-WebSocket-Accept", &n))) {
        answer->accept = n == strlen(accept) && memcmp(value, accept, n) == 0;
    } else if ((value = header_value(line, len, "Sec-WebSocket-Extensions", &n))) {
        answer->extension = n > 0;
    } else if ((value = header_value(line, len, "Sec-WebSocket-Protocol", &n))) {
        answer->protocol_wrong = n != sizeof SUBPROTOCOL - 1 || memcmp(value, SUBPROTOCOL, n) != 0;
    }
}

static int read_status(const char *bytes, size_t len, char why[SV_WS_WHY])
{
    if (len < 12 || memcmp(bytes, "HTTP/1.1 ", 9) != 0) {
        snprintf(why, SV_WS_WHY, "the server does not speak HTTP/1.1");
        return SV_E_PROTOCOL;
    }
    if (memcmp(bytes + 9, "101", 3) != 0) {
        snprintf(why, SV_WS_WHY, "the server answered HTTP %d instead of a WebSocket upgrade", atoi(bytes + 9));
        return SV_E_REFUSED;
    }
    return 0;
}

static int read_lines(const char *bytes, size_t len, const char *key, char why[SV_WS_WHY])
{
    struct answer answer = { 0 };
    char accept[32];
    const char *line = bytes, *end = bytes + len;

    expected_accept(accept, key);
    while (line < end) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t n = stop ? (size_t)(stop - line) : (size_t)(end - line);

        read_header_line(&answer, line, n && line[n - 1] == '\r' ? n - 1 : n, accept);
        line += n + 1;
    }
    if (!answer.upgrade || !answer.connection || !answer.accept || answer.extension || answer.protocol_wrong) {
        snprintf(why, SV_WS_WHY, "the server's WebSocket upgrade is not valid");
        return SV_E_PROTOCOL;
    }
    return 0;
}

int sv_ws_read_answer(const char *bytes, size_t len, const char *key, char why[SV_WS_WHY])
{
    const char *end = memmem(bytes, len, "\r\n\r\n", 4);
    int error;

    if (!end) {
        if (len >= SV_WS_ANSWER_MAX) {
            snprintf(why, SV_WS_WHY, "the server's answer has no end");
            return SV_E_PROTOCOL;
        }
        return 0;
    }
    error = read_status(bytes, len, why);
    if (!error) {
        error = read_lines(bytes, (size_t)(end - bytes), key, why);
    }
    return error ? error : (int)(end - bytes) + 4;
}
