/* The cross-platform configuration interface as text (wireguard.com/xplatform): what `wg` says to a device and reads from it. */
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <smartvpn/wg.h>

#include "base/error.h"
#include "engine/wg.h"

enum { LINE_MAX_BYTES = 1024 };

/* ---- a request, read whole before anything is changed ---- */

struct prefix_change {
    struct sv_prefix prefix;
    bool remove;
};

struct peer_change {
    struct peer_change *next;
    uint8_t public_key[SV_KEY], psk[SV_KEY];
    struct sv_endpoint endpoint;
    bool remove, update_only, replace_allowed, has_psk, has_endpoint, has_persistent;
    uint16_t persistent_secs;
    struct prefix_change *prefixes;
    size_t prefix_count, prefix_room;
};

struct change {
    bool has_key, has_port, has_mark, replace_peers;
    uint8_t private_key[SV_KEY];
    uint16_t port;
    uint32_t mark;
    struct peer_change *peers, *last;
};

static void clear_change(struct change *change)
{
    struct peer_change *peer = change->peers, *next;

    for (; peer; peer = next) {
        next = peer->next;
        free(peer->prefixes);
        sv_wipe(peer, sizeof *peer);
        free(peer);
    }
    sv_wipe(change, sizeof *change);
}

/* ---- values ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static int parse_key(uint8_t key[SV_KEY], const char *text)
{
    if (strlen(text) != 2 * (size_t)SV_KEY) {
        return -EINVAL;
    }
    for (size_t i = 0; i < SV_KEY; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0) {
            return -EINVAL;
        }
        key[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static int parse_number(uint32_t *number, const char *text, uint32_t most, int base)
{
    unsigned long long value;
    char *end;

    if (hex_digit(text[0]) < 0) {
        return -EINVAL; /* strtoull would take a sign or a space */
    }
    errno = 0;
    value = strtoull(text, &end, base);
    if (errno || *end || value > most) {
        return -EINVAL;
    }
    *number = (uint32_t)value;
    return 0;
}

static int parse_true(bool *flag, const char *text)
{
    *flag = strcmp(text, "true") == 0;
    return *flag ? 0 : -EINVAL;
}

int sv_wg_parse_endpoint(struct sv_endpoint *endpoint, const char *text)
{
    const struct addrinfo hints = {
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_DGRAM, .ai_protocol = IPPROTO_UDP};
    const char *colon = strrchr(text, ':');
    struct addrinfo *found;
    char host[LINE_MAX_BYTES];
    bool bracket = text[0] == '[';
    size_t len;
    uint32_t port;

    if (!colon || parse_number(&port, colon + 1, UINT16_MAX, 10) || port == 0) {
        return SV_E_INVALID;
    }
    len = (size_t)(colon - text);
    if (bracket && (len < 3 || text[len - 1] != ']')) {
        return SV_E_INVALID;
    }
    snprintf(host, sizeof host, "%.*s", (int)(bracket ? len - 2 : len), text + bracket);
    if (bracket != (strchr(host, ':') != NULL) || getaddrinfo(host, colon + 1, &hints, &found)) {
        return SV_E_INVALID;
    }
    *endpoint = (struct sv_endpoint){0};
    memcpy(&endpoint->to, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return 0;
}

static int add_prefix(struct peer_change *peer, const char *text)
{
    struct prefix_change *entry;

    if (peer->prefix_count == peer->prefix_room) {
        size_t room = peer->prefix_room ? 2 * peer->prefix_room : 8;
        struct prefix_change *grown = reallocarray(peer->prefixes, room, sizeof *grown);

        if (!grown) {
            return -ENOMEM;
        }
        peer->prefixes = grown;
        peer->prefix_room = room;
    }
    entry = &peer->prefixes[peer->prefix_count];
    entry->remove = text[0] == '-';
    text += entry->remove;
    if (text[0] == '+') {
        text++;
    }
    if (sv_prefix_parse(&entry->prefix, text)) {
        return -EINVAL;
    }
    peer->prefix_count++;
    return 0;
}

/* ---- lines ---- */

static int begin_peer(struct change *change, const char *value)
{
    struct peer_change *peer = calloc(1, sizeof *peer);

    if (!peer) {
        return -ENOMEM;
    }
    if (parse_key(peer->public_key, value)) {
        free(peer);
        return -EINVAL;
    }
    *(change->last ? &change->last->next : &change->peers) = peer;
    change->last = peer;
    return 0;
}

static int device_line(struct change *change, const char *key, const char *value)
{
    uint32_t number = 0;
    int error;

    if (strcmp(key, "private_key") == 0) {
        change->has_key = true;
        return parse_key(change->private_key, value);
    }
    if (strcmp(key, "listen_port") == 0) {
        error = parse_number(&number, value, UINT16_MAX, 10);
        change->has_port = true;
        change->port = (uint16_t)number;
        return error;
    }
    if (strcmp(key, "fwmark") == 0) {
        change->has_mark = true;
        return value[0] ? parse_number(&change->mark, value, UINT32_MAX, 0) : 0;
    }
    if (strcmp(key, "replace_peers") == 0) {
        return parse_true(&change->replace_peers, value);
    }
    return -EINVAL;
}

static int peer_line(struct peer_change *peer, const char *key, const char *value)
{
    uint32_t number = 0;
    int error;

    if (strcmp(key, "allowed_ip") == 0) {
        return add_prefix(peer, value);
    }
    if (strcmp(key, "remove") == 0) {
        return parse_true(&peer->remove, value);
    }
    if (strcmp(key, "update_only") == 0) {
        return parse_true(&peer->update_only, value);
    }
    if (strcmp(key, "preshared_key") == 0) {
        peer->has_psk = true;
        return parse_key(peer->psk, value);
    }
    if (strcmp(key, "endpoint") == 0) {
        peer->has_endpoint = true;
        return sv_wg_parse_endpoint(&peer->endpoint, value) ? -EINVAL : 0;
    }
    if (strcmp(key, "persistent_keepalive_interval") == 0) {
        error = parse_number(&number, value, UINT16_MAX, 10);
        peer->has_persistent = true;
        peer->persistent_secs = (uint16_t)number;
        return error;
    }
    if (strcmp(key, "replace_allowed_ips") == 0) {
        return parse_true(&peer->replace_allowed, value);
    }
    return strcmp(key, "protocol_version") == 0 && strcmp(value, "1") == 0 ? 0 : -EINVAL;
}

static int one_line(struct change *change, char *line)
{
    char *value = strchr(line, '=');

    if (!value) {
        return -EINVAL;
    }
    *value++ = '\0';
    if (strcmp(line, "public_key") == 0) {
        return begin_peer(change, value);
    }
    return change->last ? peer_line(change->last, line, value) : device_line(change, line, value);
}

static int parse(struct change *change, const char *text, size_t len)
{
    char line[LINE_MAX_BYTES];
    int error = 0;

    while (len && !error) {
        const char *newline = memchr(text, '\n', len);
        size_t n = newline ? (size_t)(newline - text) : len;

        if (n >= sizeof line || memchr(text, '\0', n)) {
            error = -EINVAL;
        } else if (n) {
            memcpy(line, text, n);
            line[n] = '\0';
            error = one_line(change, line);
        }
        n += newline != NULL;
        text += n;
        len -= n;
    }
    sv_wipe(line, sizeof line);
    return error;
}

/* ---- taking effect; under the lock ---- */

static int to_errno(int status)
{
    switch (status) {
    case 0:
        return 0;
    case SV_E_NOMEM:
        return -ENOMEM;
    case SV_E_IN_USE:
        return -EADDRINUSE;
    case SV_E_PERMISSION:
        return -EPERM;
    default:
        return -EIO;
    }
}

static int apply_prefixes(struct sv_wg_member *member, const struct peer_change *peer)
{
    int error = 0;

    if (peer->replace_allowed) {
        sv_wg_disallow_all(member);
    }
    for (size_t i = 0; i < peer->prefix_count && !error; i++) {
        if (peer->prefixes[i].remove) {
            sv_wg_disallow(member, &peer->prefixes[i].prefix);
        } else {
            error = sv_wg_allow(member, &peer->prefixes[i].prefix);
        }
    }
    return error;
}

static int apply_peer(struct sv_wg *wg, const struct peer_change *peer)
{
    struct sv_wg_self *self = atomic_load(&wg->self);
    struct sv_wg_member *member = sv_wg_find(wg, peer->public_key);
    int error = 0;

    if (peer->remove) {
        if (member) {
            sv_wg_remove(wg, member);
        }
        return 0;
    }
    if ((!member && peer->update_only) ||
        (self && memcmp(self->identity.public_key, peer->public_key, SV_KEY) == 0)) {
        return 0; /* nobody is his own peer */
    }
    if (!member) {
        member = sv_wg_add(wg, peer->public_key);
    }
    if (!member) {
        return SV_E_NOMEM;
    }
    if (peer->has_psk) {
        error = sv_wg_set_psk(member, peer->psk);
    }
    if (peer->has_endpoint && !error) {
        error = sv_wg_set_endpoint(member, &peer->endpoint);
    }
    if (!error) {
        error = apply_prefixes(member, peer);
    }
    if (peer->has_persistent && !error) {
        sv_wg_set_persistent(member, peer->persistent_secs);
    }
    return error;
}

/* What can be refused comes first, so that a refusal leaves all as it was. */
static int apply(struct sv_wg *wg, const struct change *change)
{
    uint32_t mark_before = wg->mark;
    int error = change->has_mark ? sv_wg_set_mark(wg, change->mark) : 0;

    if (change->has_port && !error) {
        error = sv_wg_set_port(wg, change->port);
        if (error && change->has_mark) {
            sv_wg_set_mark(wg, mark_before);
        }
    }
    if (change->has_key && !error) {
        error = sv_wg_set_private_key(wg, change->private_key);
    }
    if (change->replace_peers && !error) {
        while (wg->members) {
            sv_wg_remove(wg, wg->members);
        }
    }
    for (const struct peer_change *peer = change->peers; peer && !error; peer = peer->next) {
        error = apply_peer(wg, peer);
    }
    return to_errno(error);
}

int sv_wg_set(sv_engine *engine, const char *text, size_t len)
{
    struct change change = {0};
    int error = parse(&change, text, len);

    if (!error) {
        sv_wg_lock(engine->wg);
        error = apply(engine->wg, &change);
        sv_wg_unlock(engine->wg);
    }
    clear_change(&change);
    return error;
}

/* ---- the answer to get=1 ---- */

struct text {
    char *bytes;
    size_t len, room;
    bool failed;
};

/* Keys are in it: what is outgrown is wiped. */
static void grow(struct text *text, size_t more)
{
    size_t room = text->room ? 2 * text->room : 4096;
    char *bytes;

    while (room - text->len < more) {
        room *= 2;
    }
    bytes = malloc(room);
    if (!bytes) {
        text->failed = true;
        return;
    }
    memcpy(bytes, text->bytes ? text->bytes : "", text->len);
    sv_wg_text_free(text->bytes, text->len);
    text->bytes = bytes;
    text->room = room;
}

static void put(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct text *text, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (text->room - text->len < (size_t)n + 1) {
        grow(text, (size_t)n + 1);
    }
    if (!text->failed) {
        memcpy(text->bytes + text->len, line, (size_t)n + 1);
        text->len += (size_t)n;
    }
}

static void put_key(struct text *text, const char *name, const uint8_t key[SV_KEY])
{
    static const char digits[] = "0123456789abcdef";
    char hex[2 * SV_KEY + 1];

    for (size_t i = 0; i < SV_KEY; i++) {
        hex[2 * i] = digits[key[i] >> 4];
        hex[2 * i + 1] = digits[key[i] & 15];
    }
    hex[2 * SV_KEY] = '\0';
    put(text, "%s=%s\n", name, hex);
    sv_wipe(hex, sizeof hex);
}

static void put_endpoint(struct text *text, const struct sv_endpoint *endpoint)
{
    bool v4 = endpoint->to.any.sa_family == AF_INET;
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getnameinfo(&endpoint->to.any, v4 ? sizeof endpoint->to.in4 : sizeof endpoint->to.in6, host,
                    sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        put(text, v4 ? "endpoint=%s:%s\n" : "endpoint=[%s]:%s\n", host, port);
    }
}

static void put_member(struct text *text, const struct sv_wg_member *member)
{
    const struct sv_wg_path *path = atomic_load(&member->path);
    uint64_t at = member->peer.handshake_unix_ns;
    char prefix[64];

    put_key(text, "public_key", member->peer.public_key);
    put_key(text, "preshared_key", sv_wg_psk(&member->peer));
    put(text, "protocol_version=1\n");
    if (path) {
        put_endpoint(text, &path->to);
    }
    put(text, "last_handshake_time_sec=%" PRIu64 "\nlast_handshake_time_nsec=%" PRIu64 "\n", at / SV_NS_PER_S,
        at % SV_NS_PER_S);
    put(text, "tx_bytes=%" PRIu64 "\nrx_bytes=%" PRIu64 "\npersistent_keepalive_interval=%u\n",
        (uint64_t)atomic_load(&member->bytes_out), (uint64_t)atomic_load(&member->bytes_in),
        member->peer.persistent_secs);
    for (const struct sv_wg_allowed *allowed = member->allowed; allowed; allowed = allowed->next) {
        put(text, "allowed_ip=%s\n", sv_prefix_format(prefix, sizeof prefix, &allowed->prefix));
    }
}

int sv_wg_get(sv_engine *engine, char **bytes, size_t *len)
{
    struct sv_wg *wg = engine->wg;
    struct sv_wg_self *self;
    struct text text = {0};

    sv_wg_lock(wg);
    self = atomic_load(&wg->self);
    if (self) {
        put_key(&text, "private_key", self->identity.private_key);
    }
    put(&text, "listen_port=%u\n", wg->port);
    if (wg->mark) {
        put(&text, "fwmark=%" PRIu32 "\n", wg->mark);
    }
    for (const struct sv_wg_member *member = wg->members; member && !text.failed; member = member->next) {
        put_member(&text, member);
    }
    sv_wg_unlock(wg);
    if (text.failed) {
        sv_wg_text_free(text.bytes, text.len);
        return -ENOMEM;
    }
    *bytes = text.bytes;
    *len = text.len;
    return 0;
}

void sv_wg_text_free(char *bytes, size_t len)
{
    if (bytes) {
        sv_wipe(bytes, len);
        free(bytes);
    }
}
