/* Address lists of allow and deny patterns, compiled once into sorted disjoint ranges: a look-up is one binary
 * search.
 *
 * Patterns: address, CIDR, wildcard "192.168.1.*" or "fd00::1:*" (stars are whole groups, the last ones), range
 * "1.1.1.1-1.1.1.100"; IPv4 and IPv6. IPv4-mapped addresses are IPv4, and no IPv6 pattern, however wide, holds an
 * IPv4 address. Deny overrides allow; an empty allow list allows all. Immutable after compilation, so any thread
 * may read it.
 */
#ifndef SV_POLICY_ACL_H
#define SV_POLICY_ACL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sv_acl;

/* A pattern as an inclusive range of 16-byte addresses, which holds addresses of first's family only.
 * SV_E_INVALID. */
int sv_acl_parse(const char *pattern, uint8_t first[16], uint8_t last[16]);

/* NULL lists are empty. On SV_E_INVALID *bad is the offending pattern (when bad is not NULL). Two empty lists give
 * *acl = NULL, which allows all. */
int sv_acl_new(struct sv_acl **acl, const char *const *allow, size_t allow_count, const char *const *deny,
               size_t deny_count, const char **bad);
void sv_acl_free(struct sv_acl *acl);

/* NULL allows all. 10,000 patterns cost well under 100 ns. */
bool sv_acl_allows(const struct sv_acl *acl, const uint8_t addr[16]);

/* 127/8, 169.254/16, 0/8, 240/4 and broadcast, fe80::/10, ::1, ::, multicast of both families: never reached
 * whatever the lists say. */
bool sv_acl_never(const uint8_t addr[16]);

#endif
