/* A process that gave its rights up has those it kept, in what it starts too, and no way back. Only root has any to give up. */
#include "tests/c/check.h"

#include <smartvpn/process.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOBODY = 65534 };

static const uint64_t net_admin = 1u << SV_CAP_NET_ADMIN;

/* A line of /proc/self/status as a hexadecimal number. */
static unsigned long long status_of(const char *name)
{
    unsigned long long value = ~0ull;
    char line[256];
    FILE *file = fopen("/proc/self/status", "re");

    if (file == NULL)
        return value;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0) {
            value = strtoull(line + strlen(name) + 1, NULL, 16);
        }
    }
    fclose(file);
    return value;
}

/* Runs the checks in a process of their own, which alone loses its rights. */
static void apart(void (*checks)(void))
{
    int status = -1;
    pid_t child = fork();

    if (child == 0) {
        checks();
        fflush(NULL);
        _exit(check_failed ? 1 : 0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

static void becomes_a_user_with_the_kept_rights(void)
{
    CHECK_EQ(sv_process_drop_privileges(NOBODY, NOBODY, net_admin), 0);
    CHECK(getuid() == NOBODY && geteuid() == NOBODY && getgid() == NOBODY && getegid() == NOBODY);
    CHECK_EQ(getgroups(0, NULL), 0);
    CHECK_EQ(status_of("CapPrm"), net_admin);
    CHECK_EQ(status_of("CapEff"), net_admin);
    CHECK_EQ(status_of("CapAmb"), net_admin);
    CHECK_EQ(status_of("CapBnd"), net_admin);
    CHECK_EQ(status_of("NoNewPrivs"), 1);
    CHECK(setuid(0) != 0);
}

static void root_stays_root_with_the_kept_rights(void)
{
    CHECK_EQ(sv_process_drop_privileges(0, 0, net_admin), 0);
    CHECK_EQ(geteuid(), 0);
    CHECK_EQ(status_of("CapPrm"), net_admin);
    CHECK_EQ(status_of("CapBnd"), net_admin);
    CHECK(setuid(NOBODY) != 0);
}

static void a_program_it_starts_has_no_more(void)
{
    CHECK_EQ(sv_process_drop_privileges(0, 0, net_admin), 0);
    CHECK_EQ(system("grep -q 'CapEff:.0000000000001000' /proc/self/status"), 0);
}

static void a_second_time_changes_nothing(void)
{
    CHECK_EQ(sv_process_drop_privileges(NOBODY, NOBODY, net_admin), 0);
    CHECK_EQ(sv_process_drop_privileges(0, 0, ~0ull), 0);
    CHECK_EQ(status_of("CapPrm"), net_admin);
    CHECK_EQ(geteuid(), NOBODY);
}

static void without_rights_another_user_is_refused(void)
{
    CHECK_EQ(sv_process_drop_privileges(NOBODY, NOBODY, 0), 0);
    CHECK_EQ(sv_process_drop_privileges(1, 1, 0), SV_E_PERMISSION);
    CHECK(strstr(sv_error_detail(), "cannot change the user") != NULL);
}

int main(void)
{
    if (geteuid() != 0) {
        puts("base_privileges: nothing to give up without root");
        return 0;
    }
#ifdef __SANITIZE_THREAD__
    /* Capabilities are a thread's own, users the process's: glibc ends a process whose threads disagree on whether they may become one. */
    puts("base_privileges: left out under ThreadSanitizer, whose own thread keeps its rights");
    return 0;
#endif
    apart(becomes_a_user_with_the_kept_rights);
    apart(root_stays_root_with_the_kept_rights);
    apart(a_program_it_starts_has_no_more);
    apart(a_second_time_changes_nothing);
    apart(without_rights_another_user_is_refused);
    return CHECK_DONE("base_privileges");
}
