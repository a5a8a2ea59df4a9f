"""A hub's parts on their own, with stand-ins for engine, registry and network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from attrs import fields_dict

from smartvpn._control import EnginePump, Fanout
from smartvpn._native import ClientCounters, Counters, EventKind, NativeEvent, Session
from smartvpn.commands import NoParams, StartParams
from smartvpn.config import ServerConfig, TransportMode, WgPeerConfig
from smartvpn.errors import ConfigError, ConflictError, SmartVpnError
from smartvpn.hub import Hub, _running, _traffic
from smartvpn.hub._running import Running
from smartvpn.hub._traffic import Traffic
from smartvpn.network import Network
from smartvpn.registry import Origin
from smartvpn.registry.sqlite import SqliteRegistry
from smartvpn.types import ClientTotals, Keypair, TunnelState

# counters


class CountingEngine:
    """Has counted 100 bytes for alice."""

    def totals(self, client_id: str | None = None) -> list[ClientCounters]:
        """The same at every look."""
        return [ClientCounters(client_id="alice", totals=ClientTotals(bytes_sent=100), rate_limit=None)]


class SlowRegistry:
    """Writes at once, as a disk does that answers late: the answer waits for `answers`."""

    def __init__(self) -> None:
        self.written = 0
        self.began, self.answers = asyncio.Event(), asyncio.Event()

    async def add_totals(self, counted: Iterable[tuple[str, ClientTotals]]) -> None:
        """Add."""
        self.written += sum(totals.bytes_sent for _, totals in counted)
        self.began.set()
        await self.answers.wait()


async def test_counters_are_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that stops while its counters are being written does not write them again."""
    monkeypatch.setattr(_traffic, "ROLL_UP_SECS", 0)
    registry: Any = SlowRegistry()
    engine: Any = CountingEngine()
    traffic = Traffic(engine, registry)
    traffic.begin()
    await registry.began.wait()
    closing = asyncio.create_task(traffic.close())
    await asyncio.sleep(0.05)
    registry.answers.set()
    await closing
    assert registry.written == 100


# a start that fails, and an end that does


def config(**more: Any) -> ServerConfig:
    """A hub of WireGuard alone."""
    pair = Keypair.generate()
    return ServerConfig(
        private_key=pair.private_key,
        public_key=pair.public_key,
        subnet="10.8.0.0/24",
        transport_mode=TransportMode.WIREGUARD,
        server_endpoint="vpn.example.org",
        registry=":memory:",
        **more,
    )


class OpenEngine:
    """An engine that is open until it is closed."""

    interface, port, wg_port = "svpn-test", 0, 51820

    def __init__(self) -> None:
        self.closed = False
        self.peers: dict[str, WgPeerConfig] = {}

    def begin(self) -> None:
        """Nobody comes."""

    def check_wg_peer(self, peer: WgPeerConfig, _: str | None) -> None:
        """Every peer is welcome."""

    def put_wg_peer(self, peer: WgPeerConfig, _: str | None) -> None:
        """Add or change."""
        self.peers[peer.public_key] = peer

    def remove_wg_peer(self, public_key: str) -> None:
        """Remove."""
        del self.peers[public_key]

    def wg_peers(self, public_key: str | None = None) -> list[SimpleNamespace]:
        """One or all, as far as anybody looks."""
        wanted = self.peers.values() if public_key is None else [self.peers[public_key]]
        return [SimpleNamespace(client_id="", allowed_ips=peer.allowed_ips) for peer in wanted]

    def totals(self) -> list[ClientCounters]:
        """Nothing was counted."""
        return []

    def close(self) -> None:
        """Close."""
        self.closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> tuple[OpenEngine, list[SqliteRegistry]]:
    """The engine that a start opens, and the registries that were closed."""
    engine, closed = OpenEngine(), list[SqliteRegistry]()
    close = SqliteRegistry.close

    async def noted(registry: SqliteRegistry) -> None:
        closed.append(registry)
        await close(registry)

    monkeypatch.setattr(SqliteRegistry, "close", noted)
    monkeypatch.setattr(_running, "open_engine", lambda *_: (engine, False))
    return engine, closed


async def test_a_certificate_that_is_none(opened: tuple[OpenEngine, list[SqliteRegistry]]) -> None:
    """It is named, and what the start had opened is closed."""
    engine, closed = opened
    pem = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"
    with pytest.raises(ConfigError, match=r"^tlsCert: "):
        await Running.open(config(tls_cert=pem, tls_key=pem), Fanout(), None, 1)
    assert engine.closed
    assert len(closed) == 1


async def test_a_network_that_cannot_be_put_back(
    opened: tuple[OpenEngine, list[SqliteRegistry]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's end tells it, and closes everything else; a start that failed by it leaves nothing either."""

    def full(*_: object, **__: object) -> None:
        raise SmartVpnError("cannot write the journal")

    engine, closed = opened
    monkeypatch.setattr(Network, "configure_hub", full)
    monkeypatch.setattr(Network, "restore", full)
    with pytest.raises(SmartVpnError, match="cannot write the journal"):
        await Running.open(config(), Fanout(), None, 1)
    assert engine.closed
    assert len(closed) == 1


# peers that are no clients


async def test_a_peer_without_its_routes(
    opened: tuple[OpenEngine, list[SqliteRegistry]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a route is another's already, the peer is as it was, and the next one is not in its way."""

    def taken(_: Network, *, routes: list[str], **__: object) -> None:
        if "192.168.1.0/24" in routes:
            raise ConflictError("a route to 192.168.1.0/24 exists already")

    engine, _ = opened
    monkeypatch.setattr(Network, "configure_hub", taken)
    monkeypatch.setattr(Network, "restore", lambda _: None)
    monkeypatch.setattr(_running, "EnginePump", lambda *_: None)
    first, second = Keypair.generate().public_key, Keypair.generate().public_key
    running = await Running.open(config(), Fanout(), None, 1)
    good = WgPeerConfig(public_key=first, allowed_ips=["10.60.0.0/24"])
    by = Origin(uid=7, action="addWgPeer")
    await running.put_peer(good, None, by)
    for key in (first, second):
        with pytest.raises(ConflictError):
            await running.put_peer(WgPeerConfig(public_key=key, allowed_ips=["192.168.1.0/24"]), None, by)
    assert engine.peers == {first: good}
    await running.put_peer(WgPeerConfig(public_key=second, allowed_ips=["10.70.0.0/24"]), None, by)
    assert running.peers.routes_beyond() == ["10.60.0.0/24", "10.70.0.0/24"]
    records = [record.detail for record in await running.registry.audit() if record.action == "addWgPeer"]
    assert [("failed" in detail, detail["publicKey"]) for detail in reversed(records)] == [
        (False, first),
        *((failed, key) for key in (first, second) for failed in (False, True)),
        (False, second),
    ]
    await running.close()


# nothing that grows with the sessions is done on the loop


class PatientEngine(OpenEngine):
    """Answers what is long only when the loop has served somebody else meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.served = threading.Event()

    def _wait(self) -> None:
        assert self.served.wait(10), "the loop stood still"
        self.served.clear()

    def sessions(self, _: str | None = None) -> list[Session]:
        """None."""
        self._wait()
        return []

    def wg_peers(self, public_key: str | None = None) -> list[SimpleNamespace]:
        """As many as there are."""
        self._wait()
        return super().wg_peers(public_key)

    def counters(self) -> Counters:
        """Nothing."""
        self._wait()
        return Counters(**dict.fromkeys(fields_dict(Counters), 0))


LONG: dict[str, Callable[[Hub], Awaitable[object]]] = {
    "listClients": lambda hub: hub.list_clients(NoParams()),
    "listWgPeers": lambda hub: hub.list_wg_peers(NoParams()),
    "getStatistics": lambda hub: hub.get_statistics(NoParams()),
    "metrics": lambda hub: hub.telemetry(),
}


@pytest.mark.parametrize("name", LONG)
async def test_long_looks_hold_up_nobody(
    opened: tuple[OpenEngine, list[SqliteRegistry]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Other commands are answered while the engine lists sessions and peers."""
    engine = PatientEngine()
    monkeypatch.setattr(_running, "open_engine", lambda *_: (engine, False))
    monkeypatch.setattr(_running, "EnginePump", lambda *_: None)
    monkeypatch.setattr(Network, "configure_hub", lambda *_, **__: None)
    monkeypatch.setattr(Network, "restore", lambda _: None)
    hub = Hub(Fanout())

    async def serve_others() -> None:
        while True:
            await hub.get_status(NoParams())
            engine.served.set()
            await asyncio.sleep(0)

    serving = asyncio.create_task(serve_others())
    await hub.start(StartParams(config=config()))
    await LONG[name](hub)
    await hub.stop()
    serving.cancel()


class EventfulEngine:
    """Has told of a thousand sessions that ended, all at once."""

    def __init__(self) -> None:
        self.left = 1000
        self.event_fd = os.eventfd(1)

    def next_event(self) -> NativeEvent | None:
        """The next one; without any the descriptor is no longer readable."""
        if not self.left:
            with contextlib.suppress(BlockingIOError):
                os.set_blocking(self.event_fd, False)
                os.eventfd_read(self.event_fd)
            return None
        self.left -= 1
        return NativeEvent(
            kind=EventKind.SESSION_ENDED,
            client_id="alice",
            session_id="00" * 16,
            state=TunnelState.DISCONNECTED,
            code=0,
            status=0,
            reason="gone",
            count=0,
        )

    def close(self) -> None:
        """Close."""
        os.close(self.event_fd)


@pytest.mark.parametrize("at_the_end", [False, True])
async def test_a_burst_of_events_holds_up_nobody(at_the_end: bool) -> None:
    """Others have their turns in the midst of a thousand events, and all are handed on."""
    engine: Any = EventfulEngine()
    handled: list[NativeEvent] = []
    turns: list[int] = []

    async def take_turns() -> None:
        while len(handled) < 1000:
            turns.append(len(handled))
            await asyncio.sleep(0)

    pump = EnginePump(engine, handled.append)
    taking = asyncio.create_task(take_turns())
    if not at_the_end:
        await taking
    await pump.close()
    await taking
    assert len(handled) == 1000
    assert len([turn for turn in turns if 0 < turn < 1000]) >= 3


async def test_a_roll_up_holds_up_nobody() -> None:
    """The counters of many clients are taken in parts."""
    many = [
        ClientCounters(client_id=f"c{n}", totals=ClientTotals(bytes_sent=1), rate_limit=None)
        for n in range(1000)
    ]
    registry: Any = SlowRegistry()
    registry.answers.set()
    traffic = Traffic(cast(Any, SimpleNamespace(totals=lambda: many)), registry)
    turns: list[int] = []

    async def take_turns() -> None:
        while not registry.began.is_set():
            turns.append(len(traffic._pending))
            await asyncio.sleep(0)

    taking = asyncio.create_task(take_turns())
    await traffic.roll_up()
    await taking
    assert registry.written == 1000
    assert len(set(turns) - {0, 1000}) >= 3
