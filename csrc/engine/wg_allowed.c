/* Allowed IPs: each prefix has one owner, and is in the trie and in its owner's list. */
#include <stdlib.h>

#include "engine/wg.h"

static void unlink_allowed(struct sv_wg_allowed *allowed)
{
    struct sv_wg_member *member = allowed->member;

    *(allowed->prev ? &allowed->prev->next : &member->allowed) = allowed->next;
    *(allowed->next ? &allowed->next->prev : &member->allowed_last) = allowed->prev;
    sv_wg_free_later(member->wg, &allowed->rcu, sv_rcu_free);
}

int sv_wg_allow(struct sv_wg_member *member, const struct sv_prefix *prefix)
{
    struct sv_wg_allowed *allowed = calloc(1, sizeof *allowed);
    void *old = NULL;

    if (!allowed) {
        return SV_E_NOMEM;
    }
    allowed->prefix = *prefix;
    allowed->member = member;
    if (sv_trie_set(&member->wg->allowed, prefix, allowed, &old)) {
        free(allowed);
        return SV_E_NOMEM;
    }
    if (old) {
        unlink_allowed(old);
    }
    allowed->prev = member->allowed_last;
    *(allowed->prev ? &allowed->prev->next : &member->allowed) = allowed;
    member->allowed_last = allowed;
    return 0;
}

void sv_wg_disallow(struct sv_wg_member *member, const struct sv_prefix *prefix)
{
    struct sv_trie *trie = &member->wg->allowed;
    struct sv_wg_allowed *allowed = sv_trie_remove(trie, prefix);

    /* Another's goes back into the place that has just become free. */
    if (allowed && (allowed->member == member || sv_trie_set(trie, prefix, allowed, NULL))) {
        unlink_allowed(allowed);
    }
}

void sv_wg_disallow_all(struct sv_wg_member *member)
{
    while (member->allowed) {
        struct sv_wg_allowed *allowed = member->allowed;

        sv_trie_remove(&member->wg->allowed, &allowed->prefix);
        unlink_allowed(allowed);
    }
}
