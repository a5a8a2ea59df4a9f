/* One client's rules as one immutable object: swapped whole, read by every worker without a lock. */
#ifndef SV_POLICY_POLICY_H
#define SV_POLICY_POLICY_H

#include <stddef.h>
#include <stdint.h>

#include "base/rcu.h"
#include "packet/ip.h"
#include "policy/acl.h"
#include "policy/bucket.h"

/* What the packet path decides; also indexes of the drop counters. */
#define SV_VERDICTS(X)                            \
    X(PASS, "passed")                             \
    X(DROP_MALFORMED, "malformed packet")         \
    X(DROP_SOURCE, "source is not the session's") \
    X(DROP_ACL, "destination denied")             \
    X(DROP_RATE, "rate limit")                    \
    X(DROP_HIGH, "high queue full")               \
    X(DROP_NORMAL, "normal queue full")           \
    X(DROP_LOW, "low queue full")                 \
    X(DROP_NO_ROUTE, "no route")                  \
    X(DROP_TOO_BIG, "larger than the link's MTU") \
    X(DROP_REPLAY, "replayed")                    \
    X(DROP_TUN, "TUN refused it")

#define SV_VERDICT_ENUM(name, text) SV_##name,
enum sv_verdict { SV_VERDICTS(SV_VERDICT_ENUM) SV_VERDICT_COUNT };
#undef SV_VERDICT_ENUM

const char *sv_verdict_text(enum sv_verdict verdict);

/* The two directions' buckets live apart from the policy, so that a swap of ACLs keeps their level. */
struct sv_limiter {
    struct sv_rcu_head rcu;
    struct sv_bucket up, down; /* up: from the client */
    uint64_t bytes_per_sec, burst_bytes;
};

struct sv_policy {
    struct sv_rcu_head rcu;
    struct sv_acl *source;      /* where the client may connect from; NULL allows all */
    struct sv_acl *destination; /* where its packets may go */
    int priority;
};

/* Takes the ACLs over. */
struct sv_policy *sv_policy_new(struct sv_acl *source, struct sv_acl *destination, int priority);
void sv_policy_free(struct sv_policy *policy);
/* The same, of the policy around its head. */
void sv_policy_free_rcu(struct sv_rcu_head *head);

/* A packet from the client: destination rules and the never-reached ones. */
enum sv_verdict sv_policy_check_destination(const struct sv_policy *policy, const uint8_t dst[16]);

#endif
