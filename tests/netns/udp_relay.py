"""A network between QUIC clients and their hub: it takes time, and gives a client other addresses.

    udp_relay LISTEN HUB ONE_WAY

LISTEN and HUB are host:port. Who sends to the one gets a port of his own towards the other, as behind a
NAT. Lines on stdin are commands; each is answered by a line of JSON:

    move ADDRESS    the client goes on from a fresh port of that address; what is sent to the old one arrives
    forget ADDRESS  the same, and what the hub sends to the old one is dropped
    cut             who is known stays without an answer; who is new is served
    used            the client's address and the port towards the hub; nothing, while it is more than one
    dropped LEAST   datagrams of LEAST bytes and more that ended here; any, where there was no room for them
    shaken          when the newest client had its first answer and sent the next datagram (time.monotonic)
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

Address = tuple[str, int]

_SO_RCVBUFFORCE, _SO_MEMINFO, _DROPS = 33, 55, 8
_AT_ONCE = 64
_A_WHILE = 10  # datagrams each way


def open_port(address: Address, on_datagram: Callable[[bytes, Address], None]) -> socket.socket:
    """A socket whose datagrams are handed on."""
    port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
    port.bind(address)

    def on_readable() -> None:
        for _ in range(_AT_ONCE):
            try:
                on_datagram(*port.recvfrom(65536, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return

    asyncio.get_running_loop().add_reader(port, on_readable)
    return port


def overflowed(port: socket.socket) -> int:
    """What came when the socket was full."""
    return int(struct.unpack("9I", port.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[_DROPS])


@dataclass
class Client:
    """Who sends through here."""

    address: Address
    ports: list[socket.socket] = field(default_factory=list)  # towards the hub; the last is in use
    forgotten: int = 0  # so many of them, the oldest
    cut: bool = False
    answered: bool = False
    shaken: float = 0.0


class Relay:
    """The network."""

    def __init__(self, listen: Address, hub: Address, one_way: float) -> None:
        self._hub, self._one_way = hub, one_way
        self._inner = open_port(listen, self._from_client)
        self._clients: dict[Address, Client] = {}
        self._dropped: list[int] = []
        self._used = [deque[tuple[Address, Address]](maxlen=_A_WHILE) for _ in range(2)]

    def _carry(self, port: socket.socket, data: bytes, target: Address) -> None:
        if self._one_way:
            asyncio.get_running_loop().call_later(self._one_way, port.sendto, data, target)
        else:
            port.sendto(data, target)

    def _from_client(self, data: bytes, source: Address) -> None:
        if source not in self._clients:
            self._clients[source] = Client(source)
            self._open(self._clients[source], "0.0.0.0")
        client = self._clients[source]
        if client.cut:
            self._dropped.append(len(data))
            return
        if client.answered and not client.shaken:
            client.shaken = time.monotonic()
        self._used[0].append((source, client.ports[-1].getsockname()))
        self._carry(client.ports[-1], data, self._hub)

    def _from_hub(self, client: Client, number: int, data: bytes, _: Address) -> None:
        if client.cut or number < client.forgotten:
            self._dropped.append(len(data))
        else:
            client.answered = True
            self._used[1].append((client.address, client.ports[number].getsockname()))
            self._carry(self._inner, data, client.address)

    def _open(self, client: Client, address: str) -> None:
        on_datagram = functools.partial(self._from_hub, client, len(client.ports))
        client.ports.append(open_port((address, 0), on_datagram))

    def _newest(self) -> Client:
        return [*self._clients.values()][-1]

    # commands

    def move(self, address: str) -> None:
        """The hub sees another address."""
        self._open(self._newest(), address)

    def forget(self, address: str) -> None:
        """… and does not reach the old one any more."""
        self._newest().forgotten = len(self._newest().ports)
        self.move(address)

    def cut(self) -> None:
        """Those who are known are cut off."""
        for client in self._clients.values():
            client.cut = True

    def used(self) -> list[tuple[Address, Address]]:
        """The one way that has been used for a while."""
        ways = {*self._used[0], *self._used[1]}
        return [*ways] if len(ways) == 1 and all(len(used) == _A_WHILE for used in self._used) else []

    def dropped(self, least: str) -> int:
        """What has not come through."""
        ports = [port for client in self._clients.values() for port in client.ports]
        return sum(size >= int(least) for size in self._dropped) + sum(
            overflowed(port) for port in [self._inner, *ports]
        )

    def shaken(self) -> float:
        """When the newest client answered the hub's first flight."""
        return self._newest().shaken

    def obey(self) -> None:
        """One command."""
        name, *arguments = sys.stdin.readline().split() or ["end"]
        if name == "end":
            asyncio.get_running_loop().remove_reader(sys.stdin)
        else:
            print(json.dumps(getattr(self, name)(*arguments)), flush=True)


def parsed(text: str) -> Address:
    """host:port"""
    host, _, port = text.rpartition(":")
    return host, int(port)


async def main(listen: str, hub: str, one_way: str) -> None:
    """Until it is killed."""
    relay = Relay(parsed(listen), parsed(hub), float(one_way))
    asyncio.get_running_loop().add_reader(sys.stdin, relay.obey)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
