"""The blocking classes: the same results, without asyncio around them."""

from __future__ import annotations

import inspect
import threading
import time

import pytest

from smartvpn import ConfigError, TunnelState, blocking, bridge, client, server
from smartvpn.events import ClientConnected, Exited
from tests.netns.topology import Topology
from tests.netns.tunnel import daemon, hub_config

STDIO = {"transport": "stdio"}


@pytest.mark.parametrize(
    ("plain", "asynchronous"),
    [
        (blocking.VpnServer, server.VpnServer),
        (blocking.VpnClient, client.VpnClient),
        (blocking.VpnBridge, bridge.VpnBridge),
    ],
)
def test_every_method_is_there(plain: type, asynchronous: type) -> None:
    """Each public coroutine of the asyncio class is a plain method with its name and docstring."""
    for name, method in inspect.getmembers(asynchronous, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            twin = getattr(plain, name)
            assert not inspect.iscoroutinefunction(twin)
            assert (twin.__name__, twin.__doc__) == (name, method.__doc__)


def test_a_tunnel_from_a_plain_script(topology: Topology) -> None:
    """Create a client, connect, see the events on both sides."""
    hub = blocking.VpnServer(STDIO, hub_config(), command=daemon(topology, "hub", "server"))
    with hub:
        connected = hub.events(timeout=20)
        bundle = hub.create_client("alice")
        command = daemon(topology, "client", "client")
        with blocking.VpnClient(STDIO, bundle.smartvpn_config, command=command) as alice:
            states = []
            remove = alice.on("status", lambda event: states.append(event.status.state))
            assert alice.connect().assigned_ip == "10.8.0.2"
            assert isinstance(
                next(event for event in connected if isinstance(event, ClientConnected)), ClientConnected
            )
            remove()
            alice.disconnect()
            assert states[-1] is TunnelState.CONNECTED
        assert not alice.running
    assert not hub.running


def test_errors_come_as_they_are() -> None:
    """The same exceptions as from the asyncio classes."""
    with pytest.raises(ConfigError, match="serverPublicKey"):
        blocking.VpnClient(STDIO, {"serverUrl": "ws://x/"})


def test_events_end() -> None:
    """An iteration ends after `timeout` seconds without an event, and when the object is stopped."""
    plain = blocking.VpnClient(STDIO)
    plain.start()
    assert list(plain.events(timeout=0.1)) == []
    seen: list[object] = []
    events = plain.events()
    reader = threading.Thread(target=lambda: seen.extend(events))
    reader.start()
    time.sleep(0.1)
    plain.stop()
    reader.join(10)
    assert not reader.is_alive()
    assert seen == [Exited(code=0)]


def test_a_callback_must_not_wait() -> None:
    """A call from the loop's own thread would wait for itself: it is refused instead."""
    raised: list[BaseException] = []
    with blocking.VpnBridge("server", STDIO) as plain:

        def call(_: object) -> None:
            try:
                plain.request("getStatus")
            except RuntimeError as error:
                raised.append(error)

        plain.on("exit", call)
        plain.stop()
        with plain:
            pass
    assert len(raised) >= 1
