"""WireGuard interfaces in user space on the topology's machines, set up with the stock `wg`."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.netns.topology import Topology

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = os.environ.get("SMARTVPN_WG") or str(ROOT / "build" / "smartvpn-wg")  # make asan-wg names another
FAST = str(ROOT / "build" / "tests" / "smartvpn-wg-fast")  # its clock runs 20 times as fast
STOCK = "wireguard-go"

_serial = itertools.count()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until the condition holds. Raises TimeoutError when it does not."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def wg(*arguments: str, text: str | None = None) -> str:
    """What `wg` prints. Raises AssertionError with its words if it fails."""
    done = subprocess.run(
        ["wg", *arguments], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Device:
    """One interface. Its socket's folder is the same for all namespaces, so names are unique."""

    def __init__(self, machine: Topology, role: str, program: str) -> None:
        self.machine, self.role, self.program = machine, role, program
        self.name = f"w{os.getpid() % 1000000}x{next(_serial)}"
        self.private = wg("genkey")
        self.public = wg("pubkey", text=self.private)
        self.socket = Path("/var/run/wireguard") / f"{self.name}.sock"

    def start(self, *env: str) -> None:
        """Until the program has gone to the background."""
        self.machine.run(self.role, "env", *env, self.program, self.name)

    @property
    def pid(self) -> int | None:
        """Of the process behind it."""
        found = subprocess.run(["pgrep", "-x", "-f", f"{self.program} {self.name}"], capture_output=True)
        return int(found.stdout.split()[0]) if found.stdout else None

    def set(self, *arguments: str) -> None:
        """`wg set`; values that are keys are written as `key:VALUE`."""
        with contextlib.ExitStack() as files:
            words = [files.enter_context(_key_file(word)) for word in arguments]
            self.machine.run(self.role, "wg", "set", self.name, *words)

    def up(self, *addresses: str, mtu: int = 1420) -> None:
        """Addresses and the link."""
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            self.machine.run(self.role, "ip", "address", "add", address, "dev", self.name, *nodad)
        self.machine.run(self.role, "ip", "link", "set", self.name, "mtu", str(mtu), "up")

    def is_listening(self) -> bool:
        """Its port is open: a program behind a TUN device hears of the link's coming up a moment later."""
        return bool(self.machine.run(self.role, "ss", "-Huln", f"sport = :{PORT[self.role]}").stdout)

    def show(self, what: str) -> dict[str, list[str]]:
        """`wg show NAME what`: by public key."""
        lines = self.machine.run(self.role, "wg", "show", self.name, what).stdout.splitlines()
        return {line.split("\t")[0]: line.split()[1:] for line in lines}

    def handshake(self, other: Device) -> int:
        """When the last handshake with the other was, in seconds since 1970; 0: never."""
        return int(self.show("latest-handshakes")[other.public][0])

    def ask(self, text: str) -> str:
        """Words on its configuration socket, and the answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.socket))
            connection.sendall(text.encode())
            answer = b""
            while not answer.endswith(b"\n\n"):
                more = connection.recv(65536)
                if not more:
                    break
                answer += more
        return answer.decode()

    def end(self) -> None:
        """Delete the interface, and see the process end."""
        self.machine.run(self.role, "ip", "link", "delete", self.name, check=False)
        with contextlib.suppress(TimeoutError):
            until(lambda: self.pid is None, 5)
        pid = self.pid
        if pid is not None:
            os.kill(pid, 9)
        self.socket.unlink(missing_ok=True)


@contextmanager
def _key_file(word: str) -> Iterator[str]:
    """wg wants keys in files."""
    if not word.startswith("key:"):
        yield word
        return
    path = Path("/run") / f"svtest-key-{os.getpid()}-{next(_serial)}"
    path.touch(0o600)
    path.write_text(word.removeprefix("key:"))
    try:
        yield str(path)
    finally:
        path.unlink()


@contextmanager
def device(machine: Topology, role: str, program: str = OURS, *env: str) -> Iterator[Device]:
    """An interface on a machine, gone at the end."""
    made = Device(machine, role, program)
    try:
        made.start(*env)
        yield made
    finally:
        made.end()


ADDRESSES = {"client": ("10.77.0.2/24", "fd77::2/64"), "hub": ("10.77.0.1/24", "fd77::1/64")}
INNER = {role: (pair[0].split("/")[0], pair[1].split("/")[0]) for role, pair in ADDRESSES.items()}
OUTER = {"client": "10.99.0.2", "hub": "10.99.0.1"}
OUTER6 = {"client": "fd99::2", "hub": "fd99::1"}
PORT = {"client": 51821, "hub": 51820}


def introduce(one: Device, other: Device, *more: str, v6: bool = False, endpoint: bool = True) -> None:
    """`one` learns of the other: key, endpoint and inner addresses."""
    outer = f"[{OUTER6[other.role]}]" if v6 else OUTER[other.role]
    where = ("endpoint", f"{outer}:{PORT[other.role]}") if endpoint else ()
    allowed = ",".join(INNER[other.role])
    one.set("peer", other.public, *where, "allowed-ips", allowed, *more)


@contextmanager
def pair(
    machine: Topology,
    client: str = OURS,
    hub: str = OURS,
    *more: str,
    v6: bool = False,
    env: tuple[str, ...] = (),
) -> Iterator[tuple[Device, Device]]:
    """Two interfaces that know each other, up; `more` is set on both ends' peers."""
    with device(machine, "client", client, *env) as one, device(machine, "hub", hub, *env) as other:
        for end in (one, other):
            end.set("private-key", f"key:{end.private}", "listen-port", str(PORT[end.role]))
        introduce(one, other, *more, v6=v6)
        introduce(other, one, *more, v6=v6)
        for end in (one, other):
            end.up(*ADDRESSES[end.role])
            until(end.is_listening)
        yield one, other


def pings(machine: Topology, role: str, address: str, *options: str, count: int = 3) -> int:
    """How many of some pings were answered."""
    command = ("ping", "-n", "-q", "-c", str(count), "-i", "0.1", "-W", "2", *options, address)
    out = machine.run(role, *command, check=False).stdout
    return int(out.partition(" received")[0].rpartition(" ")[2] or 0)
