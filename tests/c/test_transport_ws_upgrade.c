/* The client's upgrade: the request's form, and answers right, wrong, huge, and in pieces. */
#include "transport/ws_upgrade.h"

#include <smartvpn/base.h>
#include <stdlib.h>

#include "tests/c/check.h"

/* RFC 6455, section 1.3. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
#define STATUS "HTTP/1.1 101 Switching Protocols\r\n"
#define UPGRADE "Upgrade: websocket\r\nConnection: Upgrade\r\n"
#define PROTOCOL "Sec-WebSocket-Protocol: smartvpn.v1\r\n"

static int read_bytes(const char *bytes, size_t len, char why[SV_WS_WHY])
{
    char *copy = malloc(len ? len : 1);
    int n;

    memcpy(copy, bytes, len);
    n = sv_ws_read_answer(copy, len, KEY, why);
    free(copy);
    return n;
}

static int read_text(const char *text)
{
    char why[SV_WS_WHY];

    return read_bytes(text, strlen(text), why);
}

static void check_refused(const char *text, int error, const char *words)
{
    char why[SV_WS_WHY] = "";

    CHECK_EQ(read_bytes(text, strlen(text), why), error);
    CHECK_STR(why, words);
}

static void the_request_has_its_lines(void)
{
    char request[SV_WS_REQUEST_MAX], key[SV_WS_KEY + 1], expected[SV_WS_REQUEST_MAX];
    size_t n = sv_ws_write_request(request, key, "hub.example:8443", "/some/path?query=1");

    CHECK_EQ(strlen(key), SV_WS_KEY);
    snprintf(expected, sizeof expected,
             "GET /some/path?query=1 HTTP/1.1\r\nHost: hub.example:8443\r\nUpgrade: websocket\r\n"
             "Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n" PROTOCOL "\r\n",
             key);
    CHECK_STR(request, expected);
    CHECK_EQ(n, strlen(expected));
}

static void each_request_has_another_key(void)
{
    char request[SV_WS_REQUEST_MAX], one[SV_WS_KEY + 1], other[SV_WS_KEY + 1];

    sv_ws_write_request(request, one, "hub", "/");
    sv_ws_write_request(request, other, "hub", "/");
    CHECK(strcmp(one, other) != 0);
}

static void a_key_is_16_bytes_in_base64(void)
{
    CHECK(sv_ws_is_key(KEY));
    CHECK(sv_ws_is_key("AAAAAAAAAAAAAAAAAAAAAA=="));
    CHECK(sv_ws_is_key("++++++++++++++++/////w=="));
    CHECK(!sv_ws_is_key(""));
    CHECK(!sv_ws_is_key("AAAAAAAAAAAAAAAAAAAAAB=="));
    CHECK(!sv_ws_is_key("AAAAAAAAAAAAAAAAAAAAAAA="));
    CHECK(!sv_ws_is_key("AAAAAAAAAAAAAAAAAAAAAAAA"));
    CHECK(!sv_ws_is_key("AAAAAAAAAAAAAAAAAAAAAA==A"));
    CHECK(!sv_ws_is_key("AAAAAAAAAAA-AAAAAAAAAA=="));
}

static void a_request_cannot_be_injected(void)
{
    static const char *const bad[] = {"/a b", "/\r\nX: y", "/\n", "/\t", "/\x7F", "/\x01"};
    char request[SV_WS_REQUEST_MAX], key[SV_WS_KEY + 1], path[SV_WS_REQUEST_MAX + 1];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(sv_ws_write_request(request, key, "hub", bad[i]), 0);
        CHECK_EQ(sv_ws_write_request(request, key, bad[i], "/"), 0);
    }
    memset(path, 'x', SV_WS_REQUEST_MAX);
    path[SV_WS_REQUEST_MAX] = '\0';
    CHECK_EQ(sv_ws_write_request(request, key, "hub", path), 0);
}

static void a_right_answer_is_taken(void)
{
    static const char *const right[] = {
        STATUS UPGRADE ACCEPT "\r\n",
        STATUS UPGRADE ACCEPT PROTOCOL "\r\n",
        STATUS "X: 1\r\nX\r\n: y\r\n" ACCEPT UPGRADE "Server: nginx\r\n\r\n",
        "HTTP/1.1 101\r\nUPGRADE:WebSocket\r\nconnection:keep-alive ,\tuPGRADE \r\n" ACCEPT "\r\n",
        STATUS "Upgrade:\t websocket \t\r\nConnection: close\r\nConnection: upgrade\r\n" ACCEPT "\r\n",
        STATUS UPGRADE ACCEPT "Sec-WebSocket-Extensions:\r\n\r\n",
    };

    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        CHECK_EQ(read_text(right[i]), strlen(right[i]));
    }
}

/* No piece is enough before the empty line; frames behind it are not the answer's. */
static void an_answer_may_come_byte_by_byte(void)
{
    static const char text[] = STATUS UPGRADE ACCEPT PROTOCOL "\r\n\x82\x01x\r\n\r\n";
    size_t end = sizeof text - 1 - 7;
    char why[SV_WS_WHY];

    for (size_t n = 0; n < end; n++) {
        CHECK_EQ(read_bytes(text, n, why), 0);
    }
    for (size_t n = end; n < sizeof text; n++) {
        CHECK_EQ(read_bytes(text, n, why), end);
    }
}

static void a_wrong_answer_is_refused(void)
{
    static const char *const wrong[] = {
        STATUS UPGRADE "\r\n",
        STATUS UPGRADE "Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        STATUS UPGRADE "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo\r\n\r\n",
        STATUS UPGRADE "Sec-WebSocket-Accept:\r\n\r\n",
        STATUS UPGRADE "X-Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        STATUS UPGRADE ACCEPT "Sec-WebSocket-Accept: other\r\n\r\n",
        STATUS "Upgrade: websocket\r\n" ACCEPT "\r\n",
        STATUS "Connection: upgrade\r\n" ACCEPT "\r\n",
        STATUS "Connection: upgraded\r\nUpgrade: websocket\r\n" ACCEPT "\r\n",
        STATUS "Upgrade: h2c\r\nConnection: Upgrade\r\n" ACCEPT "\r\n",
        STATUS UPGRADE ACCEPT "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        STATUS UPGRADE ACCEPT "Sec-WebSocket-Protocol: other\r\n\r\n",
        STATUS UPGRADE ACCEPT "Sec-WebSocket-Protocol: Smartvpn.v1\r\n\r\n",
        STATUS "\r\n",
    };

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        check_refused(wrong[i], SV_E_PROTOCOL, "the server's WebSocket upgrade is not valid");
    }
}

static void another_status_is_told(void)
{
    static const char *const none[] = {"HTTP/1.0 101 X\r\n" UPGRADE ACCEPT "\r\n", "SSH-2.0-OpenSSH\r\n\r\n",
                                       "\r\n\r\n", "HTTP/1.1\r\n\r\n", "HTTP/2 101 Switching\r\n\r\n"};

    check_refused("HTTP/1.1 404 Not Found\r\n\r\n", SV_E_REFUSED,
                  "the server answered HTTP 404 instead of a WebSocket upgrade");
    check_refused("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello", SV_E_REFUSED,
                  "the server answered HTTP 502 instead of a WebSocket upgrade");
    check_refused("HTTP/1.1 200 OK\r\n" UPGRADE ACCEPT "\r\n", SV_E_REFUSED,
                  "the server answered HTTP 200 instead of a WebSocket upgrade");
    check_refused("HTTP/1.1 1011 Odd\r\n" UPGRADE ACCEPT "\r\n", SV_E_PROTOCOL,
                  "the server does not speak HTTP/1.1");
    check_refused("HTTP/1.1 abc Odd\r\n\r\n", SV_E_PROTOCOL, "the server does not speak HTTP/1.1");
    check_refused("HTTP/1.1 99999999999 Odd\r\n\r\n", SV_E_PROTOCOL, "the server does not speak HTTP/1.1");
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        check_refused(none[i], SV_E_PROTOCOL, "the server does not speak HTTP/1.1");
    }
}

/* What is clearly no HTTP is refused at once, not when the time is up. */
static void what_is_no_http_is_refused_early(void)
{
    check_refused("SSH-2.0-OpenSSH_9.2\r\n", SV_E_PROTOCOL, "the server does not speak HTTP/1.1");
    check_refused("\x15\x03\x03", SV_E_PROTOCOL, "the server does not speak HTTP/1.1");
}

static void an_answer_has_a_greatest_length(void)
{
    static char huge[2 * SV_WS_ANSWER_MAX];
    size_t head = strlen(STATUS UPGRADE ACCEPT "X: ");
    char why[SV_WS_WHY];

    memset(huge, 'x', sizeof huge);
    memcpy(huge, STATUS UPGRADE ACCEPT "X: ", head);
    CHECK_EQ(read_bytes(huge, SV_WS_ANSWER_MAX - 1, why), 0);
    CHECK_EQ(read_bytes(huge, SV_WS_ANSWER_MAX, why), SV_E_PROTOCOL);
    CHECK_STR(why, "the server's answer has no end");
    memcpy(huge + SV_WS_ANSWER_MAX - 4, "\r\n\r\n", 4);
    CHECK_EQ(read_bytes(huge, SV_WS_ANSWER_MAX, why), SV_WS_ANSWER_MAX);
    memcpy(huge + SV_WS_ANSWER_MAX - 4, "xx\r\n\r\n", 6);
    CHECK_EQ(read_bytes(huge, sizeof huge, why), SV_E_PROTOCOL);
}

static void zeros_are_only_bytes(void)
{
    static const char text[] = STATUS UPGRADE "X: \0\0\r\n\0: y\r\n" ACCEPT "\r\n";
    char why[SV_WS_WHY];

    CHECK_EQ(read_bytes(text, sizeof text - 1, why), sizeof text - 1);
}

int main(void)
{
    RUN(the_request_has_its_lines);
    RUN(each_request_has_another_key);
    RUN(a_key_is_16_bytes_in_base64);
    RUN(a_request_cannot_be_injected);
    RUN(a_right_answer_is_taken);
    RUN(an_answer_may_come_byte_by_byte);
    RUN(a_wrong_answer_is_refused);
    RUN(another_status_is_told);
    RUN(what_is_no_http_is_refused_early);
    RUN(an_answer_has_a_greatest_length);
    RUN(zeros_are_only_bytes);
    return CHECK_DONE("test_transport_ws_upgrade");
}
