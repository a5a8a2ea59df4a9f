/* The first process of tests/kernel/vm.py's machine: loads the modules of its initramfs, makes what /rootfs says (the host's files,
 * read-only but for what a tmpfs covers, or an image's) its root, and runs the command of /command there. The command's status is told on the console. A command that begins with "exec "
 * becomes the first process itself. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char line[4096];

static void load_modules(void)
{
    FILE *list = fopen("/modules", "r");

    while (list && fgets(line, sizeof line, list)) {
        int fd;

        line[strcspn(line, "\n")] = '\0';
        fd = open(line, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0)) {
            fprintf(stderr, "init: %s: %m\n", line);
        }
        if (fd >= 0) {
            close(fd);
        }
    }
}

static void mount_or_say(const char *what, const char *where, const char *type, unsigned long flags)
{
    if (mount(what, where, type, flags, NULL)) {
        fprintf(stderr, "init: mount %s: %m\n", where);
    }
}

/* /rootfs: device, type, ro or rw. */
static void mount_root(void)
{
    char device[64] = "", type[16] = "", how[3] = "";
    FILE *file = fopen("/rootfs", "r");

    if (!file || fscanf(file, "%63s %15s %2s", device, type, how) != 3) {
        fprintf(stderr, "init: /rootfs is not to be read\n");
    }
    mount_or_say(device, "/host", type, strcmp(how, "ro") == 0 ? MS_RDONLY : 0);
}

static void enter_host(void)
{
    mkdir("/host", 0755);
    mount_or_say("dev", "/dev", "devtmpfs", 0);
    mount_root();
    if (chdir("/host") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/")) {
        perror("init: switch root");
    }
    mount_or_say("proc", "/proc", "proc", 0);
    mount_or_say("sys", "/sys", "sysfs", 0);
    mount_or_say("dev", "/dev", "devtmpfs", 0);
    mount_or_say("tmp", "/tmp", "tmpfs", 0);
    mount_or_say("run", "/run", "tmpfs", 0);
    mount_or_say("lib", "/var/lib", "tmpfs", 0);
    mount_or_say("root", "/root", "tmpfs", 0);
}

int main(void)
{
    FILE *file = fopen("/command", "r");
    char command[sizeof line] = "";
    int status = 0;
    pid_t child;

    if (file && !fgets(command, sizeof command, file)) {
        fprintf(stderr, "init: no command\n");
    }
    load_modules();
    enter_host();
    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    if (strncmp(command, "exec ", 5) == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    }
    child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    waitpid(child, &status, 0);
    printf("\nvm: status %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
    return 0;
}
