"""README's quick start, word by word, on two machines that have nothing yet."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.cli.test_cli_tunnel import ping
from tests.cli.tool import environment, installed
from tests.netns.topology import HUB_OUTER, INTERNET, Topology
from tests.test_docs import ROOT, blocks

# What stands for a machine's own disk: nothing of this one is seen or changed.
OWN_DISK = """
    set -e
    for place in /var/lib /var/log /run /mnt; do mount -t tmpfs none $place; done
    mkdir /mnt/upper /mnt/work
    cp /etc/hosts /etc/resolv.conf /mnt
    mount -t overlay none -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
    for file in hosts resolv.conf; do cat /mnt/$file > /etc/$file; done
    exec sh -s
"""


class Person:
    """Somebody at a machine's shell, who types what the page says."""

    def __init__(self, machine: Topology, role: str, folder: Path, tools: Path) -> None:
        self.folder = folder / role
        self.folder.mkdir()
        env = environment(PATH=f"{tools}:{environment()['PATH']}")
        self.shell = machine.popen(
            role,
            *("unshare", "--mount", "sh", "-c", OWN_DISK),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=env,
        )

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


def test_the_quick_start_ends_with_a_tunnel(topology: Topology, tmp_path: Path) -> None:
    """Each line as it stands: the client reaches the hub and, through it, the internet."""
    for role in ("hub", "client"):
        (topology.resolv_conf(role).parent / "hosts").write_text(f"{HUB_OUTER} vpn.example.org\n")
    tools = installed(tmp_path)
    hub, client = (Person(topology, role, tmp_path, tools) for role in ("hub", "client"))
    [on_hub] = blocks(ROOT / "README.md", "sh hub")
    [on_client] = blocks(ROOT / "README.md", "sh client")
    for line in on_hub.splitlines():
        hub.types(line)
    (client.folder / "alice.json").write_text((hub.folder / "alice.json").read_text())
    for line in on_client.splitlines():
        client.types(line)
    assert ping(topology, "client", "10.8.0.1")
    assert ping(topology, "client", INTERNET)
    assert "1 connected of 2" in hub.types("smartvpn status")
    client.types("smartvpn down")
    hub.types("smartvpn down")
