/* Address lists of any text: a pattern is refused or is a range within one family, and the compiled lists say of every
 * address what the patterns one by one say.
 *
 * Input: lines; the ones that begin with '!' are denied, the others allowed.
 */
#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

#include "policy/acl.h"
#include "policy/prefix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PATTERNS = 64 };

struct list {
    char *texts[PATTERNS];
    uint8_t first[PATTERNS][16], last[PATTERNS][16];
    size_t count;
};

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

/* Keeps the line when it is a pattern; alone on the heap, so that a read behind it shows. */
static void add_line(struct list *list, const char *line, size_t len)
{
    char *text = strndup(line, len);
    uint8_t *first = list->first[list->count], *last = list->last[list->count];

    if (sv_acl_parse(text, first, last)) {
        struct sv_acl *acl = NULL;
        const char *bad = NULL, *patterns[] = {text};

        require(sv_acl_new(&acl, patterns, 1, NULL, 0, &bad) == SV_E_INVALID && bad == text && !acl);
        free(text);
        return;
    }
    /* "::/80" ends on an address that reads as IPv4 but holds none. */
    require((!sv_addr_is4(first) || sv_addr_is4(last)) && memcmp(first, last, 16) <= 0);
    list->texts[list->count++] = text;
}

static bool holds(const struct list *list, const uint8_t addr[16])
{
    for (size_t i = 0; i < list->count; i++) {
        if (sv_addr_is4(list->first[i]) == sv_addr_is4(addr) && memcmp(list->first[i], addr, 16) <= 0 &&
            memcmp(addr, list->last[i], 16) <= 0) {
            return true;
        }
    }
    return false;
}

/* The address, and the one before or behind it. */
static void step(uint8_t addr[16], int by)
{
    for (int i = 15; i >= 0; i--) {
        addr[i] = (uint8_t)(addr[i] + by);
        if (addr[i] != (by > 0 ? 0 : 0xFF)) {
            return;
        }
    }
}

static void compare_at(const struct sv_acl *acl, const struct list *allow, const struct list *deny,
                       const uint8_t bound[16])
{
    for (int by = -1; by <= 1; by++) {
        uint8_t addr[16];

        memcpy(addr, bound, 16);
        if (by) {
            step(addr, by);
        }
        require(sv_acl_allows(acl, addr) ==
                (!holds(deny, addr) && (allow->count == 0 || holds(allow, addr))));
        sv_acl_never(addr);
    }
}

static void compare(const struct sv_acl *acl, const struct list *allow, const struct list *deny)
{
    const struct list *lists[] = {allow, deny};

    for (size_t l = 0; l < 2; l++) {
        for (size_t i = 0; i < lists[l]->count; i++) {
            compare_at(acl, allow, deny, lists[l]->first[i]);
            compare_at(acl, allow, deny, lists[l]->last[i]);
        }
    }
}

static void clear(struct list *list)
{
    while (list->count) {
        free(list->texts[--list->count]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct list allow, deny;
    const char *at = (const char *)data, *end = at + size;
    struct sv_acl *acl;

    while (at < end && allow.count < PATTERNS && deny.count < PATTERNS) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = newline ? (size_t)(newline - at) : (size_t)(end - at);
        bool denied = len && *at == '!';

        add_line(denied ? &deny : &allow, at + denied, len - denied);
        at += len + 1;
    }
    require(sv_acl_new(&acl, (const char *const *)allow.texts, allow.count, (const char *const *)deny.texts,
                       deny.count, NULL) == 0);
    require((acl == NULL) == (allow.count + deny.count == 0));
    compare(acl, &allow, &deny);
    sv_acl_free(acl);
    clear(&allow);
    clear(&deny);
    return 0;
}
