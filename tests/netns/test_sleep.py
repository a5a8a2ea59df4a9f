"""The machine sleeps and wakes up: the tunnel is there again at once, and so are its name servers.

A test cannot put its machine to sleep. What a daemon sees of it is made: it is stopped for a while,
the clock that goes on in sleep is ahead then, and the kernel tells those who wait for jumps of the wall
clock, as it does at waking up (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET):
here because the clock is set forward by a nanosecond.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from smartvpn.client import VpnClient
from smartvpn.types import TunnelState
from tests.netns.test_auto import Talk, block, change_address
from tests.netns.topology import Topology
from tests.netns.tunnel import STDIO, daemon, eventually, hub_on, state_is, tunnel_on

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


class Sleeper:
    """A client's daemon on a machine that can sleep."""

    def __init__(self, machine: Topology, folder: Path) -> None:
        self._slept = folder / "slept"
        self._slept.write_bytes(bytes(8))
        library = folder / "slept_clock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(CLOCK)], check=True)
        at = daemon(machine, "client", "client")
        settings = [f"LD_PRELOAD={library}", f"SLEPT_CLOCK={self._slept}"]
        place = at.index("env") + 1
        self.command = [*at[:place], *settings, *at[place:]]

    def sleep(self, pid: int, seconds: float) -> None:
        """The machine goes to sleep."""
        os.kill(pid, signal.SIGSTOP)
        before = int.from_bytes(self._slept.read_bytes(), "little")
        with self._slept.open("r+b") as file:
            file.write((before + int(seconds * 1e9)).to_bytes(8, "little"))

    def wake(self, pid: int) -> None:
        """It wakes up."""
        jog_clock()
        os.kill(pid, signal.SIGCONT)


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
        async with VpnClient(STDIO, bundle.smartvpn_config, command=sleeper.command) as client:
            address = (await client.connect()).assigned_ip
            assert name_servers(topology) == TUNNELS_SERVERS
            pid = client.bridge.pid
            assert pid is not None
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
