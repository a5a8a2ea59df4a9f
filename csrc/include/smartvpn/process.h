/* Rights of the process that carries a tunnel. */
#ifndef SMARTVPN_PROCESS_H
#define SMARTVPN_PROCESS_H

#include <smartvpn/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What `keep` of sv_process_drop_privileges is made of: bit n is capability n of capabilities(7). */
#define SV_CAP_DAC_OVERRIDE 1
#define SV_CAP_NET_BIND_SERVICE 10
#define SV_CAP_NET_ADMIN 12

/* Becomes user and group, unless the user is 0, and keeps of its capabilities those in `keep`, which the programs it starts have too; there is no way back
 * (no_new_privs). Before any other thread is started: rights are per thread. SV_E_PERMISSION, SV_E_SYSTEM; after an error the process should end. */
SV_API int sv_process_drop_privileges(uint32_t user, uint32_t group, uint64_t keep);

#ifdef __cplusplus
}
#endif
#endif
