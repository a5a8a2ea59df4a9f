"""Run inside an installation of a wheel: the C core loads from it, works, takes nothing of the system.

A hub serves a client over loopback, both in this process and in a network namespace of their own; what is
pinged is the tunnel. Prints one line.
"""

from __future__ import annotations

import asyncio
import platform
import re
import sys
from pathlib import Path

import smartvpn
from smartvpn import PrivateKey, PublicKey
from smartvpn._control import Fanout
from smartvpn._native import aead_name
from smartvpn.commands import ConnectParams, CreateClientParams, NoParams, StartParams
from smartvpn.config import ServerConfig
from smartvpn.hub import Hub
from smartvpn.tunnel import Tunnel


def foreign_libraries() -> set[str]:
    """Libraries of the core that this process has from elsewhere than the installed wheels."""
    ours = str(Path(smartvpn.__file__).parents[1])
    loaded = set(re.findall(r"(/\S+\.so[.\d]*)$", Path("/proc/self/maps").read_text(), re.MULTILINE))
    core = re.compile(r"sodium|curl|websockets|libuv|libb2|gnutls|IPSec_MB")
    return {path for path in loaded if core.search(path) and not path.startswith(ours)}


async def session() -> str:
    """Hub and client, as the daemon makes them. Returns what the client was told."""
    key = PrivateKey.generate()
    config = ServerConfig(
        listen_addr="127.0.0.1:7443",
        private_key=key.base64,
        public_key=str(key.public_key),
        subnet="10.8.0.0/24",
        registry=":memory:",
    )
    hub, tunnel = Hub(Fanout(), workers=1), Tunnel(Fanout())
    await hub.start(StartParams(config=config))
    try:
        bundle = await hub.create_client(CreateClientParams(client_id="alice"))
        result = await tunnel.connect(ConnectParams(config=bundle.smartvpn_config))
        assert (await hub.get_statistics(NoParams())).active_clients == 1
        return f"{result.assigned_ip} over {result.transport}"
    finally:
        await tunnel.stop()
        await hub.stop()


def main() -> int:
    """The exit status: 0 when all of it works."""
    key = PrivateKey.generate()
    assert PublicKey(str(key.public_key)) == key.public_key
    words = asyncio.run(session()) if "--session" in sys.argv else "no session tried"
    foreign = foreign_libraries()
    print(f"smartvpn {smartvpn.__version__} on {platform.machine()}: {aead_name()}; {words}")
    if foreign:
        print(f"taken from the system: {', '.join(sorted(foreign))}", file=sys.stderr)
    return bool(foreign)


if __name__ == "__main__":
    sys.exit(main())
