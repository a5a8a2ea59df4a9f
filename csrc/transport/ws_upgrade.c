#include "transport/ws_upgrade.h"

#include <openssl/evp.h>
#include <smartvpn/base.h>
#include <stdbool.h>
#include <stdio.h>
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

bool sv_ws_is_key(const char *key)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    enum { DIGITS = 22 };

    /* The last digit holds two bits that are used. */
    return strlen(key) == SV_WS_KEY && strspn(key, digits) == DIGITS && strchr("AQgw", key[DIGITS - 1]) &&
           strcmp(key + DIGITS, "==") == 0;
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

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "HTTP/1.1 101", then a space or the line's end; as much of it as there is must be right. */
static int read_status(const char *bytes, size_t len, char why[SV_WS_WHY])
{
    static const char version[] = "HTTP/1.1 ";
    size_t n = sizeof version - 1;
    bool whole = len > n + 3;

    if (memcmp(bytes, version, len < n ? len : n) != 0 ||
        (whole && (!is_digit(bytes[n]) || !is_digit(bytes[n + 1]) || !is_digit(bytes[n + 2]) ||
                   (bytes[n + 3] != ' ' && bytes[n + 3] != '\r')))) {
        snprintf(why, SV_WS_WHY, "the server does not speak HTTP/1.1");
        return SV_E_PROTOCOL;
    }
    if (whole && memcmp(bytes + n, "101", 3) != 0) {
        snprintf(why, SV_WS_WHY, "the server answered HTTP %.3s instead of a WebSocket upgrade", bytes + n);
        return SV_E_REFUSED;
    }
    return 0;
}

static int read_lines(const char *bytes, size_t len, const char *key, char why[SV_WS_WHY])
{
    struct answer answer = {0};
    char accept[32];
    const char *line = bytes, *end = bytes + len;

    expected_accept(accept, key);
    while (line < end) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t n = stop ? (size_t)(stop - line) : (size_t)(end - line);

        read_header_line(&answer, line, n && line[n - 1] == '\r' ? n - 1 : n, accept);
        line += n + 1;
    }
    if (!answer.upgrade || !answer.connection || !answer.accept || answer.extension ||
        answer.protocol_wrong) {
        snprintf(why, SV_WS_WHY, "the server's WebSocket upgrade is not valid");
        return SV_E_PROTOCOL;
    }
    return 0;
}

int sv_ws_read_answer(const char *bytes, size_t len, const char *key, char why[SV_WS_WHY])
{
    size_t seen = len < SV_WS_ANSWER_MAX ? len : SV_WS_ANSWER_MAX;
    const char *end = memmem(bytes, seen, "\r\n\r\n", 4);
    int error = read_status(bytes, seen, why);

    if (!error && end) {
        error = read_lines(bytes, (size_t)(end - bytes), key, why);
    } else if (!error && seen == SV_WS_ANSWER_MAX) {
        snprintf(why, SV_WS_WHY, "the server's answer has no end");
        error = SV_E_PROTOCOL;
    }
    return error || !end ? error : (int)(end - bytes) + 4;
}
