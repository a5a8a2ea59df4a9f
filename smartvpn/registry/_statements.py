"""What is read and written, each within the caller's transaction."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from smartvpn.config import ClientEntry
from smartvpn.errors import AlreadyExistsError, NotFoundError
from smartvpn.registry import records
from smartvpn.registry._audit import KEPT_RECORDS, AuditRecord, Origin
from smartvpn.registry._damage import NAMELESS, DamagedClientError, Entries, fetch, raw_text
from smartvpn.types import ClientTotals

PORTION = 1000

_ALL = -1
_ROW = re.compile(f"{NAMELESS}([0-9]{{1,18}})")


def execute(connection: sqlite3.Connection, statement: str, *values: Any) -> int:
    """How many rows it changed."""
    return connection.execute(statement, values).rowcount


# clients, read


def find(connection: sqlite3.Connection, column: str, value: str) -> ClientEntry | None:
    """The client with that value in a column that is unique. Raises DamagedClientError."""
    rows, _ = fetch(connection, f"{records.SELECT} WHERE {column} = ?", value)
    return records.entry_of(rows[0]) if rows else None


def get(connection: sqlite3.Connection, client_id: str) -> ClientEntry:
    """The client. Raises NotFoundError, DamagedClientError."""
    entry = find(connection, "client_id", client_id)
    if entry is None:
        _refuse_damaged_name(connection, client_id)
        raise not_found(client_id)
    return entry


def _refuse_damaged_name(connection: sqlite3.Connection, client_id: str) -> None:
    """Raise DamagedClientError where that is what a row is called whose own name cannot be said."""
    if number := _ROW.fullmatch(client_id):
        rows, _ = fetch(connection, f"{records.SELECT} WHERE rowid = ?", int(number[1]))
        _, damaged = _told_apart(rows, records.entry_of)
        for error in damaged:
            if error.entry.client_id == client_id:
                raise error


def page(
    connection: sqlite3.Connection, tag: str | None, enabled: bool | None, offset: int, limit: int | None
) -> Entries:
    """Counted and skipped within one index, whatever is asked; only the page's own rows are looked up."""
    table = "clients" if tag is None else "client_tags"
    conditions = {"tag": tag, "enabled": None if enabled is None else int(enabled)}
    given = {name: value for name, value in conditions.items() if value is not None}
    where = f" WHERE {' AND '.join(f'{name} = ?' for name in given)}" if given else ""
    values = tuple(given.values())
    total = connection.execute(f"SELECT count(*) FROM {table}{where}", values).fetchone()[0]
    ids = f"SELECT client_id FROM {table}{where} ORDER BY client_id LIMIT ? OFFSET ?"
    rows, _ = fetch(
        connection,
        f"SELECT clients.rowid, {', '.join(records.COLUMNS)}"
        f" FROM ({ids}) CROSS JOIN clients USING (client_id) ORDER BY client_id",
        *values,
        _ALL if limit is None else limit,
        offset,
    )
    entries, damaged = _told_apart(rows, records.entry_of)
    return Entries(entries, total, damaged)


def portion(connection: sqlite3.Connection, after: bytes | None) -> tuple[Entries, bytes | None]:
    """The next thousand in the order of ids, as they were when they were written, and the last id's bytes."""
    where, values = ("", ()) if after is None else (" WHERE client_id > CAST(? AS TEXT)", (after,))
    statement = f"{records.SELECT}{where} ORDER BY client_id LIMIT {PORTION}"
    rows, readable = fetch(connection, statement, *values)
    entries, damaged = _told_apart(rows, records.trusted_entry_of if readable else records.entry_of)
    return Entries(entries, len(rows), damaged), raw_text(rows[-1][1]) if rows else None


def _told_apart(
    rows: Iterable[tuple[Any, ...]], read: Callable[[tuple[Any, ...]], ClientEntry]
) -> tuple[list[ClientEntry], list[DamagedClientError]]:
    entries, damaged = [], []
    for row in rows:
        try:
            entries.append(read(row))
        except DamagedClientError as error:
            damaged.append(error)
    return entries, damaged


# clients, written


def insert(connection: sqlite3.Connection, entry: ClientEntry, origin: Origin) -> None:
    """Raises AlreadyExistsError, ConflictError."""
    if connection.execute("SELECT 1 FROM clients WHERE client_id = ?", (entry.client_id,)).fetchone():
        raise AlreadyExistsError(f"client '{entry.client_id}' exists already")
    try:
        connection.execute(records.INSERT, records.row_of(entry))
    except sqlite3.IntegrityError as error:
        raise records.conflict(error, entry) from None
    _insert_tags(connection, entry)
    note(connection, origin, entry.client_id, records.differences(None, entry))


def update(connection: sqlite3.Connection, entry: ClientEntry, origin: Origin) -> None:
    """What was damaged is replaced with the rest. Raises NotFoundError, ConflictError."""
    before, wrong = _whatever_it_is(connection, entry.client_id)
    client_id, *values = records.row_of(entry)
    try:
        execute(connection, records.UPDATE, *values, client_id)
    except sqlite3.IntegrityError as error:
        raise records.conflict(error, entry) from None
    if wrong or (set(before.tags), before.enabled) != (set(entry.tags), entry.enabled):
        execute(connection, "DELETE FROM client_tags WHERE client_id = ?", entry.client_id)
        _insert_tags(connection, entry)
    note(connection, origin, entry.client_id, records.differences(before, entry, wrong))


def remove(connection: sqlite3.Connection, client_id: str, origin: Origin) -> ClientEntry:
    """Its tags and counters go along. Raises NotFoundError."""
    entry, wrong = _whatever_it_is(connection, client_id)
    if "client_id" in wrong:
        execute(connection, "DELETE FROM clients WHERE rowid = ?", int(client_id.removeprefix(NAMELESS)))
    else:
        execute(connection, "DELETE FROM clients WHERE client_id = ?", client_id)
    note(connection, origin, client_id, {})
    return entry


def _whatever_it_is(connection: sqlite3.Connection, client_id: str) -> tuple[ClientEntry, frozenset[str]]:
    """The client, damaged or not, and the fields that are. Raises NotFoundError."""
    try:
        return get(connection, client_id), frozenset()
    except DamagedClientError as error:
        return error.entry, error.wrong


def readdress(connection: sqlite3.Connection, addresses: Mapping[str, str | None]) -> None:
    """IPv6 addresses by client id; all are free before the first is given, so they may change hands."""
    clear = "UPDATE clients SET assigned_ip6 = NULL WHERE client_id = ?"
    connection.executemany(clear, [(client_id,) for client_id in addresses])
    rows = [(address, client_id) for client_id, address in addresses.items() if address is not None]
    connection.executemany("UPDATE clients SET assigned_ip6 = ? WHERE client_id = ?", rows)


def _insert_tags(connection: sqlite3.Connection, entry: ClientEntry) -> None:
    rows = [(entry.client_id, tag, int(entry.enabled)) for tag in dict.fromkeys(entry.tags)]
    connection.executemany("INSERT INTO client_tags (client_id, tag, enabled) VALUES (?, ?, ?)", rows)


def not_found(client_id: str) -> NotFoundError:
    """What a missing client is told with."""
    return NotFoundError(f"client '{client_id}' does not exist")


# the audit log


def note(
    connection: sqlite3.Connection, origin: Origin, client_id: str | None, detail: Mapping[str, Any]
) -> None:
    """Add a record; the one that is too many, the oldest, goes."""
    values = (records.now_text(), origin.uid, origin.action, client_id, records.detail_text(detail))
    added = connection.execute(
        "INSERT INTO audit (at, uid, action, client_id, detail) VALUES (?, ?, ?, ?, ?)", values
    )
    execute(connection, "DELETE FROM audit WHERE id <= ?", (added.lastrowid or 0) - KEPT_RECORDS)


def audit(
    connection: sqlite3.Connection, client_id: str | None, before: int | None, limit: int
) -> list[AuditRecord]:
    """The newest first, older than the record `before`."""
    given = {"client_id = ?": client_id, "id < ?": before}
    conditions = [condition for condition, value in given.items() if value is not None]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    values = [value for value in given.values() if value is not None]
    rows = connection.execute(
        f"SELECT id, at, uid, action, client_id, detail FROM audit{where} ORDER BY id DESC LIMIT ?",
        (*values, limit),
    )
    return [records.audit_of(row) for row in rows]


# counters


def add_totals(connection: sqlite3.Connection, counted: Iterable[tuple[str, ClientTotals]]) -> None:
    """Add to the counters of clients; of those that are gone, nothing."""
    rows = [(*records.totals_values(totals), client_id) for client_id, totals in counted]
    connection.executemany(records.ADD_TOTALS, rows)


def totals(connection: sqlite3.Connection, client_id: str) -> ClientTotals:
    """The counters of a client. Raises NotFoundError."""
    row = connection.execute(
        f"SELECT {', '.join(records.TOTALS_COLUMNS)} FROM totals WHERE client_id = ?", (client_id,)
    ).fetchone()
    if row is not None:
        return records.totals_of(row)
    if not connection.execute("SELECT 1 FROM clients WHERE client_id = ?", (client_id,)).fetchone():
        raise not_found(client_id)
    return ClientTotals()


def all_totals(connection: sqlite3.Connection) -> dict[str, ClientTotals]:
    """The counters of all clients that ever counted something."""
    columns = ", ".join(records.TOTALS_COLUMNS)
    rows = connection.execute(f"SELECT client_id, {columns} FROM totals ORDER BY client_id")
    return {client_id: records.totals_of(values) for client_id, *values in rows}


# secrets


def sealed(connection: sqlite3.Connection, name: str) -> bytes | None:
    """A secret as it rests."""
    row = connection.execute("SELECT sealed FROM secrets WHERE name = ?", (name,)).fetchone()
    return None if row is None else bytes(row[0])


def put_sealed(connection: sqlite3.Connection, name: str, value: bytes) -> None:
    """Keep a sealed secret."""
    execute(connection, "INSERT OR REPLACE INTO secrets (name, sealed) VALUES (?, ?)", name, value)
