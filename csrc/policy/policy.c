#include "policy/policy.h"

#include <stdlib.h>

#include "base/heap.h"

const char *sv_verdict_text(enum sv_verdict verdict)
{
#define SV_VERDICT_TEXT(name, text) text,
    static const char *const texts[] = {SV_VERDICTS(SV_VERDICT_TEXT)};
#undef SV_VERDICT_TEXT

    return (unsigned)verdict < SV_VERDICT_COUNT ? texts[verdict] : "unknown";
}

struct sv_policy *sv_policy_new(struct sv_acl *source, struct sv_acl *destination, int priority)
{
    struct sv_policy *policy = malloc(sizeof *policy);

    if (policy) {
        policy->source = source;
        policy->destination = destination;
        policy->priority = priority;
    }
    return policy;
}

void sv_policy_free(struct sv_policy *policy)
{
    if (policy) {
        sv_acl_free(policy->source);
        sv_acl_free(policy->destination);
        free(policy);
    }
}

void sv_policy_free_rcu(struct sv_rcu_head *head)
{
    sv_policy_free(SV_CONTAINER_OF(head, struct sv_policy, rcu));
}

enum sv_verdict sv_policy_check_destination(const struct sv_policy *policy, const uint8_t dst[16])
{
    return sv_acl_never(dst) || !sv_acl_allows(policy->destination, dst) ? SV_DROP_ACL : SV_PASS;
}
