#include "policy/acl.h"

#include <smartvpn/base.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "policy/prefix.h"

enum { PATTERN_MAX = 100 };

/* An inclusive range of 16-byte addresses, as two big-endian halves that compare as numbers. */
struct bound {
    uint64_t high, low;
};

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
    return (struct bound){ sv_load64be(addr), sv_load64be(addr + 8) };
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
    for (unsigned i = 0; i < 16; i++) {
        unsigned keep = prefix.bits <= 8 * i ? 0 : prefix.bits - 8 * i < 8 ? prefix.bits - 8 * i : 8;

        last[i] = prefix.addr[i] | (uint8_t)(0xFF >> keep);
    }
    return 0;
}

static int parse_range(const char *text, const char *dash, uint8_t first[16], uint8_t last[16])
{
    char from[PATTERN_MAX];

    memcpy(from, text, (size_t)(dash - text));
    from[dash - text] = '\0';
    if (sv_addr_parse(first, from) || sv_addr_parse(last, dash + 1) || sv_addr_is4(first) != sv_addr_is4(last) ||
        compare(to_bound(first), to_bound(last)) > 0) {
        return SV_E_INVALID;
    }
    return 0;
}

/* Four groups, the last one to four of them stars. */
static int parse_wildcard(const char *text, uint8_t first[16], uint8_t last[16])
{
    char low[PATTERN_MAX], high[PATTERN_MAX];
    size_t l = 0, h = 0;
    bool star = false;

    for (const char *at = text; *at; at++) {
        if (*at == '*') {
            if ((at != text && at[-1] != '.') || (at[1] && at[1] != '.') || l + 2 > sizeof low || h + 4 > sizeof high) {
                return SV_E_INVALID;
            }
            star = true;
            low[l++] = '0';
            memcpy(high + h, "255", 3);
            h += 3;
            continue;
        }
        if ((star && *at != '.') || l + 2 > sizeof low || h + 2 > sizeof high) {
            return SV_E_INVALID;
        }
        low[l++] = *at;
        high[h++] = *at;
    }
    low[l] = high[h] = '\0';
    return strchr(text, ':') || sv_addr_parse(first, low) || sv_addr_parse(last, high) ? SV_E_INVALID : 0;
}

int sv_acl_parse(const char *pattern, uint8_t first[16], uint8_t last[16])
{
    const char *dash;

    if (strlen(pattern) >= PATTERN_MAX) {
        return SV_E_INVALID;
    }
    dash = strchr(pattern, '-');
    if (dash) {
        return parse_range(pattern, dash, first, last);
    }
    return strchr(pattern, '*') ? parse_wildcard(pattern, first, last) : parse_cidr(pattern, first, last);
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

static int compile(struct set *set, const char *const *patterns, size_t count, const char **bad)
{
    if (!count) {
        return 0;
    }
    set->ranges = calloc(count, sizeof *set->ranges);
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
        set->ranges[i] = (struct range){ to_bound(first), to_bound(last) };
    }
    set->count = count;
    merge(set);
    return 0;
}

int sv_acl_new(struct sv_acl **out, const char *const *allow, size_t allow_count, const char *const *deny, size_t deny_count,
               const char **bad)
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
