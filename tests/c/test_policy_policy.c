/* A client's rules as the packet path asks them: never-reached hosts are denied whatever the lists say, and a policy is
 * swapped whole while packets are judged by it. */
#include "tests/c/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/rcu.h"
#include "policy/policy.h"
#include "policy/prefix.h"

enum { SWAPS = 20000 };

static struct sv_acl *acl_of(const char *allow, const char *deny)
{
    const char *bad = NULL;
    struct sv_acl *acl = NULL;

    CHECK_EQ(sv_acl_new(&acl, &allow, allow ? 1 : 0, &deny, deny ? 1 : 0, &bad), 0);
    return acl;
}

static enum sv_verdict check(const struct sv_policy *policy, const char *text)
{
    uint8_t addr[16];

    CHECK_EQ(sv_addr_parse(addr, text), 0);
    return sv_policy_check_destination(policy, addr);
}

static void without_rules_all_passes_but_what_is_never_reached(void)
{
    static const char *const never[] = {
        "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255", "0.0.0.0", "::1",
        "::",        "fe80::1",         "ff02::1"};
    struct sv_policy *policy = sv_policy_new(NULL, NULL, 0);

    CHECK_EQ(check(policy, "10.0.0.1"), SV_PASS);
    CHECK_EQ(check(policy, "2001:db8::1"), SV_PASS);
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++) {
        CHECK_EQ(check(policy, never[i]), SV_DROP_ACL);
    }
    sv_policy_free(policy);
}

static void an_allow_list_does_not_open_what_is_never_reached(void)
{
    struct sv_policy *policy = sv_policy_new(NULL, acl_of("0.0.0.0/0", NULL), 0);

    CHECK_EQ(check(policy, "10.0.0.1"), SV_PASS);
    CHECK_EQ(check(policy, "127.0.0.1"), SV_DROP_ACL);
    CHECK_EQ(check(policy, "2001:db8::1"), SV_DROP_ACL);
    sv_policy_free(policy);
}

static void only_the_destination_list_judges_destinations(void)
{
    struct sv_policy *policy = sv_policy_new(acl_of("192.0.2.0/24", NULL), acl_of(NULL, "10.1.0.0/16"), 0);

    CHECK_EQ(check(policy, "10.2.0.1"), SV_PASS);
    CHECK_EQ(check(policy, "10.1.2.3"), SV_DROP_ACL);
    sv_policy_free(policy);
    sv_policy_free(NULL);
}

static void every_verdict_has_its_own_words(void)
{
    for (int a = 0; a < SV_VERDICT_COUNT; a++) {
        for (int b = 0; b < a; b++) {
            CHECK(strcmp(sv_verdict_text((enum sv_verdict)a), sv_verdict_text((enum sv_verdict)b)) != 0);
        }
    }
    CHECK_STR(sv_verdict_text(SV_VERDICT_COUNT), "unknown");
}

/* ---- swaps ---- */

static struct sv_policy *_Atomic current;
static struct sv_rcu rcu;
static atomic_bool done;

/* All policies deny 10.9.9.9 and pass 10.0.0.1: no swap may show anything else. */
static void *judge(void *arg)
{
    unsigned long *wrong = arg;
    uint8_t pass[16], deny[16];

    sv_addr_parse(pass, "10.0.0.1");
    sv_addr_parse(deny, "10.9.9.9");
    while (!atomic_load(&done)) {
        const struct sv_policy *policy;

        sv_rcu_online(&rcu, 0);
        policy = atomic_load_explicit(&current, memory_order_acquire);
        *wrong += sv_policy_check_destination(policy, pass) != SV_PASS;
        *wrong += sv_policy_check_destination(policy, deny) != SV_DROP_ACL;
        sv_rcu_offline(&rcu, 0);
    }
    return NULL;
}

static struct sv_policy *policy_number(size_t i)
{
    return sv_policy_new(NULL, i % 2 ? acl_of(NULL, "10.9.0.0/16") : acl_of("10.0.0.*", NULL), 0);
}

static void a_swap_under_packets_is_whole(void)
{
    unsigned long wrong = 0;
    pthread_t thread;

    CHECK_EQ(sv_rcu_init(&rcu, 1), 0);
    atomic_store(&current, policy_number(0));
    CHECK_EQ(pthread_create(&thread, NULL, judge, &wrong), 0);
    for (size_t i = 1; i < SWAPS; i++) {
        struct sv_policy *old = atomic_exchange_explicit(&current, policy_number(i), memory_order_acq_rel);

        sv_rcu_defer(&rcu, &old->rcu, sv_policy_free_rcu);
        sv_rcu_reclaim(&rcu);
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    CHECK_EQ(wrong, 0);
    sv_policy_free(atomic_load(&current));
    sv_rcu_clear(&rcu);
}

int main(void)
{
    RUN(without_rules_all_passes_but_what_is_never_reached);
    RUN(an_allow_list_does_not_open_what_is_never_reached);
    RUN(only_the_destination_list_judges_destinations);
    RUN(every_verdict_has_its_own_words);
    RUN(a_swap_under_packets_is_whole);
    return CHECK_DONE("policy/policy");
}
