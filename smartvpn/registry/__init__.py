"""Where a hub keeps its clients and its own secrets.

`Registry` is what the hub needs of a store; `smartvpn.registry.sqlite` is the one that ships.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Protocol

from smartvpn.config import ClientEntry
from smartvpn.registry._audit import AuditRecord, Origin
from smartvpn.registry._damage import DamagedClientError, Entries
from smartvpn.types import ClientTotals

__all__ = ["AuditRecord", "DamagedClientError", "Entries", "Origin", "Registry"]


class Registry(Protocol):
    """A durable set of clients, unique by id, by either key, and by either address.

    A write that returned survives kill -9 and power loss. A read sees every write that returned
    before it began. A write stands in the audit log with its origin, this process where none is
    given. All methods raise RegistryError when the store fails; a failed read is never an empty
    answer. Of lists, clients that are damaged stand apart.
    """

    async def get(self, client_id: str) -> ClientEntry:
        """The client. Raises NotFoundError, DamagedClientError."""
        ...

    async def find_by_public_key(self, public_key: str) -> ClientEntry | None:
        """The client with this Noise key."""
        ...

    async def find_by_wg_public_key(self, wg_public_key: str) -> ClientEntry | None:
        """The client with this WireGuard key."""
        ...

    async def find_by_address(self, assigned_ip: str) -> ClientEntry | None:
        """The client with this address, IPv4 or IPv6."""
        ...

    async def list(
        self,
        *,
        tag: str | None = None,
        enabled: bool | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> Entries:
        """A page of the clients that match, in the order of their ids, and how many match in all."""
        ...

    def portions(self) -> AsyncIterator[Entries]:
        """All clients in the order of their ids, in lists of up to a thousand."""
        ...

    async def insert(self, entry: ClientEntry, by: Origin | None = None) -> None:
        """Add a client. Raises AlreadyExistsError for its id, ConflictError for a key or address."""
        ...

    async def update(self, entry: ClientEntry, by: Origin | None = None) -> None:
        """Replace the client of that id, damaged or not. Raises NotFoundError, ConflictError."""
        ...

    async def remove(self, client_id: str, by: Origin | None = None) -> ClientEntry:
        """Remove a client, damaged or not, and return what it was. Raises NotFoundError."""
        ...

    async def readdress(self, addresses: Mapping[str, str | None]) -> None:
        """Set the IPv6 addresses of clients by id, which follow from the hub's subnets."""
        ...

    async def note(self, by: Origin, client_id: str | None = None, **detail: Any) -> None:
        """Record a change that the registry itself does not hold."""
        ...

    async def audit(
        self, client_id: str | None = None, *, before: int | None = None, limit: int = 1000
    ) -> Sequence[AuditRecord]:
        """The newest records of changes, the newest first."""
        ...

    async def add_totals(self, counted: Iterable[tuple[str, ClientTotals]]) -> None:
        """Add to what was counted for clients, by id; those that are gone are passed over."""
        ...

    async def totals(self, client_id: str) -> ClientTotals:
        """What was counted for a client up to the last `add_totals`. Raises NotFoundError."""
        ...

    async def get_secret(self, name: str) -> bytes | None:
        """A secret of the hub, unsealed."""
        ...

    async def put_secret(self, name: str, value: bytes) -> None:
        """Keep a secret of the hub, sealed."""
        ...

    async def remove_secret(self, name: str) -> None:
        """Forget a secret; one that is not there is no error."""
        ...

    async def close(self) -> None:
        """Finish the writes under way and close the store. More calls do nothing."""
        ...
