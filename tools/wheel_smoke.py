"""Run inside an installation of a wheel: the C core loads from it, works, takes nothing of the system.

A hub serves a client over loopback, both in this process and in a network namespace of their own: once over
WebSocket and once over QUIC. Prints one line.
"""

from __future__ import annotations

import asyncio
import platform
import re
import sys
from pathlib import Path

from attrs import evolve

import smartvpn
from smartvpn import PrivateKey, PublicKey
from smartvpn._control import Fanout
from smartvpn._native import aead_name, has_quic
from smartvpn.commands import ConnectParams, CreateClientParams, NoParams, StartParams
from smartvpn.config import ServerConfig, Transport, TransportMode
from smartvpn.hub import Hub
from smartvpn.tunnel import Tunnel


def foreign_libraries() -> set[str]:
    """Libraries of the core that this process has from elsewhere than the installed wheels."""
    ours = str(Path(smartvpn.__file__).parents[1])
    loaded = set(re.findall(r"(/\S+\.so[.\d]*)$", Path("/proc/self/maps").read_text(), re.MULTILINE))
    core = re.compile(r"sodium|curl|websockets|libuv|libb2|gnutls|IPSec_MB")
    return {path for path in loaded if core.search(path) and not path.startswith(ours)}


async def sessions() -> tuple[str, set[str]]:
    """Hub and client, as the daemon makes them.

    Returns what the client was told, by each transport, and the foreign libraries of that time: plugins are
    gone again when it is over.
    """
    key = PrivateKey.generate()
    config = ServerConfig(
        listen_addr="127.0.0.1:7443",
        private_key=key.base64,
        public_key=str(key.public_key),
        subnet="10.8.0.0/24",
        registry=":memory:",
        transport_mode=TransportMode.BOTH,
    )
    hub, tunnel = Hub(Fanout(), workers=1), Tunnel(Fanout())
    await hub.start(StartParams(config=config))
    try:
        bundle = await hub.create_client(CreateClientParams(client_id="alice"))
        told = []
        for transport in (Transport.WEBSOCKET, Transport.QUIC):
            config = evolve(bundle.smartvpn_config, transport=transport)
            result = await tunnel.connect(ConnectParams(config=config))
            assert result.transport == transport
            assert (await hub.get_statistics(NoParams())).active_clients == 1
            told.append(f"{result.assigned_ip} over {result.transport}")
            await tunnel.disconnect(NoParams())
        return ", ".join(told), foreign_libraries()
    finally:
        await tunnel.stop()
        await hub.stop()


def main() -> int:
    """The exit status: 0 when all of it works."""
    key = PrivateKey.generate()
    assert PublicKey(str(key.public_key)) == key.public_key
    assert has_quic()
    words, foreign = "no session tried", foreign_libraries()
    if "--session" in sys.argv:
        words, foreign = asyncio.run(sessions())
    print(f"smartvpn {smartvpn.__version__} on {platform.machine()}: {aead_name()}; {words}")
    if foreign:
        print(f"taken from the system: {', '.join(sorted(foreign))}", file=sys.stderr)
    return bool(foreign)


if __name__ == "__main__":
    sys.exit(main())
