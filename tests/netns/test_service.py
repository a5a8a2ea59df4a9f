"""The daemon as its systemd unit runs it: root with the unit's few rights first, then a user with fewer."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smartvpn import VpnConfig
from smartvpn.installer import VpnInstaller
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY, TUN, answers, client_on, eventually, hub_config, hub_on
from tests.raw import TIMEOUT, Connection, SocketDaemon, run_daemon

USER = 61234  # no name, as a dynamic user where nss-systemd is missing
NET_ADMIN, NET_BIND_SERVICE = 12, 10
# The mount is seen in the namespace of `ip netns exec` alone.
WITH_TUN = ("sh", "-c", 'mount --bind "$0" /dev/net/tun && exec "$@"')


def bounding_set(mode: str) -> str:
    """The unit's CapabilityBoundingSet as setpriv(1) wants it."""
    unit = VpnInstaller.generate_systemd_unit(mode=mode)  # type: ignore[arg-type]
    [names] = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    return ",".join(["-all", *("+" + name.removeprefix("CAP_").lower() for name in names.split())])


class Service:
    """A daemon started with the unit's rights, and the service manager's end of its notifications."""

    def __init__(self, machine: Topology, folder: Path, mode: str, config: Any) -> None:
        self.folder, self.mode = folder, mode
        self.socket = folder / "smartvpn.sock"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        (folder / "notify").chmod(0o777)
        state, runtime = self._own("state"), self._own("runtime")
        VpnConfig.save_to_file(folder / "config.json", config)
        environment = {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": "3000000",
            "STATE_DIRECTORY": str(state),
            "RUNTIME_DIRECTORY": str(runtime),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        user = "smartvpn" if mode == "server" else "root"
        self.process = machine.popen(
            "hub" if mode == "server" else "client",
            "env",
            *(f"{name}={value}" for name, value in environment.items()),
            *WITH_TUN,
            str(self._device()),
            *("setpriv", "--no-new-privs", "--bounding-set", bounding_set(mode)),
            *(sys.executable, "-P", "-m", "smartvpn.daemon", "--mode", mode, "--tun-name", TUN),
            *("--management-socket", str(self.socket), "--config", str(folder / "config.json")),
            *("--user", user),
            stderr=subprocess.PIPE,
        )

    def _device(self) -> Path:
        """A TUN device that every user may open, as udev's rules have it; containers often have not."""
        node = self.folder / "tun"
        os.mknod(node, 0o600 | stat.S_IFCHR, Path("/dev/net/tun").stat().st_rdev)
        node.chmod(0o666)
        return node

    def _own(self, name: str) -> Path:
        """A directory as systemd makes it for the service's user."""
        path = self.folder / name
        path.mkdir(mode=0o700)
        if self.mode == "server":
            os.chown(path, USER, USER)
        return path

    def until(self, message: str) -> None:
        """Wait for a notification."""
        deadline = time.monotonic() + TIMEOUT
        while message not in self.heard():
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < deadline, f"the daemon does not tell {message}"
            select.select([self.manager], [], [], 0.5)

    def heard(self) -> list[str]:
        """All that was told and not yet read."""
        told = []
        while select.select([self.manager], [], [], 0)[0]:
            told.append(self.manager.recv(4096).decode())
        return told

    def end(self) -> None:
        """As `systemctl stop` does; it must end well."""
        self.process.terminate()
        status, errors = self.process.wait(TIMEOUT), self.errors()
        assert (status, "Traceback" in errors) == (0, False), errors

    def errors(self) -> str:
        """What it wrote to stderr, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def status(self, name: str) -> list[str]:
        """A line of /proc/pid/status."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return re.findall(rf"^{name}:\s*(.*)$", text, re.MULTILINE)[0].split()

    def capabilities(self) -> set[int]:
        """What it may use, and what programs that it starts may."""
        sets = {int(self.status(name)[0], 16) for name in ("CapPrm", "CapEff", "CapAmb")}
        assert len(sets) == 1
        [bits] = sets
        return {bit for bit in range(64) if bits >> bit & 1}


Start = Callable[[str, Any], Service]


@pytest.fixture
def start(topology: Topology, folder: Path) -> Iterator[Start]:
    """Starts a service; the manager's end is closed after the test."""
    started: list[Service] = []

    def begin(mode: str, config: Any) -> Service:
        started.append(Service(topology, folder, mode, config))
        return started[-1]

    yield begin
    for service in started:
        service.manager.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the service's user may enter, though not write."""
    made = Path(tempfile.mkdtemp(prefix="svservice-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def hub_service(start: Start, folder: Path) -> Service:
    """A hub with NAT and both families, its registry in the state directory, on a port below 1024."""
    key, certificate = folder / "hub.key", folder / "hub.crt"
    make = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=hub", "-days", "2")
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    key.chmod(0o600)
    config = hub_config(
        listenAddr="10.99.0.1:443",
        enableNat=True,
        allowHostAccess=False,
        registry=str(folder / "state" / "registry.db"),
        tlsCert=str(certificate),
        tlsKey=str(key),
    )
    return start("server", VpnConfig.validate_server_config(config))


async def test_a_hub_does_its_work_as_its_own_user(topology: Topology, folder: Path, start: Start) -> None:
    """Device, addresses, forwarding, nftables, a low port and root's key file; then two rights are left."""
    service = hub_service(start, folder)
    service.until("READY=1")
    assert service.status("Uid") == [str(USER)] * 4
    assert (service.socket.stat().st_uid, service.socket.stat().st_mode & 0o777) == (USER, 0o600)
    assert service.status("Gid") == [str(USER)] * 4
    assert service.capabilities() == {NET_ADMIN, NET_BIND_SERVICE}
    assert service.status("NoNewPrivs") == ["1"]
    assert f"table inet smartvpn_{TUN}" in topology.run("hub", "nft", "list", "tables").stdout
    assert topology.run("hub", "cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"
    with Connection(service.socket) as connection:
        assert connection.receive()["event"] == "ready"
        bundle = connection.result("createClient", {"clientId": "alice"})
    async with client_on(topology, bundle["smartvpnConfig"]) as client:
        result = await client.connect()
        assert str(result.transport) in ("websocket", "quic")
        assert await answers(topology, GATEWAY)
        assert await answers(topology, "10.99.1.2")
    service.end()
    assert "smartvpn" not in topology.run("hub", "nft", "list", "tables").stdout
    assert list((folder / "runtime").glob("*.json")) == []


async def test_a_hub_that_cannot_start_is_not_ready(topology: Topology, folder: Path, start: Start) -> None:
    """A wrong config ends it with status 1 and words, and the manager never hears that it is ready."""
    config = hub_config(listenAddr="192.0.2.1:443", registry=str(folder / "state" / "registry.db"))
    service = start("server", VpnConfig.validate_server_config(config))
    assert service.process.wait(TIMEOUT) == 1
    assert "192.0.2.1:443" in service.errors()
    assert "READY=1" not in service.heard()


async def test_signs_of_life_come_again_and_again(topology: Topology, folder: Path, start: Start) -> None:
    """Each within a third of the watchdog's time; the end is told as well."""
    service = hub_service(start, folder)
    service.until("READY=1")
    for _ in range(3):
        service.until("WATCHDOG=1")
    service.end()
    assert service.heard()[-1] == "STOPPING=1"


async def test_a_client_does_its_work_with_few_rights(topology: Topology, folder: Path, start: Start) -> None:
    """As user 0, which name servers need, with two rights: routes and DNS come and go."""
    async with hub_on(topology, dns=["10.8.0.1"], enableNat=True) as server:
        bundle = await server.create_client("alice")
        service = start("client", bundle.smartvpn_config)
        service.until("READY=1")
        with Connection(service.socket) as connection:
            await eventually(lambda: _connected(connection))
            assert service.capabilities() == {NET_ADMIN, NET_BIND_SERVICE}
            assert service.status("Uid") == ["0"] * 4
            assert await answers(topology, GATEWAY)
            await eventually(lambda: _asks(topology, "10.8.0.1"))
        service.end()
        assert "nameserver 192.0.2.53" in topology.resolv_conf("client").read_text()


async def _asks(topology: Topology, server: str) -> bool:
    """Whether the client's machine asks that name server."""
    return f"nameserver {server}" in topology.resolv_conf("client").read_text()


async def _connected(connection: Connection) -> bool:
    return bool(connection.result("getStatus")["state"] == "connected")


@pytest.mark.parametrize("mode", ["server", "client"])
def test_an_unknown_user_is_named(mode: str, tmp_path: Path) -> None:
    """Without a state directory whose owner could be it: status 1, one line, no socket."""
    path = tmp_path / "s.sock"
    done = run_daemon("--mode", mode, "--management-socket", str(path), "--user", "nobody-of-this-name")
    expected = "smartvpn_daemon: user: there is no user 'nobody-of-this-name'\n"
    assert (done.returncode, done.stderr) == (1, expected)
    assert not path.exists()


def test_without_a_user_root_keeps_its_way_with_files(tmp_path: Path) -> None:
    """And what carries a tunnel; everything else is given up."""
    with SocketDaemon(tmp_path / "s.sock") as daemon, daemon.connect():
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        [effective] = re.findall(r"^CapEff:\s*(\w+)$", status, re.MULTILINE)
        assert int(effective, 16) == 1 << 1 | 1 << NET_BIND_SERVICE | 1 << NET_ADMIN
