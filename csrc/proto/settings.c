#include "proto/settings.h"

#include <string.h>

#include <smartvpn/base.h>

#include "base/bytes.h"

enum {
    TAG_CAPABILITIES = 0x01,
    TAG_SOFTWARE = 0x02,
    TAG_RESUME = 0x03,
    TAG_INSTANCE = 0x04,
    TAG_SESSION_ID = 0x10,
    TAG_ADDRESS4 = 0x11,
    TAG_ADDRESS6 = 0x12,
    TAG_GATEWAY4 = 0x13,
    TAG_GATEWAY6 = 0x14,
    TAG_MTU = 0x15,
    TAG_DNS = 0x16,
    TAG_KEEPALIVE = 0x17,
    TAG_REKEY = 0x18,
    TAG_RESUME_LIFETIME = 0x19,
    TAG_ROUTE = 0x1A,

    TAG_HEADER = 3,
    TAG_COUNT = 0x1B,
};

#define BIT(tag) (1u << (tag))

static const uint32_t hello_once = BIT(TAG_CAPABILITIES) | BIT(TAG_SOFTWARE) | BIT(TAG_RESUME) |
                                   BIT(TAG_INSTANCE);
static const uint32_t settings_once = BIT(TAG_CAPABILITIES) | BIT(TAG_SOFTWARE) | BIT(TAG_SESSION_ID) |
                                      BIT(TAG_ADDRESS4) | BIT(TAG_ADDRESS6) | BIT(TAG_GATEWAY4) |
                                      BIT(TAG_GATEWAY6) | BIT(TAG_MTU) | BIT(TAG_KEEPALIVE) | BIT(TAG_REKEY) |
                                      BIT(TAG_RESUME_LIFETIME);
static const uint32_t settings_repeats = BIT(TAG_DNS) | BIT(TAG_ROUTE);
static const uint32_t update_tags = BIT(TAG_GATEWAY4) | BIT(TAG_GATEWAY6) | BIT(TAG_MTU) | BIT(TAG_DNS) |
                                    BIT(TAG_KEEPALIVE) | BIT(TAG_REKEY) | BIT(TAG_RESUME_LIFETIME) |
                                    BIT(TAG_ROUTE);

/* ---- writing ---- */

struct writer {
    uint8_t *at, *end;
    bool full;
};

/* Room for a value of len bytes behind its tag, or NULL. */
static uint8_t *put_tag(struct writer *w, unsigned tag, size_t len)
{
    if (w->full || (size_t)(w->end - w->at) < TAG_HEADER + len) {
        w->full = true;
        return NULL;
    }
    uint8_t *value = w->at + TAG_HEADER;
    w->at[0] = (uint8_t)tag;
    sv_store16be(w->at + 1, (uint16_t)len);
    w->at = value + len;
    return value;
}

static void put(struct writer *w, unsigned tag, const void *bytes, size_t len)
{
    uint8_t *value = put_tag(w, tag, len);
    if (value && len > 0) {
        memcpy(value, bytes, len);
    }
}

static void put16(struct writer *w, unsigned tag, uint16_t number)
{
    uint8_t bytes[2];
    sv_store16be(bytes, number);
    put(w, tag, bytes, sizeof bytes);
}

static void put32(struct writer *w, unsigned tag, uint32_t number)
{
    uint8_t bytes[4];
    sv_store32be(bytes, number);
    put(w, tag, bytes, sizeof bytes);
}

static void put_software(struct writer *w, const char *software)
{
    size_t len = strnlen(software, SV_SOFTWARE_MAX);
    if (len > 0) {
        put(w, TAG_SOFTWARE, software, len);
    }
}

static void put_address(struct writer *w, unsigned tag, const struct sv_wire_addr *addr)
{
    if (addr->length > 0) {
        put(w, tag, addr->bytes, addr->length);
    }
}

static void put_address_prefix(struct writer *w, unsigned tag, const struct sv_wire_addr *addr)
{
    uint8_t *value = addr->length > 0 ? put_tag(w, tag, addr->length + 1u) : NULL;
    if (value) {
        memcpy(value, addr->bytes, addr->length);
        value[addr->length] = addr->prefix;
    }
}

static void put_route(struct writer *w, const struct sv_wire_addr *route)
{
    uint8_t *value = put_tag(w, TAG_ROUTE, route->length + 1u);
    if (value) {
        value[0] = route->prefix;
        memcpy(value + 1, route->bytes, route->length);
    }
}

/* All values that the settings have under a tag which a Settings frame may carry. */
static void put_changeable(struct writer *w, const struct sv_settings *settings, unsigned tag)
{
    switch (tag) {
    case TAG_GATEWAY4:
        put_address(w, tag, &settings->gateway4);
        break;
    case TAG_GATEWAY6:
        put_address(w, tag, &settings->gateway6);
        break;
    case TAG_MTU:
        put16(w, tag, settings->mtu);
        break;
    case TAG_DNS:
        for (size_t i = 0; i < settings->dns_count; i++) {
            put_address(w, tag, &settings->dns[i]);
        }
        break;
    case TAG_KEEPALIVE:
        if (settings->has_keepalive) {
            put16(w, tag, settings->keepalive_secs);
        }
        break;
    case TAG_REKEY:
        if (settings->has_rekey) {
            put32(w, tag, settings->rekey_secs);
        }
        break;
    case TAG_RESUME_LIFETIME:
        if (settings->has_resume_lifetime) {
            put32(w, tag, settings->resume_lifetime_secs);
        }
        break;
    case TAG_ROUTE:
        for (size_t i = 0; i < settings->route_count; i++) {
            put_route(w, &settings->routes[i]);
        }
        break;
    default:
        break;
    }
}

static size_t written(const struct writer *w, const uint8_t *dst)
{
    return w->full ? 0 : (size_t)(w->at - dst);
}

size_t sv_hello_write(const struct sv_hello *hello, uint8_t *dst, size_t cap)
{
    struct writer w = {dst, dst + cap, false};
    put32(&w, TAG_CAPABILITIES, hello->capabilities);
    put_software(&w, hello->software);
    if (hello->has_resume) {
        put(&w, TAG_RESUME, hello->resume_id, sizeof hello->resume_id);
    }
    if (hello->has_instance) {
        put(&w, TAG_INSTANCE, hello->instance, sizeof hello->instance);
    }
    return written(&w, dst);
}

size_t sv_settings_write(const struct sv_settings *settings, uint8_t *dst, size_t cap)
{
    struct writer w = {dst, dst + cap, false};
    put32(&w, TAG_CAPABILITIES, settings->capabilities);
    put_software(&w, settings->software);
    put(&w, TAG_SESSION_ID, settings->session_id, sizeof settings->session_id);
    put_address_prefix(&w, TAG_ADDRESS4, &settings->address4);
    put_address_prefix(&w, TAG_ADDRESS6, &settings->address6);
    for (unsigned tag = TAG_GATEWAY4; tag <= TAG_ROUTE; tag++) {
        put_changeable(&w, settings, tag);
    }
    return written(&w, dst);
}

size_t sv_settings_write_update(const struct sv_settings *settings, uint32_t mask, uint8_t *dst, size_t cap)
{
    struct writer w = {dst, dst + cap, false};
    for (unsigned tag = TAG_GATEWAY4; tag <= TAG_ROUTE; tag++) {
        if (!(mask >> (tag - TAG_SESSION_ID) & 1)) {
            continue;
        }
        const uint8_t *before = w.at;
        put_changeable(&w, settings, tag);
        if (w.at == before) {
            put_tag(&w, tag, 0);
        }
    }
    return written(&w, dst);
}

/* ---- reading ---- */

struct tlv {
    unsigned tag;
    const uint8_t *value;
    size_t len;
};

struct reader {
    const uint8_t *at, *end;
    uint32_t seen; /* BIT(tag) of what came so far */
    bool malformed;
};

/* false: the list ended, or is broken (then malformed is set). */
static bool next_tlv(struct reader *r, struct tlv *tlv)
{
    size_t left = (size_t)(r->end - r->at);
    if (left == 0) {
        return false;
    }
    r->malformed = left < TAG_HEADER || left - TAG_HEADER < sv_load16be(r->at + 1);
    if (r->malformed) {
        return false;
    }
    *tlv = (struct tlv){r->at[0], r->at + TAG_HEADER, sv_load16be(r->at + 1)};
    r->at = tlv->value + tlv->len;
    return true;
}

static bool in_set(uint32_t set, unsigned tag)
{
    return tag < TAG_COUNT && (set & BIT(tag)) != 0;
}

/* Notes a known tag; false when it came before. */
static bool first_time(struct reader *r, unsigned tag)
{
    bool first = !in_set(r->seen, tag);
    r->seen |= BIT(tag);
    return first;
}

static bool get16(const struct tlv *tlv, uint16_t *number)
{
    if (tlv->len != 2) {
        return false;
    }
    *number = sv_load16be(tlv->value);
    return true;
}

static bool get32(const struct tlv *tlv, uint32_t *number)
{
    if (tlv->len != 4) {
        return false;
    }
    *number = sv_load32be(tlv->value);
    return true;
}

static bool get_id(const struct tlv *tlv, uint8_t id[16])
{
    if (tlv->len != 16) {
        return false;
    }
    memcpy(id, tlv->value, 16);
    return true;
}

static bool get_software(const struct tlv *tlv, char software[SV_SOFTWARE_MAX + 1])
{
    size_t len = tlv->len < SV_SOFTWARE_MAX ? tlv->len : SV_SOFTWARE_MAX;
    memcpy(software, tlv->value, len);
    software[len] = '\0';
    return true;
}

static void set_address(struct sv_wire_addr *addr, const uint8_t *bytes, size_t length, unsigned prefix)
{
    memset(addr, 0, sizeof *addr);
    addr->length = (uint8_t)length;
    addr->prefix = (uint8_t)prefix;
    memcpy(addr->bytes, bytes, length);
}

static bool get_address(const struct tlv *tlv, size_t length, struct sv_wire_addr *addr)
{
    if (tlv->len != length) {
        return false;
    }
    set_address(addr, tlv->value, length, 0);
    return true;
}

static bool get_address_prefix(const struct tlv *tlv, size_t length, struct sv_wire_addr *addr)
{
    if (tlv->len != length + 1 || tlv->value[length] > length * 8) {
        return false;
    }
    set_address(addr, tlv->value, length, tlv->value[length]);
    return true;
}

/* More than the arrays hold is legal on the wire: the rest is left out. */
static bool get_dns(const struct tlv *tlv, struct sv_settings *settings)
{
    if (tlv->len != 4 && tlv->len != 16) {
        return false;
    }
    if (settings->dns_count < SV_SETTINGS_DNS_MAX) {
        set_address(&settings->dns[settings->dns_count++], tlv->value, tlv->len, 0);
    }
    return true;
}

static bool get_route(const struct tlv *tlv, struct sv_settings *settings)
{
    if ((tlv->len != 5 && tlv->len != 17) || tlv->value[0] > (tlv->len - 1) * 8) {
        return false;
    }
    if (settings->route_count < SV_SETTINGS_ROUTES_MAX) {
        set_address(&settings->routes[settings->route_count++], tlv->value + 1, tlv->len - 1, tlv->value[0]);
    }
    return true;
}

static bool get_rekey(const struct tlv *tlv, struct sv_settings *settings)
{
    settings->has_rekey = true;
    return get32(tlv, &settings->rekey_secs) &&
           (settings->rekey_secs == 0 || settings->rekey_secs >= SV_REKEY_MIN_SECS);
}

static bool get_changeable(const struct tlv *tlv, struct sv_settings *settings)
{
    switch (tlv->tag) {
    case TAG_GATEWAY4:
        return get_address(tlv, 4, &settings->gateway4);
    case TAG_GATEWAY6:
        return get_address(tlv, 16, &settings->gateway6);
    case TAG_MTU:
        return get16(tlv, &settings->mtu);
    case TAG_DNS:
        return get_dns(tlv, settings);
    case TAG_KEEPALIVE:
        settings->has_keepalive = true;
        return get16(tlv, &settings->keepalive_secs);
    case TAG_REKEY:
        return get_rekey(tlv, settings);
    case TAG_RESUME_LIFETIME:
        settings->has_resume_lifetime = true;
        return get32(tlv, &settings->resume_lifetime_secs);
    case TAG_ROUTE:
        return get_route(tlv, settings);
    default:
        return true;
    }
}

static bool get_setting(const struct tlv *tlv, struct sv_settings *settings)
{
    switch (tlv->tag) {
    case TAG_CAPABILITIES:
        return get32(tlv, &settings->capabilities);
    case TAG_SOFTWARE:
        return get_software(tlv, settings->software);
    case TAG_SESSION_ID:
        return get_id(tlv, settings->session_id);
    case TAG_ADDRESS4:
        return get_address_prefix(tlv, 4, &settings->address4);
    case TAG_ADDRESS6:
        return get_address_prefix(tlv, 16, &settings->address6);
    default:
        return get_changeable(tlv, settings);
    }
}

static bool get_hello(const struct tlv *tlv, struct sv_hello *hello)
{
    switch (tlv->tag) {
    case TAG_CAPABILITIES:
        return get32(tlv, &hello->capabilities);
    case TAG_SOFTWARE:
        return get_software(tlv, hello->software);
    case TAG_RESUME:
        hello->has_resume = true;
        return get_id(tlv, hello->resume_id);
    case TAG_INSTANCE:
        hello->has_instance = true;
        return get_id(tlv, hello->instance);
    default:
        return true;
    }
}

int sv_hello_read(struct sv_hello *hello, const uint8_t *src, size_t len)
{
    struct reader r = {src, src + len, 0, false};
    struct tlv tlv;
    memset(hello, 0, sizeof *hello);
    while (next_tlv(&r, &tlv)) {
        if (!in_set(hello_once, tlv.tag)) {
            continue;
        }
        if (!first_time(&r, tlv.tag) || !get_hello(&tlv, hello)) {
            return SV_E_MALFORMED;
        }
    }
    return !r.malformed && in_set(r.seen, TAG_CAPABILITIES) ? 0 : SV_E_MALFORMED;
}

static void set_default(struct sv_settings *settings, unsigned tag)
{
    switch (tag) {
    case TAG_GATEWAY4:
        settings->gateway4.length = 0;
        break;
    case TAG_GATEWAY6:
        settings->gateway6.length = 0;
        break;
    case TAG_DNS:
        settings->dns_count = 0;
        break;
    case TAG_KEEPALIVE:
        settings->has_keepalive = false;
        settings->keepalive_secs = SV_KEEPALIVE_DEFAULT_SECS;
        break;
    case TAG_REKEY:
        settings->has_rekey = false;
        settings->rekey_secs = SV_REKEY_DEFAULT_SECS;
        break;
    case TAG_RESUME_LIFETIME:
        settings->has_resume_lifetime = false;
        settings->resume_lifetime_secs = SV_RESUME_DEFAULT_SECS;
        break;
    case TAG_ROUTE:
        settings->route_count = 0;
        break;
    default:
        break;
    }
}

static bool mandatory_there(const struct reader *r)
{
    const uint32_t all = BIT(TAG_CAPABILITIES) | BIT(TAG_SESSION_ID) | BIT(TAG_MTU);
    return (r->seen & all) == all && (r->seen & (BIT(TAG_ADDRESS4) | BIT(TAG_ADDRESS6))) != 0;
}

int sv_settings_read(struct sv_settings *settings, const uint8_t *src, size_t len)
{
    struct reader r = {src, src + len, 0, false};
    struct tlv tlv;
    memset(settings, 0, sizeof *settings);
    for (unsigned tag = TAG_GATEWAY4; tag <= TAG_ROUTE; tag++) {
        set_default(settings, tag);
    }
    while (next_tlv(&r, &tlv)) {
        if (!in_set(settings_once | settings_repeats, tlv.tag)) {
            continue;
        }
        bool first = first_time(&r, tlv.tag);
        if ((!first && !in_set(settings_repeats, tlv.tag)) || !get_setting(&tlv, settings)) {
            return SV_E_MALFORMED;
        }
    }
    return !r.malformed && mandatory_there(&r) ? 0 : SV_E_MALFORMED;
}

/* The mandatory MTU can be changed, not removed. */
static bool apply_one(struct reader *r, const struct tlv *tlv, struct sv_settings *settings)
{
    if (first_time(r, tlv->tag)) {
        set_default(settings, tlv->tag);
    } else if (!in_set(settings_repeats, tlv->tag)) {
        return false;
    }
    return tlv->len == 0 ? tlv->tag != TAG_MTU : get_changeable(tlv, settings);
}

int sv_settings_apply_update(struct sv_settings *settings, const uint8_t *src, size_t len)
{
    struct reader r = {src, src + len, 0, false};
    struct sv_settings changed = *settings;
    struct tlv tlv;
    while (next_tlv(&r, &tlv)) {
        if (in_set(update_tags, tlv.tag) && !apply_one(&r, &tlv, &changed)) {
            return SV_E_MALFORMED;
        }
    }
    if (r.malformed) {
        return SV_E_MALFORMED;
    }
    *settings = changed;
    return 0;
}
