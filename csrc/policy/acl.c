#include "policy/acl.h"

#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "policy/prefix.h"

enum {
    PATTERN_MAX = 100,
    FILLED_MAX = 4 * PATTERN_MAX, /* each star became "ffff" */
};

/* ::ffff:0.0.0.0 and ::ffff:255.255.255.255, their low halves; the high ones are 0. */
#define IP4_FIRST UINT64_C(0xFFFF00000000)
#define IP4_LAST UINT64_C(0xFFFFFFFFFFFF)

/* A 16-byte address as two halves that compare as numbers. */
struct bound {
    uint64_t high, low;
};

/* Inclusive. */
struct range {
    struct bound first, last;
};

/* Sorted and disjoint. */
struct set {
    struct range *ranges;
    size_t count;
};

struct sv_acl {
    struct set allow, deny;
    bool allow_all;
};

static struct bound to_bound(const uint8_t addr[16])
{
    return (struct bound){sv_load64be(addr), sv_load64be(addr + 8)};
}

static int compare(struct bound a, struct bound b)
{
    if (a.high != b.high) {
        return a.high < b.high ? -1 : 1;
    }
    return a.low < b.low ? -1 : a.low > b.low;
}

/* ---- patterns ---- */

static int parse_cidr(const char *text, uint8_t first[16], uint8_t last[16])
{
    struct sv_prefix prefix;

    if (sv_prefix_parse(&prefix, text)) {
        return SV_E_INVALID;
    }
    memcpy(first, prefix.addr, 16);
    memset(last, 0xFF, 16);
    sv_addr_mask(last, prefix.bits);
    for (unsigned i = 0; i < 16; i++) {
        last[i] = (uint8_t)(prefix.addr[i] | ~last[i]);
    }
    return 0;
}

static int parse_range(const char *text, const char *dash, uint8_t first[16], uint8_t last[16])
{
    char from[PATTERN_MAX];

    memcpy(from, text, (size_t)(dash - text));
    from[dash - text] = '\0';
    if (sv_addr_parse(first, from) || sv_addr_parse(last, dash + 1) ||
        sv_addr_is4(first) != sv_addr_is4(last) || compare(to_bound(first), to_bound(last)) > 0) {
        return SV_E_INVALID;
    }
    return 0;
}

static bool only_stars(const char *text, char separator)
{
    while (text[0] == '*' && text[1] == separator) {
        text += 2;
    }
    return strcmp(text, "*") == 0;
}

static void fill_stars(char filled[FILLED_MAX], const char *text, const char *group)
{
    for (; *text; text++) {
        size_t n = *text == '*' ? strlen(group) : 1;

        memcpy(filled, *text == '*' ? group : text, n);
        filled += n;
    }
    *filled = '\0';
}

static int parse_wildcard(const char *text, const char *stars, uint8_t first[16], uint8_t last[16])
{
    char separator = strchr(text, ':') ? ':' : '.';
    char filled[FILLED_MAX];

    if (!only_stars(stars, separator) || (stars != text && stars[-1] != separator)) {
        return SV_E_INVALID;
    }
    fill_stars(filled, text, "0");
    if (sv_addr_parse(first, filled)) {
        return SV_E_INVALID;
    }
    fill_stars(filled, text, separator == ':' ? "ffff" : "255");
    return sv_addr_parse(last, filled);
}

int sv_acl_parse(const char *pattern, uint8_t first[16], uint8_t last[16])
{
    const char *dash = strchr(pattern, '-'), *stars = strchr(pattern, '*');

    if (strlen(pattern) >= PATTERN_MAX) {
        return SV_E_INVALID;
    }
    if (stars) {
        return parse_wildcard(pattern, stars, first, last);
    }
    return dash ? parse_range(pattern, dash, first, last) : parse_cidr(pattern, first, last);
}

/* ---- compilation ---- */

static int by_first(const void *a, const void *b)
{
    return compare(((const struct range *)a)->first, ((const struct range *)b)->first);
}

static void merge(struct set *set)
{
    size_t kept = 0;

    qsort(set->ranges, set->count, sizeof *set->ranges, by_first);
    for (size_t i = 0; i < set->count; i++) {
        struct range *range = &set->ranges[i];

        if (kept && compare(range->first, set->ranges[kept - 1].last) <= 0) {
            if (compare(range->last, set->ranges[kept - 1].last) > 0) {
                set->ranges[kept - 1].last = range->last;
            }
        } else {
            set->ranges[kept++] = *range;
        }
    }
    set->count = kept;
}

static void append(struct set *set, struct bound first, struct bound last)
{
    set->ranges[set->count++] = (struct range){first, last};
}

/* An IPv6 range around the IPv4 addresses becomes the two beside them. */
static void add_range(struct set *set, const uint8_t first[16], const uint8_t last[16])
{
    static const struct bound before_ip4 = {0, IP4_FIRST - 1}, behind_ip4 = {0, IP4_LAST + 1};
    struct bound from = to_bound(first), to = to_bound(last);

    if (sv_addr_is4(first) || compare(to, before_ip4) <= 0 || compare(from, behind_ip4) >= 0) {
        append(set, from, to);
        return;
    }
    append(set, from, before_ip4);
    if (compare(to, behind_ip4) >= 0) {
        append(set, behind_ip4, to);
    }
}

static int compile(struct set *set, const char *const *patterns, size_t count, const char **bad)
{
    if (!count) {
        return 0;
    }
    set->ranges = calloc(count, 2 * sizeof *set->ranges);
    if (!set->ranges) {
        return SV_E_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        uint8_t first[16], last[16];

        if (sv_acl_parse(patterns[i], first, last)) {
            if (bad) {
                *bad = patterns[i];
            }
            return SV_E_INVALID;
        }
        add_range(set, first, last);
    }
    merge(set);
    return 0;
}

int sv_acl_new(struct sv_acl **out, const char *const *allow, size_t allow_count, const char *const *deny,
               size_t deny_count, const char **bad)
{
    struct sv_acl *acl;
    int error;

    *out = NULL;
    if (!allow_count && !deny_count) {
        return 0;
    }
    acl = calloc(1, sizeof *acl);
    if (!acl) {
        return SV_E_NOMEM;
    }
    acl->allow_all = allow_count == 0;
    error = compile(&acl->allow, allow, allow_count, bad);
    if (!error) {
        error = compile(&acl->deny, deny, deny_count, bad);
    }
    if (error) {
        sv_acl_free(acl);
        return error;
    }
    *out = acl;
    return 0;
}

void sv_acl_free(struct sv_acl *acl)
{
    if (acl) {
        free(acl->allow.ranges);
        free(acl->deny.ranges);
        free(acl);
    }
}

/* ---- look-up ---- */

static bool contains(const struct set *set, struct bound addr)
{
    size_t low = 0, high = set->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (compare(set->ranges[middle].last, addr) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < set->count && compare(set->ranges[low].first, addr) <= 0;
}

bool sv_acl_allows(const struct sv_acl *acl, const uint8_t addr[16])
{
    struct bound bound;

    if (!acl) {
        return true;
    }
    bound = to_bound(addr);
    return !contains(&acl->deny, bound) && (acl->allow_all || contains(&acl->allow, bound));
}

bool sv_acl_never(const uint8_t addr[16])
{
    static const uint8_t zero[15];

    if (sv_addr_is4(addr)) {
        const uint8_t *ip = addr + 12;

        return ip[0] == 0 || ip[0] == 127 || (ip[0] == 169 && ip[1] == 254) || ip[0] >= 224;
    }
    if (memcmp(addr, zero, 15) == 0) {
        return addr[15] <= 1;
    }
    return addr[0] == 0xFF || (addr[0] == 0xFE && (addr[1] & 0xC0) == 0x80);
}
