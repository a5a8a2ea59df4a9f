/* Longest-prefix match over IPv4 and IPv6 addresses in 16-byte form (IPv4 as ::ffff:a.b.c.d): routes, allowed
 * IPs, source checks. An IPv6 prefix such as ::/0 covers no IPv4 address, though their 16 bytes lie inside it.
 *
 * Look-ups run on any number of threads without a lock while one writer changes single entries (base/rcu.h
 * frees what readers may still see). 130,000 entries are a usual load: insert and remove cost O(length of the
 * prefix).
 */
#ifndef SV_POLICY_PREFIX_H
#define SV_POLICY_PREFIX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct sv_rcu;
struct sv_prefix_node;

struct sv_prefix {
    uint8_t addr[16]; /* host bits zero */
    uint8_t bits;     /* 0..128; an IPv4 prefix has 96 + its length */
};

/* "10.0.0.0/8", "fd00::/8", or an address alone (all bits). Host bits set are masked off. SV_E_INVALID. */
int sv_prefix_parse(struct sv_prefix *prefix, const char *text);
/* dst has at least 50 bytes. IPv4 prefixes print as such. Returns dst. */
char *sv_prefix_format(char *dst, size_t size, const struct sv_prefix *prefix);
bool sv_prefix_contains(const struct sv_prefix *prefix, const uint8_t addr[16]);

/* "10.0.0.1" / "fd00::1" to 16 bytes. SV_E_INVALID. */
int sv_addr_parse(uint8_t addr[16], const char *text);
char *sv_addr_format(char *dst, size_t size, const uint8_t addr[16]);
/* Zeroes all but the first bits (0..128). */
void sv_addr_mask(uint8_t addr[16], unsigned bits);

static inline bool sv_addr_is4(const uint8_t addr[16])
{
    return sv_load64be(addr) == 0 && sv_load32be(addr + 8) == 0xFFFF;
}

/* Whether the first bits (0..128) are equal. */
static inline bool sv_addr_agree(const uint8_t a[16], const uint8_t b[16], unsigned bits)
{
    uint64_t high = sv_load64be(a) ^ sv_load64be(b), low = sv_load64be(a + 8) ^ sv_load64be(b + 8);

    if (bits <= 64) {
        return bits == 0 || high >> (64 - bits) == 0;
    }
    return high == 0 && low >> (128 - bits) == 0;
}

struct sv_trie {
    struct sv_prefix_node *_Atomic root;
    struct sv_rcu *rcu; /* NULL in single-threaded use */
    size_t count;
};

void sv_trie_init(struct sv_trie *trie, struct sv_rcu *rcu);
void sv_trie_clear(struct sv_trie *trie);

/* The object of the longest prefix that covers addr, or NULL. Lock-free. */
void *sv_trie_find(const struct sv_trie *trie, const uint8_t addr[16]);

/* Writer: puts object (not NULL: SV_E_INVALID) under the prefix, replacing what is there (returned through *old
 * when old is not NULL). An error changes nothing. */
int sv_trie_set(struct sv_trie *trie, const struct sv_prefix *prefix, void *object, void **old);
/* Writer: the object that was under exactly this prefix, or NULL. */
void *sv_trie_remove(struct sv_trie *trie, const struct sv_prefix *prefix);
/* Writer: visits every entry in address order until visit returns false. */
void sv_trie_each(const struct sv_trie *trie,
                  bool (*visit)(void *ctx, const struct sv_prefix *, void *object), void *ctx);

#endif
