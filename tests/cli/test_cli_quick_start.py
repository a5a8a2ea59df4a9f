"""README's quick start, word by word, on two machines that have nothing yet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.c_library import run
from tests.cli.test_cli_tunnel import ping
from tests.netns.topology import HUB_OUTER, INTERNET, Topology
from tests.test_docs import ROOT, blocks

# What stands for a machine's own disk: nothing of this one is seen or changed. What is installed is on both.
OWN_DISK = """
    set -e
    mount --bind "$1/opt" /opt
    mount --bind "$1/bin" /usr/local/bin
    for place in /var/lib /var/log /run /mnt; do mount -t tmpfs none $place; done
    mkdir /mnt/upper /mnt/work
    cp /etc/hosts /etc/resolv.conf /mnt
    mount -t overlay none -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
    for file in hosts resolv.conf; do cat /mnt/$file > /etc/$file; done
    exec sh -s
"""
# Installing looks at the packages that this machine has.
OWN_PROGRAMS = """
    set -e
    mount --bind "$1/opt" /opt
    mount --bind "$1/bin" /usr/local/bin
    exec sh -s
"""


class Person:
    """Somebody at a shell, who types what the page says."""

    def __init__(self, shell: subprocess.Popen[bytes]) -> None:
        self.shell = shell

    def types(self, line: str) -> str:
        """A line, and what came of it; it must have ended well."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{line}\nstatus=$?; echo; echo end-of-line $status\n".encode())
        self.shell.stdin.flush()
        printed: list[str] = []
        while not printed or not printed[-1].startswith("end-of-line"):
            read = self.shell.stdout.readline().decode()
            assert read, "".join(printed)
            printed.append(read)
        assert printed[-1] == "end-of-line 0\n", "".join(printed)
        return "".join(printed[:-1])

    def leaves(self) -> None:
        """The end of the shell."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.close()
        self.shell.stdout.close()
        self.shell.wait(60)


def environment() -> dict[str, str]:
    """A new user's: the checkout's environment is not theirs."""
    path = os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    return {name: value for name, value in os.environ.items() if name not in ours} | {"PATH": path}


def shell(script: str, folder: Path, disk: Path) -> subprocess.Popen[bytes]:
    """On this machine's network, in a mount namespace of its own."""
    return subprocess.Popen(["unshare", "--mount", "sh", "-c", script, "sh", disk], cwd=folder, **pipes())


def pipes() -> dict[str, object]:
    """What all shells have."""
    ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return {**ends, "env": environment()}


def checkout(folder: Path) -> Path:
    """The repository's files alone; of what was built already the C core, which takes minutes."""
    tree = folder / "smartvpn"
    for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]:
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    built = ROOT / "build"
    for part in ("csrc", "vendor", "libsmartvpn.a", "quic.state"):
        if (built / part).is_dir():
            shutil.copytree(built / part, tree / "build" / part)
        elif (built / part).exists():
            shutil.copy2(built / part, tree / "build" / part)
    return tree


@pytest.mark.long(20)
def test_the_quick_start_ends_with_a_tunnel(topology: Topology, tmp_path: Path) -> None:
    """Each line as it stands: the client reaches the hub and, through it, the internet."""
    for role in ("hub", "client"):
        (topology.resolv_conf(role).parent / "hosts").write_text(f"{HUB_OUTER} vpn.example.org\n")
    disk = tmp_path / "disk"
    for name in ("opt", "bin"):
        (disk / name).mkdir(parents=True)
    [to_install], [on_hub], [on_client] = (
        blocks(ROOT / "README.md", f"sh {step}") for step in ("install", "hub", "client")
    )
    administrator = Person(shell(OWN_PROGRAMS, checkout(tmp_path), disk))
    for line in to_install.splitlines():
        administrator.types(line)
    administrator.leaves()

    folders = {role: tmp_path / role for role in ("hub", "client")}
    people: dict[str, Person] = {}
    for role, folder in folders.items():
        folder.mkdir()
        words = ("unshare", "--mount", "sh", "-c", OWN_DISK, "sh", str(disk))
        people[role] = Person(topology.popen(role, *words, cwd=folder, **pipes()))
    hub, client = people["hub"], people["client"]
    where = hub.types("/opt/smartvpn/bin/python -c 'import smartvpn; print(smartvpn.__file__)'")
    assert where.startswith("/opt/smartvpn/lib/")
    for line in on_hub.splitlines():
        hub.types(line)
    (folders["client"] / "alice.json").write_text((folders["hub"] / "alice.json").read_text())
    for line in on_client.splitlines():
        client.types(line)
    assert ping(topology, "client", "10.8.0.1")
    assert ping(topology, "client", INTERNET)
    assert "1 connected of 2" in hub.types("smartvpn status")
    client.types("smartvpn down")
    hub.types("smartvpn down")
    for person in people.values():
        person.leaves()
