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

    def add(self, entry: ClientEntry, error: SmartVpnError, *, held: bool = False) -> None:
        """The engine refused it and has not got it; `held`: its address is kept already."""
        if not held:
            try:
                self._engine.hold_address(entry.assigned_ip)
                held = True
            except SmartVpnError:  # it lies outside the subnet, or is the hub's own
                pass
        self._absent[entry.client_id] = _Absent(str(error), entry.assigned_ip if held else None)

    def holds(self, entry: ClientEntry) -> bool:
        """Whether it is left out, and the entry's address kept for it."""
        absent = self._absent.get(entry.client_id)
        return absent is not None and absent.held == entry.assigned_ip

    def forget(self, client_id: str) -> None:
        """It was removed, or has another address: its own is free."""
        absent = self._absent.pop(client_id, None)
        if absent is not None and absent.held is not None:
            self._engine.release_address(absent.held)

    def let_in(self, client_id: str) -> None:
        """It is about to come in with the address that was kept for it."""
        del self._absent[client_id]

    def refuse(self, client_id: str) -> None:
        """Raise InvalidStateError with the reason, if the client is left out."""
        if client_id in self._absent:
            raise InvalidStateError(f"client '{client_id}' is left out: {self._absent[client_id].reason}")
