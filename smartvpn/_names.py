"""A name's addresses by chosen name servers (RFC 1035), past the system's resolver and around the tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import struct
import threading
from collections.abc import Sequence

from attrs import frozen

ANSWER_SECS = 3.0
_AGAIN_SECS = 1.0
_OTHER_FAMILY_SECS = 0.3  # once there are addresses of one
_PORT = 53
_LARGEST = 4096
_MOST = 8

_HEADER = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, length
_RECURSION_DESIRED, _RESPONSE, _RCODE = 0x0100, 0x8000, 0x000F
_KNOWING = (0, 3)  # no error, no such name
_IN = 1
A, AAAA = 1, 28
_LENGTHS = {A: 4, AAAA: 16}


@frozen
class NameServer:
    """Where to ask; through that interface alone where one is named. `scope` is of a link-local address."""

    address: str
    device: str | None = None
    scope: int = 0


# messages


def query(number: int, name: str, kind: int) -> bytes:
    """A question with that ID for the name's addresses of one kind, A or AAAA."""
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0) + _question(name, kind)


def _question(name: str, kind: int) -> bytes:
    labels = [label.encode("ascii") for label in name.removesuffix(".").split(".")]
    written = b"".join(bytes([len(label)]) + label for label in labels)
    return written + b"\0" + struct.pack("!HH", kind, _IN)


def answer(data: bytes, number: int, name: str, kind: int) -> list[str] | None:
    """The addresses in the answer to `query` with the same arguments; None if that it is not."""
    try:
        return _answer(data, number, name, kind)
    except (struct.error, IndexError):
        return None


def _answer(data: bytes, number: int, name: str, kind: int) -> list[str] | None:
    got, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    question = _question(name, kind)
    at = _HEADER.size + len(question)
    if (got, questions) != (number, 1) or not flags & _RESPONSE:
        return None
    if data[_HEADER.size : at].lower() != question.lower() or flags & _RCODE not in _KNOWING:
        return None
    found = []
    for _ in range(answers):
        at = _after_name(data, at)
        got_kind, got_class, _, length = _FIXED.unpack_from(data, at)
        at += _FIXED.size
        if (got_kind, got_class, length) == (kind, _IN, _LENGTHS[kind]) and at + length <= len(data):
            found.append(str(ipaddress.ip_address(data[at : at + length])))
        at += length
    return found


def _after_name(data: bytes, at: int) -> int:
    """A name ends with an empty label, or with a pointer to elsewhere."""
    while data[at]:
        if data[at] >= 0xC0:
            return at + 2
        at += 1 + data[at]
    return at + 1


# asking


async def by_system(name: str) -> list[str]:
    """What the system's resolver says, in its order, but for link-local addresses. Raises OSError.

    It may take a minute. A thread of its own, unlike one of a pool, holds nobody up at the end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[str]] = loop.create_future()

    def tell(found: list[str], error: OSError | None) -> None:
        if not done.done():
            if error is None:
                done.set_result(found)
            else:
                done.set_exception(error)

    def run() -> None:
        found: list[str] = []
        failed: OSError | None = None
        try:
            listed = [str(item[4][0]) for item in socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)]
            found = [address for address in listed if "%" not in address]
        except OSError as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # nobody is there any more
            loop.call_soon_threadsafe(tell, found, failed)

    threading.Thread(target=run, daemon=True).start()
    return await done


async def look_up(name: str, servers: Sequence[NameServer]) -> list[str]:
    """IPv6 addresses, then IPv4 ones, by the first server that knows any; all are asked at once.

    Empty where none does within seconds.
    """
    asked = [asyncio.create_task(_ask(server, name)) for server in servers]
    try:
        async with asyncio.timeout(ANSWER_SECS):
            for each in asyncio.as_completed(asked):
                with contextlib.suppress(OSError):
                    if found := await each:
                        return found[:_MOST]
    except TimeoutError:
        pass
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return []


async def _ask(server: NameServer, name: str) -> list[str]:
    numbers = {AAAA: secrets.randbelow(1 << 16), A: secrets.randbelow(1 << 16)}
    found: dict[int, list[str]] = {}
    with _connected(server) as link:
        while len(found) < len(numbers):
            for kind in numbers.keys() - found.keys():
                link.send(query(numbers[kind], name, kind))
            with contextlib.suppress(TimeoutError):
                await _collect(link, name, numbers, found)
            if any(found.values()):
                break
    return [address for kind in numbers for address in found.get(kind, ())]


async def _collect(
    link: socket.socket, name: str, numbers: dict[int, int], found: dict[int, list[str]]
) -> None:
    """Until all kinds are answered. Raises TimeoutError when it is time to ask again, or to do without."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_AGAIN_SECS) as limit:
        while len(found) < len(numbers):
            data = await loop.sock_recv(link, _LARGEST)
            for kind, number in numbers.items():
                addresses = answer(data, number, name, kind)
                if kind not in found and addresses is not None:
                    found[kind] = addresses
            if any(found.values()):
                limit.reschedule(loop.time() + _OTHER_FAMILY_SECS)


def _connected(server: NameServer) -> socket.socket:
    """Raises OSError where there is no way to it."""
    v6 = ":" in server.address
    link = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        link.setblocking(False)
        if server.device is not None:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, server.device.encode())
        where = (server.address, _PORT, 0, server.scope) if v6 else (server.address, _PORT)
        link.connect(where)
    except BaseException:
        link.close()
        raise
    return link
