"""Client entries, their counters and the audit log as rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from attrs import fields_dict

from smartvpn import _fields as check
from smartvpn._fields import camel_case
from smartvpn._json import dump, dump_pieces, from_json, parse, parse_long, to_json
from smartvpn.config import ClientEntry, ClientSecurity
from smartvpn.errors import ConflictError, RegistryError, SmartVpnError
from smartvpn.registry._audit import AuditRecord
from smartvpn.registry._damage import DamagedClientError, salvaged
from smartvpn.types import ClientTotals, DropCounters

COLUMNS = (
    "client_id",
    "public_key",
    "wg_public_key",
    "assigned_ip",
    "assigned_ip6",
    "security",
    "priority",
    "enabled",
    "description",
    "expires_at",
    "tags",
)

SELECT = f"SELECT clients.rowid, {', '.join(COLUMNS)} FROM clients"
INSERT = f"INSERT INTO clients ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
UPDATE = f"UPDATE clients SET {', '.join(name + ' = ?' for name in COLUMNS[1:])} WHERE client_id = ?"

_FEW_PATTERNS = 100
_SHORT_TEXT = 4096

_CONFLICTS = {
    "public_key": "publicKey: the key belongs to another client",
    "wg_public_key": "wgPublicKey: the key belongs to another client",
    "assigned_ip": "assignedIp: {ip} belongs to another client",
    "assigned_ip6": "assignedIp6: {ip6} belongs to another client",
}


def row_of(entry: ClientEntry) -> tuple[Any, ...]:
    """The values of COLUMNS."""
    return (
        entry.client_id,
        entry.public_key,
        entry.wg_public_key,
        entry.assigned_ip,
        entry.assigned_ip6,
        _security_text(entry.security) if _is_short(entry.security) else "".join(dump_pieces(entry.security)),
        entry.priority,
        int(entry.enabled),
        entry.description,
        None if entry.expires_at is None else to_json(entry.expires_at),
        json.dumps(entry.tags, separators=(",", ":")),
    )


def _is_short(security: ClientSecurity) -> bool:
    return security.pattern_count <= _FEW_PATTERNS


@lru_cache(maxsize=16)
def _security_text(security: ClientSecurity) -> str:
    return dump(security)


def entry_of(row: tuple[Any, ...]) -> ClientEntry:
    """The entry of a row of SELECT. Raises DamagedClientError when the row holds what no entry may."""
    try:
        return ClientEntry(**_restored(row))
    except (ValueError, TypeError):
        raise _damaged(row) from None


def trusted_entry_of(row: tuple[Any, ...]) -> ClientEntry:
    """As `entry_of`, but what was checked when it was written is not checked again.

    For a hub that starts with 100,000 of them: the engine checks the values it is given, those but
    that it would take for others.
    """
    try:
        entry = object.__new__(ClientEntry)
        for name, value in _restored(row).items():
            object.__setattr__(entry, name, value)
        check.client_id(entry.client_id)
        _PRIORITY(entry.priority)
    except (ValueError, TypeError):
        raise _damaged(row) from None
    return entry


def _restored(row: tuple[Any, ...]) -> dict[str, Any]:
    fields = dict(zip(COLUMNS, row[1:], strict=True))
    for name, read in _READERS.items():
        fields[name] = read(fields[name])
    return fields


def _damaged(row: tuple[Any, ...]) -> DamagedClientError:
    return salvaged(row[0], dict(zip(COLUMNS, row[1:], strict=True)), _READERS)


@lru_cache(maxsize=1024)
def _short_security(text: str) -> ClientSecurity:
    return from_json(parse(text), ClientSecurity, "security")


@lru_cache(maxsize=2)
def _long_security(text: str) -> ClientSecurity:
    """Read beside others; kept for the command that reads it twice."""
    return from_json(parse_long(text), ClientSecurity, "security")


def _security(text: str) -> ClientSecurity:
    return (_short_security if len(text) <= _SHORT_TEXT else _long_security)(text)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else from_json(text, datetime, "expiresAt")


def _tags(text: str) -> Any:
    return tuple(tags) if isinstance(tags := parse(text), list) else tags


_READERS: dict[str, Callable[[Any], Any]] = {
    "security": _security,
    "enabled": bool,
    "expires_at": _moment,
    "tags": _tags,
}
_PRIORITY = check.integer(0, check.UINT16_MAX)


def conflict(error: sqlite3.IntegrityError, entry: ClientEntry) -> SmartVpnError:
    """What a broken UNIQUE constraint means."""
    column = str(error).rpartition("clients.")[2]
    if column in _CONFLICTS:
        return ConflictError(_CONFLICTS[column].format(ip=entry.assigned_ip, ip6=entry.assigned_ip6))
    return RegistryError(f"the registry refused the client: {error}")


# what an audit record says

_LONGEST_DETAIL = 2048


def differences(
    before: ClientEntry | None, after: ClientEntry, wrong: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of `after`, by their JSON names, that are not those of `before`, or all of a new one.

    Those in `wrong` were something else, whatever `before` says.
    """
    if before is None:
        return {name: value for name, value in to_json(after).items() if name != "clientId"}
    names = fields_dict(ClientEntry)
    changed = [name for name in names if name in wrong or getattr(before, name) != getattr(after, name)]
    return {camel_case(name): to_json(getattr(after, name)) for name in changed}


def detail_text(detail: Mapping[str, Any]) -> str:
    """JSON of at most 2048 characters: what is longer is told by the fields' names alone."""
    text = ""
    for piece in dump_pieces(detail):
        text += piece
        if len(text) > _LONGEST_DETAIL:
            break
    else:
        return text
    return json.dumps({"tooLong": sorted(detail)}, separators=(",", ":"))


def now_text() -> str:
    """This moment as it stands in the audit log."""
    return str(to_json(datetime.now(UTC)))


def audit_of(row: tuple[Any, ...]) -> AuditRecord:
    """The record of a row of `audit`."""
    number, at, uid, action, client_id, detail = row
    return AuditRecord(
        id=number,
        at=from_json(at, datetime),
        uid=uid,
        action=action,
        client_id=client_id,
        detail=json.loads(detail),
    )


# counters

TOTALS = (
    "bytes_sent",
    "bytes_received",
    "packets_sent",
    "packets_received",
    "keepalives_received",
    "packets_dropped",
    "bytes_dropped",
)
DROPS = tuple(fields_dict(DropCounters))
TOTALS_COLUMNS = (*TOTALS, *(f"dropped_{name}" for name in DROPS))

_SUMS = ", ".join(f"{name} = {name} + excluded.{name}" for name in TOTALS_COLUMNS)
ADD_TOTALS = f"""
    INSERT INTO totals (client_id, {", ".join(TOTALS_COLUMNS)})
    SELECT client_id, {", ".join("?" * len(TOTALS_COLUMNS))} FROM clients WHERE client_id = ?
    ON CONFLICT (client_id) DO UPDATE SET {_SUMS}
"""


def totals_values(totals: ClientTotals) -> tuple[int, ...]:
    """The values of TOTALS_COLUMNS."""
    own = (getattr(totals, name) for name in TOTALS)
    return (*own, *(getattr(totals.drops, name) for name in DROPS))


def totals_of(values: tuple[int, ...]) -> ClientTotals:
    """The counters of a row of TOTALS_COLUMNS."""
    split = len(TOTALS)
    drops = DropCounters(**dict(zip(DROPS, values[split:], strict=True)))
    counters: dict[str, Any] = dict(zip(TOTALS, values[:split], strict=True))
    return ClientTotals(**counters, drops=drops)
