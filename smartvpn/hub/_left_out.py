"""Clients that the registry holds and the engine does not: this hub has no place for them."""

from __future__ import annotations

from attrs import frozen

from smartvpn._native import NativeServer
from smartvpn.config import ClientEntry
from smartvpn.errors import InvalidStateError, SmartVpnError


@frozen
class _Absent:
    reason: str
    held: str | None  # its address, where that is of the subnet: nobody else is given it


class LeftOut:
    """Those clients of one started hub, why each is, and the addresses that are kept for them."""

    def __init__(self, engine: NativeServer) -> None:
        self._engine = engine
        self._absent: dict[str, _Absent] = {}

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._absent

    def add(self, entry: ClientEntry, error: SmartVpnError) -> None:
        """The engine refused it and has not got it."""
        try:
            self._engine.hold_address(entry.assigned_ip)
            held = entry.assigned_ip
        except SmartVpnError:  # it lies outside the subnet, or is the hub's own
            held = None
        self._absent[entry.client_id] = _Absent(str(error), held)

    def forget(self, client_id: str) -> None:
        """It was removed, or is about to come in: its address is free."""
        absent = self._absent.pop(client_id, None)
        if absent is not None and absent.held is not None:
            self._engine.release_address(absent.held)

    def refuse(self, client_id: str) -> None:
        """Raise InvalidStateError with the reason, if the client is left out."""
        if client_id in self._absent:
            raise InvalidStateError(f"client '{client_id}' is left out: {self._absent[client_id].reason}")
