"""The registry in a SQLite file.

WAL with synchronous=FULL: a commit that returned is on the disk. One thread writes, and commits
together what waits together; reads run on connections of their own, off the event loop. The
hub's secrets are sealed under a key file beside the database, `<database>.key`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from smartvpn.config import ClientEntry
from smartvpn.errors import RegistryError
from smartvpn.registry import _statements as sql
from smartvpn.registry._audit import AuditRecord, Origin
from smartvpn.registry._checkpoint import Checkpointer
from smartvpn.registry._connection import MEMORY, Readers, Work, connect, in_transaction
from smartvpn.registry._damage import Entries
from smartvpn.registry._schema import MIGRATIONS, create_file, migrate, version_of
from smartvpn.registry._sealing import SealingKey
from smartvpn.registry._writer import Writer
from smartvpn.types import ClientTotals

T = TypeVar("T")

_KEY_CHECK = "key-check"
_RECORDS = 1000


class SqliteRegistry:
    """A Registry in one file, or in memory; open it with `await SqliteRegistry.open(path)`."""

    def __init__(self, connection: sqlite3.Connection, path: str, key: SealingKey) -> None:
        """`connection` is the writer's; in memory it is the only one."""
        self._readers = None if path == MEMORY else Readers(path)
        self._checkpointer = None if path == MEMORY else Checkpointer(path)
        self._writer = Writer(connection, None if self._checkpointer is None else self._checkpointer.wrote)
        self._key = key

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str] = MEMORY, *, migrations: Sequence[str] = MIGRATIONS
    ) -> Self:
        """Open or create the registry at `path`, mode 0600; ':memory:' keeps everything in memory.

        An older database is migrated after a copy of it was put beside it. Raises RegistryError for
        a file that is no registry, is of a newer version, or whose key file is missing or another.
        """
        return await asyncio.to_thread(cls._open, os.fspath(path), migrations)

    @classmethod
    def _open(cls, path: str, migrations: Sequence[str]) -> Self:
        try:
            return cls._open_file(path, migrations)
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise RegistryError(f"the registry {path} cannot be opened: {reason}") from error

    @classmethod
    def _open_file(cls, path: str, migrations: Sequence[str]) -> Self:
        if path != MEMORY:
            create_file(Path(path))
        connection = connect(path)
        try:
            migrate(connection, path, migrations)
            key = _sealing_key(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(connection, path, key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish the writes under way and close the file. More calls do nothing."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._readers is not None:
            self._readers.close()
        self._writer.close()
        if self._checkpointer is not None:
            self._checkpointer.close()

    async def _read(self, work: Work[T]) -> T:
        future = self._writer.submit(work) if self._readers is None else self._readers.submit(work)
        return await asyncio.wrap_future(future)

    async def _write(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._writer.submit(work))

    # reading

    async def get(self, client_id: str) -> ClientEntry:
        """The client. Raises NotFoundError, DamagedClientError."""
        return await self._read(lambda db: sql.get(db, client_id))

    async def find_by_public_key(self, public_key: str) -> ClientEntry | None:
        """The client with this Noise key."""
        return await self._read(lambda db: sql.find(db, "public_key", public_key))

    async def find_by_wg_public_key(self, wg_public_key: str) -> ClientEntry | None:
        """The client with this WireGuard key."""
        return await self._read(lambda db: sql.find(db, "wg_public_key", wg_public_key))

    async def find_by_address(self, assigned_ip: str) -> ClientEntry | None:
        """The client with this address, IPv4 or IPv6."""
        column = "assigned_ip6" if ":" in assigned_ip else "assigned_ip"
        return await self._read(lambda db: sql.find(db, column, assigned_ip))

    async def list(
        self,
        *,
        tag: str | None = None,
        enabled: bool | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> Entries:
        """A page of the clients that match, in the order of their ids, and how many match in all."""
        return await self._read(lambda db: sql.page(db, tag, enabled, offset, limit))

    async def portions(self) -> AsyncIterator[Entries]:
        """All clients in the order of their ids, in lists of up to a thousand."""
        portion, last = await self._read(partial(sql.portion, after=None))
        while last is not None:
            yield portion
            portion, last = await self._read(partial(sql.portion, after=last))

    # writing

    async def insert(self, entry: ClientEntry, by: Origin | None = None) -> None:
        """Add a client. Raises AlreadyExistsError for its id, ConflictError for a key or address."""
        origin = by or Origin(action="createClient")
        await self._write(lambda db: sql.insert(db, entry, origin))

    async def update(self, entry: ClientEntry, by: Origin | None = None) -> None:
        """Replace the client of that id, damaged or not. Raises NotFoundError, ConflictError."""
        origin = by or Origin(action="updateClient")
        await self._write(lambda db: sql.update(db, entry, origin))

    async def remove(self, client_id: str, by: Origin | None = None) -> ClientEntry:
        """Remove a client, damaged or not, and return what it was. Raises NotFoundError."""
        origin = by or Origin(action="removeClient")
        return await self._write(lambda db: sql.remove(db, client_id, origin))

    async def readdress(self, addresses: Mapping[str, str | None]) -> None:
        """Set the IPv6 addresses of clients by id, which follow from the hub's subnets; not audited."""
        await self._write(lambda db: sql.readdress(db, addresses))

    # the audit log

    async def note(self, by: Origin, client_id: str | None = None, **detail: Any) -> None:
        """Record a change that the registry itself does not hold."""
        await self._write(lambda db: sql.note(db, by, client_id, detail))

    async def audit(
        self, client_id: str | None = None, *, before: int | None = None, limit: int = _RECORDS
    ) -> Sequence[AuditRecord]:
        """The newest records, of one client or of all; `before` is the id of the oldest one known already."""
        return await self._read(lambda db: sql.audit(db, client_id, before, limit))

    # counters

    async def add_totals(self, counted: Iterable[tuple[str, ClientTotals]]) -> None:
        """Add to what was counted for clients, by id."""
        await self._write(lambda db: sql.add_totals(db, counted))

    async def totals(self, client_id: str) -> ClientTotals:
        """What was counted for a client up to the last `add_totals`. Raises NotFoundError."""
        return await self._read(lambda db: sql.totals(db, client_id))

    # secrets

    async def get_secret(self, name: str) -> bytes | None:
        """A secret of the hub, unsealed. Raises RegistryError when it does not open."""
        sealed = await self._read(lambda db: sql.sealed(db, name))
        return None if sealed is None else self._key.unseal(name, sealed)

    async def put_secret(self, name: str, value: bytes) -> None:
        """Keep a secret of the hub, sealed."""
        sealed = self._key.seal(name, value)
        await self._write(lambda db: sql.put_sealed(db, name, sealed))

    async def remove_secret(self, name: str) -> None:
        """Forget a secret; one that is not there is no error."""
        await self._write(lambda db: sql.execute(db, "DELETE FROM secrets WHERE name = ?", name))


def _sealing_key(connection: sqlite3.Connection, path: str) -> SealingKey:
    """The key that opens the check value; a registry without one is new and gets it."""
    check = sql.sealed(connection, _KEY_CHECK)
    if path == MEMORY:
        return SealingKey.in_memory()
    key = SealingKey.from_file(Path(f"{path}.key"), create=check is None)
    if check is None:
        sealed = key.seal(_KEY_CHECK, b"")
        in_transaction(connection, "BEGIN IMMEDIATE", lambda db: sql.put_sealed(db, _KEY_CHECK, sealed))
    else:
        key.unseal(_KEY_CHECK, check)
    return key


# for programs that look at a hub's registry from outside, while it runs or not


def read_audit(
    path: str | os.PathLike[str],
    client_id: str | None = None,
    *,
    before: int | None = None,
    limit: int = _RECORDS,
) -> list[AuditRecord]:
    """The newest records of who changed what, of one client or of all, the newest first.

    `before` is the id of the oldest record known already. Raises RegistryError for a file that is
    missing, is no registry, or is of another version than this package's.
    """
    return _look(path, lambda db: sql.audit(db, client_id, before, limit))


def read_totals(path: str | os.PathLike[str]) -> dict[str, ClientTotals]:
    """What was counted for each client, by id, up to the last minute. Raises as `read_audit` does."""
    return _look(path, sql.all_totals)


def _look(path: str | os.PathLike[str], work: Work[T]) -> T:
    try:
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as connection:
            version = version_of(connection)
            if version != len(MIGRATIONS):
                raise RegistryError(
                    f"{path} is of version {version}, not {len(MIGRATIONS)}: start its hub once"
                )
            return work(connection)
    except sqlite3.Error as error:
        raise RegistryError(f"the registry {path} cannot be read: {error}") from error
