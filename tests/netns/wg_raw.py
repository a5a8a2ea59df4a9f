"""A WireGuard peer written from the paper, with other people's Noise, BLAKE2s and XChaCha20-Poly1305.

Runs inside a namespace: `python -m tests.netns.wg_raw SCENARIO JSON`; prints what it saw as JSON.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
from noise.connection import Keypair, NoiseConnection

PROLOGUE = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
ZERO = bytes(16)


def _mac(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def _tai64n(when: float) -> bytes:
    return struct.pack(">QI", 2**62 + 10 + int(when), int(when % 1 * 1e9))


def icmp_echo(source: str, target: str, sequence: int) -> bytes:
    """An ICMP echo request in IPv4."""

    def checksum(data: bytes) -> int:
        total = sum(struct.unpack(f">{len(data) // 2}H", data))
        total = (total & 0xFFFF) + (total >> 16)
        return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF

    icmp = struct.pack(">BBHHH", 8, 0, 0, 7, sequence) + b"x" * 32
    icmp = icmp[:2] + struct.pack(">H", checksum(icmp)) + icmp[4:]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(icmp), 1, 0, 64, 1, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + icmp


class RawPeer:
    """One static key, one socket, at most one session."""

    def __init__(self, private: str, peer: str, psk: str | None, endpoint: tuple[str, int]) -> None:
        self._private = base64.b64decode(private)
        self.peer = base64.b64decode(peer)
        self._psk = base64.b64decode(psk) if psk else bytes(32)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(1)
        self.endpoint = endpoint
        self.cookie: bytes | None = None
        self.last_mac1 = b""
        self.index = struct.unpack("<I", os.urandom(4))[0]
        self.counter = 0

    def initiation(self, when: float | None = None) -> bytes:
        """148 bytes; a new handshake begins with it."""
        noise = NoiseConnection.from_name(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        noise.set_as_initiator()
        noise.set_prologue(PROLOGUE)
        noise.set_psks(self._psk)
        noise.set_keypair_from_private_bytes(Keypair.STATIC, self._private)
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, self.peer)
        noise.start_handshake()
        body = struct.pack("<II", 1, self.index) + noise.write_message(_tai64n(when or time.time()))
        self.noise = noise
        return self.finish(body)

    def finish(self, body: bytes) -> bytes:
        """With mac1, and mac2 where there is a cookie."""
        self.last_mac1 = _mac(_hash(b"mac1----", self.peer), body)
        with_mac1 = body + self.last_mac1
        return with_mac1 + (_mac(self.cookie, with_mac1) if self.cookie else ZERO)

    def send(self, message: bytes) -> None:
        """To the device."""
        self.socket.sendto(message, self.endpoint)

    def receive(self, seconds: float = 1) -> bytes | None:
        """The next datagram, or None."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(65535)
        except TimeoutError:
            return None

    def read_cookie(self, message: bytes) -> None:
        """Section 5.4.7."""
        assert struct.unpack("<II", message[:8]) == (3, self.index)
        key = _hash(b"cookie--", self.peer)
        self.cookie = crypto_aead_xchacha20poly1305_ietf_decrypt(
            message[32:], self.last_mac1, message[8:32], key
        )

    def read_response(self, message: bytes) -> None:
        """The session's keys."""
        kind, sender, receiver = struct.unpack("<III", message[:12])
        assert (kind, receiver) == (2, self.index)
        assert self.noise.read_message(message[12:60]) == b""
        self.remote = sender

    def handshake(self) -> bool:
        """Whether it was answered; a cookie is taken and used."""
        for _ in range(3):
            self.send(self.initiation())
            answer = self.receive()
            if answer is None:
                return False
            if answer[0] == 2:
                self.read_response(answer)
                return True
            self.read_cookie(answer)
        return False

    def data(self, packet: bytes) -> bytes:
        """A data message, padded to 16."""
        packet += bytes(-len(packet) % 16)
        header = struct.pack("<IIQ", 4, self.remote, self.counter)
        self.counter += 1
        return header + self.noise.encrypt(packet)

    def opened(self, message: bytes) -> bytes:
        """The packet in a data message."""
        assert struct.unpack("<II", message[:8]) == (4, self.index)
        plain: bytes = self.noise.decrypt(message[16:])
        return plain


def talk(peer: RawPeer, config: dict[str, Any]) -> dict[str, Any]:
    """A handshake, two pings, a replay of everything, messages that are nothing."""
    seen: dict[str, Any] = {"handshake": peer.handshake()}
    first = peer.data(icmp_echo(config["source"], config["target"], 1))
    peer.send(first)
    reply = peer.opened(peer.receive() or b"")
    seen["reply"] = reply[20] == 0 and reply[12:16] == socket.inet_aton(config["target"])
    seen["padded"] = len(reply) % 16
    peer.send(first)
    seen["replayed data"] = peer.receive(0.5) is not None
    stale = peer.initiation(time.time() - 1000)
    peer.send(stale)
    seen["old timestamp"] = peer.receive(0.5) is not None
    return seen


def nonsense(peer: RawPeer, _: dict[str, Any]) -> dict[str, Any]:
    """Whatever is not a right message gets no answer."""
    good = peer.initiation()
    wrong_mac = good[:116] + bytes(16) + good[132:]
    body = good[:8] + bytes(108)
    messages = [
        b"",
        b"\0",
        b"\1\0\0\0",
        good[:-1],
        good + b"\0",
        wrong_mac,
        peer.finish(body),
        os.urandom(1400),
    ]
    messages += [bytes([kind, 0, 0, 0]) + os.urandom(size) for kind in range(6) for size in (28, 60, 88, 144)]
    for message in messages:
        peer.send(message)
    return {"answers": peer.receive(0.5) is not None, "still answers": _later(peer)}


def _later(peer: RawPeer) -> bool:
    peer.index ^= 1
    return peer.handshake()


def flood(peer: RawPeer, config: dict[str, Any]) -> dict[str, Any]:
    """Initiations with a right mac1 from many ports, or addresses: as many as go out, or less with `pause`.

    It ends after some seconds; with `hold` when standard input does.
    """
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(config.get("sockets", 50))]
    for number, one in enumerate(sockets):
        one.bind((config.get("from", "0.0.0.0").format(number), 0))
    message = peer.initiation()
    body = bytearray(message[:116])
    began = time.monotonic()
    sent = cookies = answers = 0
    while time.monotonic() < began + float(config["seconds"]):
        if config.get("hold") and select.select([sys.stdin], [], [], 0)[0]:
            break
        for one in sockets:
            body[8:40] = os.urandom(32)
            one.sendto(peer.finish(bytes(body)), peer.endpoint)
            sent += 1
        time.sleep(config.get("pause", 0))
        for one in sockets:
            for answer in _received(one):
                cookies += answer[0] == 3
                answers += answer[0] != 3
    seconds = time.monotonic() - began
    return {"sent": sent, "cookies": cookies, "answers": answers, "seconds": seconds}


def _received(one: socket.socket) -> Iterator[bytes]:
    """What waits."""
    while True:
        try:
            yield one.recv(2000, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return


def crowd(_: RawPeer, config: dict[str, Any]) -> dict[str, Any]:
    """Under load: many peers of one address begin at once, with a right cookie; one of another too."""
    endpoint = tuple(config["endpoint"])
    peers = [RawPeer(private, config["peer"], None, endpoint) for private in config["privates"]]
    *many, apart = peers
    shared = many[0].socket
    shared.bind((config["from"], 0))
    apart.socket.bind((config["apart from"], 0))
    cookie = _cookie_of(many[0])
    _cookie_of(apart)
    for one in many:
        one.socket, one.cookie = shared, cookie
    messages = [one.initiation() for one in many]
    began = last = time.monotonic()
    for message in messages:
        shared.sendto(message, endpoint)
    came_in = any(apart.handshake() for _ in range(10))
    shared.settimeout(1)
    kinds = []
    with contextlib.suppress(TimeoutError):
        while True:
            kinds.append(shared.recv(2000)[0])
            last = time.monotonic()
    answered = kinds.count(2)
    return {"answered": answered, "others": len(kinds) - answered, "seconds": last - began, "apart": came_in}


def _cookie_of(peer: RawPeer) -> bytes:
    while not peer.cookie:
        peer.send(peer.initiation())
        answer = peer.receive()
        if answer and answer[0] == 3:
            peer.read_cookie(answer)
    return peer.cookie


SCENARIOS = {"talk": talk, "nonsense": nonsense, "flood": flood, "crowd": crowd}


if __name__ == "__main__":
    _scenario, _text = sys.argv[1:]
    _config = json.loads(_text)
    _peer = RawPeer(_config["private"], _config["peer"], _config.get("psk"), tuple(_config["endpoint"]))
    print(json.dumps(SCENARIOS[_scenario](_peer, _config)))
