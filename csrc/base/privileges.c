#include <smartvpn/process.h>

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

enum { WORDS = _LINUX_CAPABILITY_U32S_3, CAPABILITIES = 64 };

static int failed(const char *what)
{
    return sv_fail(errno == EPERM ? SV_E_PERMISSION : SV_E_SYSTEM, "%s: %s", what, strerror(errno));
}

static uint64_t permitted(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[WORDS] = {0};

    if (syscall(SYS_capget, &header, data) != 0)
        return 0;
    return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

static int set_capabilities(uint64_t keep)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[WORDS];

    for (int word = 0; word < WORDS; word++) {
        data[word].effective = data[word].permitted = data[word].inheritable = (uint32_t)(keep >> 32 * word);
    }
    return syscall(SYS_capset, &header, data) != 0 ? failed("cannot give up capabilities") : 0;
}

/* Without CAP_SETPCAP the set stays; no_new_privs then keeps programs from gaining by it. */
static void bound(uint64_t keep)
{
    for (int cap = 0; cap < CAPABILITIES; cap++) {
        if (!(keep >> cap & 1)) {
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
        }
    }
}

static int become(uint32_t user, uint32_t group)
{
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0)
        return failed("cannot keep capabilities");
    if (setgroups(0, NULL) != 0 || setresgid(group, group, group) != 0 || setresuid(user, user, user) != 0)
        return failed("cannot change the user");
    return 0;
}

/* Programs that a user other than root starts have no capability but the ambient ones. */
static int hand_down(uint64_t keep)
{
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
        return failed("cannot clear the ambient capabilities");
    for (int cap = 0; cap < CAPABILITIES; cap++) {
        if (keep >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) != 0)
            return failed("cannot hand a capability down");
    }
    return 0;
}

int sv_process_drop_privileges(uint32_t user, uint32_t group, uint64_t keep)
{
    int error;

    keep &= permitted();
    bound(keep);
    if (user != 0 && (error = become(user, group)) != 0)
        return error;
    if ((error = set_capabilities(keep)) != 0 || (error = hand_down(keep)) != 0)
        return error;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ? failed("cannot forbid new privileges") : 0;
}
