"""The machine sleeps and wakes up: the tunnel is there again at once, and so are its name servers.

A test cannot put its machine to sleep; tests/kernel/suspend.py has one of QEMU's for that. What a daemon sees
of it is made here: it is stopped for a while, the clock that goes on in sleep is ahead then, and the kernel
tells those who wait for jumps of the wall clock, as it does at waking up (timerfd_create(2),
TFD_TIMER_CANCEL_ON_SET), because the clock is set forward by a nanosecond.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from smartvpn.client import VpnClient
from smartvpn.types import TunnelState
from tests.netns.talk import Talk
from tests.netns.test_auto import block, change_address
from tests.netns.test_wg_hub import wg_hub
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY, STDIO, answers, daemon, eventually, hub_on, state_is, tunnel_on
from tests.netns.wg import INNER, pair, pings, until

CLOCK = Path(__file__).parent.parent / "c" / "slept_clock.c"
TUNNELS_SERVERS = ["nameserver 10.8.0.1", "nameserver 10.8.0.53"]
_ADJ_SETOFFSET = 0x0100
_ADJ_NANO = 0x2000
_SIZE_OF_TIMEX = 208
_NANOSECONDS_IN_TIMEX = 80


def jog_clock() -> None:
    """The wall clock jumps by a nanosecond: whoever asked to be told of jumps is told (not so of none)."""
    timex = ctypes.create_string_buffer(_SIZE_OF_TIMEX)
    ctypes.c_uint.from_buffer(timex).value = _ADJ_SETOFFSET | _ADJ_NANO
    ctypes.c_long.from_buffer(timex, _NANOSECONDS_IN_TIMEX).value = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(timex) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")


def slept_clock(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A file that says how many nanoseconds the machine has slept, and what makes a program believe it."""
    slept, library = folder / "slept", folder / "slept_clock.so"
    slept.write_bytes(bytes(8))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(CLOCK)], check=True)
    return slept, (f"LD_PRELOAD={library}", f"SLEPT_CLOCK={slept}")


class Sleeper:
    """A client's daemon on a machine that can sleep."""

    def __init__(self, machine: Topology, folder: Path) -> None:
        self._slept, settings = slept_clock(folder)
        at = daemon(machine, "client", "client")
        place = at.index("env") + 1
        self.command = [*at[:place], *settings, *at[place:]]

    def sleep(self, pid: int, seconds: float) -> None:
        """The machine goes to sleep."""
        os.kill(pid, signal.SIGSTOP)
        before = int.from_bytes(self._slept.read_bytes(), "little")
        with self._slept.open("r+b") as file:
            file.write((before + int(seconds * 1e9)).to_bytes(8, "little"))

    def client(self, config: Any) -> VpnClient:
        """To be entered with `async with`."""
        return VpnClient(STDIO, config, command=self.command)

    def wake(self, pid: int) -> None:
        """It wakes up."""
        jog_clock()
        os.kill(pid, signal.SIGCONT)


def pid_of(client: VpnClient) -> int:
    """Of its daemon."""
    pid = client.bridge.pid
    assert pid is not None
    return pid


def name_servers(machine: Topology) -> list[str]:
    """What resolv.conf says on the client's machine."""
    lines = machine.resolv_conf("client").read_text().splitlines()
    return [line for line in lines if line.startswith("nameserver")]


@pytest.mark.parametrize("mode", ["websocket", "quic", "both"])
async def test_waking_up(topology: Topology, tmp_path: Path, mode: str) -> None:
    """The old link is dead, since its address translation was forgotten: another is there at once.

    The network's own name servers came back in sleep; in the end they are what they were before.
    """
    sleeper = Sleeper(topology, tmp_path)
    before = topology.resolv_conf("client").read_text()
    async with hub_on(topology, transportMode=mode, dns=["10.8.0.1", "10.8.0.53"]) as server:
        bundle = await server.create_client("alice")
        async with sleeper.client(bundle.smartvpn_config) as client:
            address = (await client.connect()).assigned_ip
            assert name_servers(topology) == TUNNELS_SERVERS
            pid = pid_of(client)
            talk = Talk(topology)
            await talk.goes_on()
            [session] = await server.list_clients()
            port = session.remote_addr.rpartition(":")[2]
            sleeper.sleep(pid, 3600)
            block(topology, f"th sport {port}")
            topology.resolv_conf("client").write_text(before)
            await asyncio.sleep(1)  # what was under way when it fell asleep
            begin = time.monotonic()
            sleeper.wake(pid)

            async def back() -> bool:
                return name_servers(topology) == TUNNELS_SERVERS

            took = await talk.goes_on()
            await eventually(back)
            print(f"woken up, {mode}: traffic after {took:.2f} s, all after {time.monotonic() - begin:.2f} s")
            assert took < 5

            async def moved() -> bool:
                addresses = [one.remote_addr for one in await server.list_clients()]
                return len(addresses) == 1 and not addresses[0].endswith(f":{port}")

            await eventually(moved)
            await state_is(client, TunnelState.CONNECTED)
            assert (await client.get_status()).assigned_ip == address
            await client.disconnect()
            assert topology.resolv_conf("client").read_text() == before


async def test_waking_up_by_wireguard(topology: Topology, tmp_path: Path) -> None:
    """The hub has no keys with the client any more: others are there at once, not after 15 s of silence."""
    sleeper = Sleeper(topology, tmp_path)
    before = topology.resolv_conf("client").read_text()
    async with wg_hub(topology) as server:
        bundle = await server.create_client("alice")
        config = evolve(bundle.smartvpn_config, dns=("10.8.0.1", "10.8.0.53"))
        async with sleeper.client(config) as client:
            await client.connect()
            assert await answers(topology, GATEWAY)
            pid = pid_of(client)
            sleeper.sleep(pid, 3600)
            await server.disconnect_client("alice")
            topology.resolv_conf("client").write_text(before)
            states: list[TunnelState] = []
            client.on("status", lambda event: states.append(event.status.state))
            sleeper.wake(pid)
            begin = time.monotonic()
            await eventually(lambda: answers(topology, GATEWAY))
            print(f"woken up, WireGuard: traffic after {time.monotonic() - begin:.2f} s")
            assert time.monotonic() - begin < 10

            async def back() -> bool:
                return name_servers(topology) == TUNNELS_SERVERS

            await eventually(back)
            await state_is(client, TunnelState.CONNECTED)
            different = [state for state, _ in itertools.groupby(states)]
            assert different == [TunnelState.RECONNECTING, TunnelState.CONNECTED]


def test_a_device_makes_its_keys_anew(topology: Topology, tmp_path: Path) -> None:
    """Though nothing is sent: two devices on machines that slept shake hands again, and both ways work."""
    slept, settings = slept_clock(tmp_path)
    with pair(topology, env=settings) as (one, other):
        assert pings(topology, "client", INNER["hub"][0]) == 3
        first = one.handshake(other)
        time.sleep(1.5)  # handshakes are told by the second
        slept.write_bytes((10**12).to_bytes(8, "little"))
        jog_clock()
        until(lambda: one.handshake(other) > first)
        assert pings(topology, "client", INNER["hub"][0]) == 3
        assert pings(topology, "hub", INNER["client"][0]) == 3


async def test_name_servers_that_come_late(topology: Topology) -> None:
    """Somebody sets those of another network after its addresses: they are what comes back in the end."""
    others = "search other.example\nnameserver 198.51.100.53\n"
    async with tunnel_on(topology, dns=["10.8.0.1", "10.8.0.53"]) as (_, client):
        assert name_servers(topology) == TUNNELS_SERVERS
        change_address(topology)
        await asyncio.sleep(0.5)
        topology.resolv_conf("client").write_text(others)

        async def back() -> bool:
            return name_servers(topology) == TUNNELS_SERVERS

        await eventually(back)
        assert "search other.example\n" in topology.resolv_conf("client").read_text()
        await client.disconnect()
        assert topology.resolv_conf("client").read_text() == others
