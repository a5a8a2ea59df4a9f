"""What a daemon, or the bridge to it, reports unasked.

Each class has its `name` on the wire and its `data`, the object that goes with it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import frozen

from smartvpn.types import ClientInfo, Status


@frozen(kw_only=True)
class Event:
    """Base of all events."""

    name: ClassVar[str]

    @property
    def data(self) -> Any:
        """What stands under `data` in the JSON: the event's own fields, or the value it wraps."""
        return self

    @classmethod
    def data_type(cls) -> type:
        """The class of `data`."""
        return cls

    @classmethod
    def of(cls, data: Any) -> Event:
        """The event around its data."""
        if not isinstance(data, cls):
            raise TypeError(f"{cls.__name__} cannot hold {type(data).__name__}")
        return data


@frozen(kw_only=True)
class Ready(Event):
    """The daemon speaks; first on every connection."""

    name = "ready"
    version: str
    mode: str
    protocol: int


@frozen(kw_only=True)
class Started(Event):
    """The hub's listeners are open."""

    name = "started"


@frozen(kw_only=True)
class Stopped(Event):
    """The hub's listeners are closed."""

    name = "stopped"


@frozen(kw_only=True)
class ClientConnected(Event):
    """A client's session is live."""

    name = "client-connected"
    client: ClientInfo

    @property
    def data(self) -> ClientInfo:
        """The client."""
        return self.client

    @classmethod
    def data_type(cls) -> type:
        """ClientInfo."""
        return ClientInfo

    @classmethod
    def of(cls, data: Any) -> ClientConnected:
        """The event around a ClientInfo."""
        return cls(client=data)


@frozen(kw_only=True)
class ClientDisconnected(Event):
    """A client's session has ended; `reason` is the text of the Disconnect code."""

    name = "client-disconnected"
    client_id: str
    session_id: str
    reason: str


@frozen(kw_only=True)
class StatusChanged(Event):
    """The hub or the tunnel changed its state."""

    name = "status"
    status: Status

    @property
    def data(self) -> Status:
        """The status."""
        return self.status

    @classmethod
    def data_type(cls) -> type:
        """Status."""
        return Status

    @classmethod
    def of(cls, data: Any) -> StatusChanged:
        """The event around a Status."""
        return cls(status=data)


@frozen(kw_only=True)
class ErrorReported(Event):
    """Something failed that no command is waiting for."""

    name = "error"
    message: str
    code: str | None = None


@frozen(kw_only=True)
class EventsLost(Event):
    """This subscriber was too slow; its oldest `count` events are gone."""

    name = "events-lost"
    count: int


@frozen(kw_only=True)
class Exited(Event):
    """The daemon ended, with a status or by a signal. Raised by the bridge."""

    name = "exit"
    code: int | None = None
    signal: int | None = None


@frozen(kw_only=True)
class Reconnected(Event):
    """The management socket was attached again. Raised by the bridge."""

    name = "reconnected"


_CLASSES: tuple[type[Event], ...] = (
    Ready,
    Started,
    Stopped,
    ClientConnected,
    ClientDisconnected,
    StatusChanged,
    ErrorReported,
    EventsLost,
    Exited,
    Reconnected,
)

EVENTS: dict[str, type[Event]] = {event.name: event for event in _CLASSES}
