/* What a stranger sends before there is a session: the upgrade's answer, WebSocket frames, a PROXY header, X-Forwarded-For. However the bytes are cut, the
 * verdict is the same, and nothing outside them is read. The first byte chooses the parser.
 */
#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

#include "transport/proxy_header.h"
#include "transport/ws_forwarded.h"
#include "transport/ws_frame.h"
#include "transport/ws_upgrade.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==";

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

/* The first len bytes, alone on the heap. */
static uint8_t *copy_of(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);

    memcpy(copy, bytes, len);
    return copy;
}

static int read_answer(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = copy_of(bytes, len);
    char why[SV_WS_WHY] = "";
    int n = sv_ws_read_answer((const char *)copy, len, KEY, why);

    require(n >= 0 ? (size_t)n <= len
                   : (n == SV_E_PROTOCOL || n == SV_E_REFUSED) && *why && memchr(why, '\0', SV_WS_WHY));
    free(copy);
    return n;
}

/* The first verdict is the last: an answer is taken at one length and at all greater ones; a refusal stays. */
static void fuzz_answer(const uint8_t *bytes, size_t size)
{
    size_t step = size / 64 + 1;
    int decided = 0;

    for (size_t len = 0; len <= size; len += step) {
        int n = read_answer(bytes, len);

        require(!decided || n == decided);
        decided = n;
    }
    require(decided != 0 || size < SV_WS_ANSWER_MAX + step);
}

static void fuzz_frames(const uint8_t *bytes, size_t size)
{
    while (size) {
        struct sv_ws_header header;
        uint8_t *copy = copy_of(bytes, size);
        int n = sv_ws_read_header(&header, copy, size, false);

        free(copy);
        require(n >= 0 ? (size_t)n <= size && n <= 10 : n == SV_E_PROTOCOL);
        if (n <= 0 || header.payload_len > size - (size_t)n) {
            return;
        }
        require(header.opcode < SV_WS_CLOSE || (header.fin && header.payload_len <= SV_WS_CONTROL_MAX));
        bytes += (size_t)n + header.payload_len;
        size -= (size_t)n + header.payload_len;
    }
}

/* What is wrapped here, unmasked as RFC 6455 section 5.3 says, is what it was. */
static void fuzz_wrap(const uint8_t *bytes, size_t size)
{
    uint8_t *memory = malloc(SV_WS_HEADER_MAX + size), *payload = memory + SV_WS_HEADER_MAX;

    memcpy(payload, bytes, size);
    require(sv_ws_wrap(payload, size, SV_WS_BINARY, true) <= SV_WS_HEADER_MAX);
    for (size_t i = 0; i < size; i++) {
        require((uint8_t)(payload[i] ^ payload[-4 + (int)(i % 4)]) == bytes[i]);
    }
    free(memory);
}

static void fuzz_proxy(const uint8_t *bytes, size_t size)
{
    enum sv_proxy_verdict decided = SV_PROXY_MORE;
    size_t length = 0, most = size < SV_PROXY_HEADER_MAX ? size : SV_PROXY_HEADER_MAX;

    for (size_t len = 0; len <= most; len += len < 128 ? 1 : 37) {
        struct sv_proxy_header header;
        uint8_t *copy = copy_of(bytes, len);
        enum sv_proxy_verdict verdict = sv_proxy_header_read(&header, copy, len);

        free(copy);
        require(decided == SV_PROXY_MORE ||
                (verdict == decided && (verdict == SV_PROXY_BAD || header.length == length)));
        require(verdict != SV_PROXY_MORE || (header.length > len && header.length <= SV_PROXY_HEADER_MAX));
        require(verdict != SV_PROXY_HEADER || (header.length && header.length <= len));
        decided = verdict;
        length = header.length;
    }
}

/* What is said to be the source is unchanged or stands in the list, and behind it stand only trusted proxies: who
 * trusts one more can only see further to the left. */
static void fuzz_forwarded(const uint8_t *bytes, size_t size)
{
    static const uint8_t peer[16] = {[0] = 0xFD, [15] = 9};
    struct sv_prefix proxies[2] = {{.bits = 104, .addr = {[10] = 0xFF, [11] = 0xFF, [12] = 10}}, {.bits = 0}};
    uint8_t none[16], some[16], all[16];
    char *list;
    bool known;

    memcpy(none, peer, 16);
    memcpy(some, peer, 16);
    memcpy(all, peer, 16);
    list = strndup((const char *)bytes, size);
    known = sv_ws_forwarded_source(none, list, NULL, 0);
    free(list);
    require(known || memcmp(none, peer, 16) == 0);
    list = strndup((const char *)bytes, size);
    require(sv_ws_forwarded_source(some, list, proxies, 1) == known);
    free(list);
    require(memcmp(some, none, 16) == 0 || sv_ws_is_trusted(proxies, 1, none));
    list = strndup((const char *)bytes, size);
    require(sv_ws_forwarded_source(all, list, proxies, 2) == known);
    free(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const parsers[])(const uint8_t *, size_t) = {fuzz_answer, fuzz_frames, fuzz_wrap,
                                                               fuzz_proxy, fuzz_forwarded};

    if (size) {
        parsers[data[0] % 5](data + 1, size - 1);
    }
    return 0;
}
