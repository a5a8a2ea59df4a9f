"""Tunnels from a machine that really sleeps: python -m tests.kernel.suspend

A machine of QEMU's has a client for each transport; their router, which translates and forgets what is
silent, and the hub stay awake, in namespaces of this machine. It is suspended to RAM three times: for ten
seconds; until the hub has given up the links; until it has given up the sessions and WireGuard's keys.
Traffic must flow again soon, from the same address, over the same connections, and the tunnel's name servers
must be set.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from smartvpn._json import to_json
from smartvpn.config import Transport
from smartvpn.server import VpnServer
from tests.kernel.guest import Guest, until
from tests.kernel.vm import SKIPPED
from tests.netns.talk import ECHO
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, hub_on

NATIVE = ("quic", "websocket", "auto")
NAMES = (*NATIVE, "wireguard")
WG_PORT = 51820
RESUME_SECS = 60
# s from waking up: a client that does not notice sleep may need 15 for traffic, and one that finds no network
# when it wakes up asks again after 5, a second time if its routes were not there. Emulated programs are slow.
SOON, AWAY_SOON, NAMES_SOON = 12, 20, 40
ROUTER = """
add table ip nat
add chain ip nat post { type nat hook postrouting priority 100; }
add rule ip nat post oifname outer masquerade
"""
FORGETFUL = ("udp_timeout", "udp_timeout_stream", "tcp_timeout_established")
SILENCE = "add table ip sleep; add chain ip sleep none { type filter hook forward priority 0; policy drop; }"


def make_router(topology: Topology) -> None:
    """The topology's client becomes a router, with a network for each of the machine's cards."""
    for number, _ in enumerate(NAMES, 1):
        topology.run("client", "ip", "tuntap", "add", "dev", f"tap{number}", "mode", "tap")
        topology.run("client", "ip", "address", "add", f"10.77.{number}.1/24", "dev", f"tap{number}")
        topology.run("client", "ip", "link", "set", f"tap{number}", "up")
    topology.run("client", "nft", ROUTER)
    values = [f"net.netfilter.nf_conntrack_{name}=20" for name in FORGETFUL]
    topology.run("client", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", *values)


async def config_of(server: VpnServer, name: str) -> Any:
    """A new client's, for the transport of that name."""
    bundle = await server.create_client(name)
    if name != "wireguard":
        return to_json(evolve(bundle.smartvpn_config, transport=Transport(name)))
    return {
        "transport": "wireguard",
        "serverPublicKey": re.findall("PublicKey = (.*)", bundle.wireguard_config)[-1],
        "wgPrivateKey": bundle.secrets.wg_private_key,
        "wgAddress": bundle.entry.assigned_ip,
        "wgEndpoint": f"{HUB_OUTER}:{WG_PORT}",
        "wgAllowedIps": ["0.0.0.0/0"],
        "dns": [GATEWAY],
    }


@frozen
class Nap:
    """One sleep."""

    seconds: int  # by the machine's own clock; 0: until `over`, when it is woken
    over: Callable[[], Awaitable[None]]
    away: bool = (
        False  # the network is left before, and is there again, with another address, after waking up
    )


class Check:
    """The clients, what the hub sees of them, and their sleep."""

    def __init__(self, topology: Topology, server: VpnServer, guest: Guest) -> None:
        self._topology, self._server, self._guest = topology, server, guest
        self._address: dict[str, str] = {}
        self._links: Counter[str] = Counter()
        server.on("client-connected", lambda event: self._links.update([event.client.client_id]))

    async def connect(self) -> None:
        """All clients; from now on something goes to each of them all the time."""
        await self._guest.ask("start", names=NAMES)
        for name in NAMES:
            config = await config_of(self._server, name)
            told = await self._guest.ask("connect", name=name, config=config)
            self._address[name] = told["address"]
            print(f"  {name}: connected by {told['transport']}", flush=True)
            self._topology.popen("hub", "ping", "-n", "-q", told["address"], stdout=subprocess.DEVNULL)

    async def naps(self) -> bool:
        """Whether all was as it should be after each of them."""
        naps = (Nap(10, self._nothing), Nap(0, self._links_are_gone, away=True), Nap(0, self._all_is_gone))
        well = [await self._sleep(nap) for nap in naps]
        return all(well)

    async def _nothing(self) -> None:
        pass

    async def _links_are_gone(self) -> None:
        await until(lambda: self._are_gone(NATIVE), "the hub gives the links up", 200)

    async def _all_is_gone(self) -> None:
        await self._links_are_gone()
        await asyncio.sleep(RESUME_SECS)
        await until(lambda: self._are_gone(NAMES), "WireGuard's keys are too old", 200)

    async def _are_gone(self, names: Sequence[str]) -> bool:
        return not {info.client_id for info in await self._server.list_clients()}.intersection(names)

    async def _sleep(self, nap: Nap) -> bool:
        self._links.clear()
        woken = await self._guest.fall_asleep(nap.seconds, nap.away)
        self._topology.run("client", "nft", SILENCE)  # who sleeps hears nothing, and nothing waits for him
        await nap.over()
        if not nap.seconds:
            await self._guest.wake_up()
        await self._guest.is_awake()
        self._topology.run("client", "nft", "delete table ip sleep")
        told = await woken
        print(f"slept {told['slept']:.0f} s{', then another address' if nap.away else ''}", flush=True)
        soon = AWAY_SOON if nap.away else SOON
        well = [self._is_well(name, client, soon) for name, client in told["clients"].items()]
        return told["slept"] > 5 and all(well)

    def _is_well(self, name: str, woken: dict[str, Any], soon: float) -> bool:
        limits = {"ping": soon, "talk": soon, "dns": NAMES_SOON}
        faults = [f"{what} is late" for what, limit in limits.items() if (woken[what] or math.inf) > limit]
        if woken["address"] != self._address[name]:
            faults.append(f"another address: {woken['address']}")
        if (woken["state"], woken["steady"]) != ("connected", True):
            faults.append(f"{woken['state']}, steady: {woken['steady']}")
        if max(woken["reconnects"], self._links[name]) > 1:
            faults.append("more than one reconnect")
        words = [f"{what} {woken[what]} s" for what in limits]
        words += [
            woken["transport"],
            f"{woken['reconnects']} reconnects",
            f"{self._links[name]} new at the hub",
        ]
        print(f"  {name}: {', '.join(words)}{'; FAIL: ' if faults else ''}{', '.join(faults)}", flush=True)
        return not faults


async def check(folder: Path) -> bool:
    """Whether tunnels survive sleep."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # nothing is left behind
    begun = time.monotonic()
    changes = {"serverEndpoint": HUB_OUTER, "wgListenPort": WG_PORT, "resumeLifetimeSecs": RESUME_SECS}
    with Topology() as topology:
        make_router(topology)
        async with hub_on(topology, transportMode="all", enableNat=True, dns=[GATEWAY], **changes) as server:
            topology.popen("hub", sys.executable, "-c", ECHO, GATEWAY, stdout=subprocess.DEVNULL)
            async with Guest(folder, len(NAMES)).run(topology, "client") as guest:
                print(f"the machine is up after {time.monotonic() - begun:.0f} s", flush=True)
                clients = Check(topology, server, guest)
                await clients.connect()
                good = await clients.naps()
    print(f"{'all is well' if good else 'FAIL'}: {time.monotonic() - begun:.0f} s", flush=True)
    return good


def main() -> int:
    """The exit status."""
    if os.geteuid() != 0 or not shutil.which("qemu-system-x86_64") or not shutil.which("mke2fs"):
        print("suspend: needs root, qemu-system-x86 and e2fsprogs (make suspend-test)", file=sys.stderr)
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(check(Path(folder))) else 1


if __name__ == "__main__":
    sys.exit(main())
