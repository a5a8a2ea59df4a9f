"""The hub with the kernel's WireGuard, in the machine of tests/kernel/vm.py: all that wgBackend claims."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from smartvpn import ConfigError, Keypair, SmartVpnError
from smartvpn.server import VpnServer
from smartvpn.types import ConfigBundle

HUB = {"alice": "10.99.1.1", "bob": "10.99.2.1"}
GATEWAY = "10.8.0.1"
PORT = 51820
SOCKET = Path("/run/hub.sock")


def sh(text: str, check: bool = True) -> str:
    """What a command prints. Raises AssertionError with its words when it fails."""
    done = subprocess.run(text.split(), capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{text}: {done.stderr}"
    return done.stdout


async def until(condition: Any, what: str, seconds: float = 20) -> None:
    """Wait until the condition, which may be a coroutine, holds."""
    for _ in range(int(seconds * 10)):
        holds = condition()
        if await holds if asyncio.iscoroutine(holds) else holds:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


def pings(name: str, address: str, count: int = 3, *, interval: float = 0.1) -> int:
    """How many of a client's pings were answered."""
    out = sh(f"ip netns exec {name} ping -n -q -c {count} -i {interval} -W 1 {address}", check=False)
    found = re.search(r"(\d+) received", out)
    return int(found[1]) if found else 0


def interfaces() -> list[str]:
    """The kernel's WireGuard interfaces here."""
    return re.findall(r"^\d+: (\S+?):", sh("ip link show type wireguard"), re.M)


def machine(name: str) -> None:
    """A namespace joined to the hub."""
    sh(f"ip netns add {name}")
    sh(f"ip link add v-{name} type veth peer name outer netns {name}")
    sh(f"ip address add {HUB[name]}/24 dev v-{name}")
    sh(f"ip link set v-{name} up")
    sh(f"ip -n {name} address add {HUB[name].removesuffix('1')}2/24 dev outer")
    sh(f"ip -n {name} link set outer up")
    sh(f"ip -n {name} link set lo up")


def join(name: str, bundle: ConfigBundle) -> None:
    """The bundle's text to an interface of the kernel's in the namespace."""
    path = Path(f"/run/wg-{name}.conf")
    path.write_text(re.sub(r"Endpoint = .*", f"Endpoint = {HUB[name]}:{PORT}", bundle.wireguard_config))
    path.chmod(0o600)
    path.write_text(sh(f"wg-quick strip {path}"))
    sh(f"ip -n {name} link delete wg", check=False)
    sh(f"ip -n {name} link add wg type wireguard")
    sh(f"ip netns exec {name} wg setconf wg {path}")
    sh(f"ip -n {name} address add {bundle.entry.assigned_ip}/24 dev wg")
    sh(f"ip -n {name} link set wg mtu 1420 up")


def config(**changes: Any) -> dict[str, Any]:
    """A hub's, on the kernel's WireGuard."""
    pair = config.pair  # type: ignore[attr-defined]
    return {
        "transportMode": "wireguard",
        "wgBackend": "kernel",
        "privateKey": pair.private_key,
        "publicKey": pair.public_key,
        "serverEndpoint": HUB["alice"],
        "wgListenPort": PORT,
        "subnet": "10.8.0.0/24",
        "registry": ":memory:",
        **changes,
    }


def spawn() -> subprocess.Popen[bytes]:
    """A daemon that will listen on SOCKET."""
    SOCKET.unlink(missing_ok=True)
    words = f"-m smartvpn.daemon --management-socket {SOCKET} --mode server"
    return subprocess.Popen([sys.executable, *words.split()])


async def daemon() -> subprocess.Popen[bytes]:
    """A hub's daemon that listens; an emulated machine takes its time to load it."""
    process = spawn()
    await until(SOCKET.exists, "the daemon listens", 200)
    return process


@contextlib.asynccontextmanager
async def hub(**changes: Any) -> Any:
    """A daemon with a hub."""
    process = await daemon()
    server = VpnServer({"transport": "socket", "socketPath": str(SOCKET)})
    try:
        await server.start(config(**changes))
        yield server
        await server.stop_server()
    finally:
        await server.stop()
        process.terminate()
        process.wait(30)


async def clients_and_peers() -> None:
    """Stock clients connect, meet, are listed and counted; peers come and go without disturbing them."""
    async with hub() as server:
        [name] = interfaces()
        alice, bob = await server.create_client("alice"), await server.create_client("bob")
        join("alice", alice)
        join("bob", bob)
        assert pings("alice", GATEWAY) == 3
        assert pings("bob", alice.entry.assigned_ip) == 3
        await until(lambda: _listed(server, {"alice", "bob"}), "both are listed")
        before = {peer.public_key: peer for peer in await server.list_wg_peers()}
        assert pings("alice", GATEWAY, 10) == 10
        after = {peer.public_key: peer for peer in await server.list_wg_peers()}
        key = alice.entry.wg_public_key
        assert after[key].bytes_received >= before[key].bytes_received + 10 * 84
        assert after[key].bytes_sent >= before[key].bytes_sent + 10 * 84
        assert str(after[key].endpoint).startswith("10.99.1.2:")
        assert after[key].last_handshake_time is not None
        await others_are_not_disturbed(server, name)
        await refusals(server, alice)
        await entries_that_change(server, alice)
    assert interfaces() == []


async def _listed(server: VpnServer, names: set[str]) -> bool:
    return {item.client_id for item in await server.list_clients()} == names


async def refused(call: Awaitable[object], *words: str) -> None:
    """The call ends in a ConfigError that has the words."""
    try:
        await call
    except ConfigError as error:
        missing = [word for word in words if word not in str(error)]
        if not missing:
            return
        raise AssertionError(f"{error}: does not say {missing}") from None
    raise AssertionError(f"was not refused: {words}")


async def start_with(changes: dict[str, Any]) -> None:
    """A hub that is started and stopped."""
    async with hub(**changes):
        pass


async def others_are_not_disturbed(server: VpnServer, name: str) -> None:
    """While 20 peers come and go, no ping of a client is lost."""
    flood = asyncio.create_task(asyncio.to_thread(pings, "alice", GATEWAY, 200, interval=0.01))
    for number in range(20):
        key, psk = Keypair.generate().public_key, sh("wg genpsk").strip()
        peer = {"publicKey": key, "presharedKey": psk, "allowedIps": [f"10.50.{number}.0/24", "fd50::/64"]}
        await server.add_wg_peer({**peer, "endpoint": "10.99.1.2:999", "persistentKeepalive": 7})
        shown = sh(f"wg show {name} dump")
        assert f"{key}\t{psk}\t10.99.1.2:999\t10.50.{number}.0/24,fd50::/64\t" in shown
        assert "\t7\n" in shown
        await server.remove_wg_peer(key)
        assert key not in sh(f"wg show {name} peers")
    assert await flood == 200


async def refusals(server: VpnServer, alice: ConfigBundle) -> None:
    """Rules about packets are refused by their field, and nothing changes."""
    for field, value in (
        ("destinationBlockList", ["10.0.0.1"]),
        ("ipAllowList", ["10.99.1.2"]),
        ("rateLimit", {"bytesPerSec": 1000000, "burstBytes": 100000}),
    ):
        await refused(server.update_client("alice", {"security": {field: value}}), field, "kernel")
    await refused(server.set_client_rate_limit("alice", 1000, 20000), "kernel")
    assert (await server.get_client("alice")).security == alice.entry.security
    assert pings("alice", GATEWAY) == 3


async def entries_that_change(server: VpnServer, alice: ConfigBundle) -> None:
    """Disabled, enabled, kicked, with another key, removed: as with the hub's own WireGuard."""
    await server.disable_client("alice")
    assert pings("alice", GATEWAY, 1) == 0
    assert await _listed(server, {"bob"})
    await server.enable_client("alice")
    await until(lambda: pings("alice", GATEWAY, 1) == 1, "enabled again")
    await until(lambda: _listed(server, {"alice", "bob"}), "listed again")
    await server.disconnect_client("alice")
    assert await _listed(server, {"bob"})
    fresh = await server.rotate_client_key("alice")
    assert pings("alice", GATEWAY, 1) == 0
    join("alice", fresh)
    assert pings("alice", GATEWAY) == 3
    await server.remove_client("alice")
    assert pings("alice", GATEWAY, 1) == 0
    assert alice.entry.wg_public_key not in sh("wg show all peers")


async def what_is_never_reached() -> None:
    """Link-local addresses stay out of reach, though the kernel carries the packets."""
    async with hub() as server:
        alice = await server.create_client("alice")
        join("alice", alice)
        key = sh("ip netns exec alice wg show wg peers").strip()
        sh(f"ip netns exec alice wg set wg peer {key} allowed-ips 0.0.0.0/0")
        for address in ("169.254.7.7", "10.66.0.1"):
            sh(f"ip address add {address}/32 dev lo")
            sh(f"ip -n alice route add {address} dev wg")
        assert pings("alice", "10.66.0.1") == 3
        assert pings("alice", "169.254.7.7") == 0


async def what_a_killed_hub_leaves() -> None:
    """Its interface outlives it; the next start with the same key takes it away and serves again."""
    process = await daemon()
    server = VpnServer({"transport": "socket", "socketPath": str(SOCKET)})
    await server.start(config())
    [name] = interfaces()
    process.kill()
    process.wait()
    with contextlib.suppress(SmartVpnError):
        await server.stop()
    assert interfaces() == [name]
    async with hub() as again:
        assert interfaces() == [name]
        join("alice", await again.create_client("alice"))
        assert pings("alice", GATEWAY) == 3
    assert interfaces() == []


async def what_auto_takes() -> None:
    """The kernel where it can hold everything, else the hub's own; `kernel` says what it cannot."""
    async with hub(wgBackend="auto"):
        assert len(interfaces()) == 1
    async with hub(wgBackend="auto", defaultRateLimitBytesPerSec=1_000_000):
        assert interfaces() == []
    for changes, words in (
        ({"defaultRateLimitBytesPerSec": 1_000_000}, "defaultRateLimitBytesPerSec"),
        ({"transportMode": "all", "listenAddr": "127.0.0.1:8000"}, "transportMode"),
    ):
        await refused(start_with(changes), "wgBackend", words)
    assert interfaces() == []


async def main() -> None:
    """All of it."""
    config.pair = Keypair.generate()  # type: ignore[attr-defined]
    for name in HUB:
        machine(name)
    for check in (clients_and_peers, what_is_never_reached, what_a_killed_hub_leaves, what_auto_takes):
        await check()
        print(f"ok  {check.__name__}", flush=True)


if __name__ == "__main__":
    os.chdir("/tmp")
    sh("ip link set lo up")
    try:
        asyncio.run(main())
    except AssertionError as error:
        print(f"FAIL {error}", file=sys.stderr)
        raise
