/* A path-compressed binary trie over both families. A node is published whole behind one pointer; the fields
 * that readers follow are set before or change atomically. */
#include "policy/prefix.h"

#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

#include "base/rcu.h"

struct sv_prefix_node {
    struct sv_rcu_head rcu;
    struct sv_prefix prefix;
    void *_Atomic object;                    /* NULL: a branch without an entry of its own */
    struct sv_prefix_node *_Atomic child[2]; /* by the bit behind the prefix */
};

typedef struct sv_prefix_node *_Atomic link_t;

static unsigned bit_at(const uint8_t addr[16], unsigned bit)
{
    return bit < 128 ? addr[bit / 8] >> (7 - bit % 8) & 1 : 0;
}

/* Leading bits in common, at most `limit`. */
static unsigned common_bits(const uint8_t a[16], const uint8_t b[16], unsigned limit)
{
    for (unsigned i = 0; i < 16; i++) {
        uint8_t difference = a[i] ^ b[i];

        if (difference) {
            unsigned bits = 8 * i + (unsigned)__builtin_clz(difference) - 24;

            return bits < limit ? bits : limit;
        }
    }
    return limit;
}

void sv_trie_init(struct sv_trie *trie, struct sv_rcu *rcu)
{
    atomic_init(&trie->root, NULL);
    trie->rcu = rcu;
    trie->count = 0;
}

/* Depth is bounded by 128 branchings, so a stack of that size holds every walk. */
enum { STACK = 130 };

void sv_trie_clear(struct sv_trie *trie)
{
    struct sv_prefix_node *stack[STACK];
    size_t n = 0;

    stack[n++] = atomic_load(&trie->root);
    while (n) {
        struct sv_prefix_node *node = stack[--n];

        if (node) {
            stack[n++] = atomic_load(&node->child[0]);
            stack[n++] = atomic_load(&node->child[1]);
            free(node);
        }
    }
    atomic_store(&trie->root, NULL);
    trie->count = 0;
}

void *sv_trie_find(const struct sv_trie *trie, const uint8_t addr[16])
{
    struct sv_prefix_node *node = atomic_load_explicit(&trie->root, memory_order_acquire);
    unsigned least = sv_addr_is4(addr) ? 96 : 0;
    void *best = NULL;

    while (node && sv_addr_agree(node->prefix.addr, addr, node->prefix.bits)) {
        void *object = atomic_load_explicit(&node->object, memory_order_acquire);

        if (object && node->prefix.bits >= least) {
            best = object;
        }
        if (node->prefix.bits == 128) {
            break;
        }
        node = atomic_load_explicit(&node->child[bit_at(addr, node->prefix.bits)], memory_order_acquire);
    }
    return best;
}

static struct sv_prefix_node *new_node(const struct sv_prefix *prefix, unsigned bits, void *object)
{
    struct sv_prefix_node *node = calloc(1, sizeof *node);

    if (!node) {
        return NULL;
    }
    node->prefix = *prefix;
    node->prefix.bits = (uint8_t)bits;
    sv_addr_mask(node->prefix.addr, bits);
    atomic_init(&node->object, object);
    return node;
}

/* The pointer under which the prefix's own node is or would be put; *shared: bits that node there has in common with it. */
static link_t *locate(struct sv_trie *trie, const struct sv_prefix *prefix, unsigned *shared)
{
    link_t *at = &trie->root;

    for (;;) {
        struct sv_prefix_node *node = atomic_load(at);
        unsigned limit;

        if (!node) {
            return at;
        }
        limit = node->prefix.bits < prefix->bits ? node->prefix.bits : prefix->bits;
        *shared = common_bits(node->prefix.addr, prefix->addr, limit);
        if (*shared < node->prefix.bits || node->prefix.bits == prefix->bits) {
            return at;
        }
        at = &node->child[bit_at(prefix->addr, node->prefix.bits)];
    }
}

/* Puts a new node for the prefix above `below`, with a branch over both when neither covers the other. */
static int insert_above(link_t *at, struct sv_prefix_node *below, const struct sv_prefix *prefix,
                        unsigned shared, void *object)
{
    struct sv_prefix_node *own = new_node(prefix, prefix->bits, object), *branch = own;

    if (!own) {
        return SV_E_NOMEM;
    }
    if (shared < prefix->bits) {
        branch = new_node(prefix, shared, NULL);
        if (!branch) {
            free(own);
            return SV_E_NOMEM;
        }
        atomic_store(&branch->child[bit_at(prefix->addr, shared)], own);
    }
    atomic_store(&branch->child[bit_at(below->prefix.addr, shared)], below);
    atomic_store_explicit(at, branch, memory_order_release);
    return 0;
}

int sv_trie_set(struct sv_trie *trie, const struct sv_prefix *prefix, void *object, void **old)
{
    unsigned shared = 0;
    link_t *at = locate(trie, prefix, &shared);
    struct sv_prefix_node *node = atomic_load(at);
    void *before = NULL;
    int error = 0;

    if (!object) {
        error = SV_E_INVALID;
    } else if (!node) {
        node = new_node(prefix, prefix->bits, object);
        error = node ? 0 : SV_E_NOMEM;
        if (node) {
            atomic_store_explicit(at, node, memory_order_release);
        }
    } else if (node->prefix.bits == prefix->bits && shared == prefix->bits) {
        before = atomic_exchange(&node->object, object);
    } else {
        error = insert_above(at, node, prefix, shared, object);
    }
    if (!error && !before) {
        trie->count++;
    }
    if (old) {
        *old = before;
    }
    return error;
}

static void retire(struct sv_trie *trie, struct sv_prefix_node *node)
{
    if (trie->rcu) {
        sv_rcu_defer(trie->rcu, &node->rcu, sv_rcu_free);
    } else {
        free(node);
    }
}

/* Takes out a node that has no entry and at most one child. */
static void prune(struct sv_trie *trie, link_t *at)
{
    struct sv_prefix_node *node = atomic_load(at);
    struct sv_prefix_node *left, *right;

    if (!node || atomic_load(&node->object)) {
        return;
    }
    left = atomic_load(&node->child[0]);
    right = atomic_load(&node->child[1]);
    if (left && right) {
        return;
    }
    atomic_store_explicit(at, left ? left : right, memory_order_release);
    retire(trie, node);
}

void *sv_trie_remove(struct sv_trie *trie, const struct sv_prefix *prefix)
{
    link_t *at = &trie->root, *parent = NULL;
    struct sv_prefix_node *node = atomic_load(at);
    void *object;

    while (node && node->prefix.bits < prefix->bits &&
           sv_addr_agree(node->prefix.addr, prefix->addr, node->prefix.bits)) {
        parent = at;
        at = &node->child[bit_at(prefix->addr, node->prefix.bits)];
        node = atomic_load(at);
    }
    if (!node || node->prefix.bits != prefix->bits || memcmp(node->prefix.addr, prefix->addr, 16) != 0) {
        return NULL;
    }
    object = atomic_exchange(&node->object, NULL);
    if (object) {
        trie->count--;
        prune(trie, at);
        if (parent) {
            prune(trie, parent);
        }
    }
    return object;
}

void sv_trie_each(const struct sv_trie *trie,
                  bool (*visit)(void *ctx, const struct sv_prefix *, void *object), void *ctx)
{
    struct sv_prefix_node *stack[STACK];
    size_t n = 0;

    stack[n++] = atomic_load(&trie->root);
    while (n) {
        struct sv_prefix_node *node = stack[--n];
        void *object;

        if (!node) {
            continue;
        }
        object = atomic_load(&node->object);
        if (object && !visit(ctx, &node->prefix, object)) {
            return;
        }
        stack[n++] = atomic_load(&node->child[1]);
        stack[n++] = atomic_load(&node->child[0]);
    }
}
