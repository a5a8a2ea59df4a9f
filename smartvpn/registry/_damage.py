"""Rows that hold what no entry may: a disk's fault, or another program's.

Such a client is told of by name, and the others are read as if it were not there. It can be removed,
and what is wrong can be replaced.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import Attribute, fields_dict

from smartvpn._fields import camel_case
from smartvpn.config import ClientEntry
from smartvpn.errors import ConfigError, RegistryError
from smartvpn.keys import NOBODYS_KEY
from smartvpn.types import EntryPage

_STAND_INS = {"public_key": NOBODYS_KEY, "wg_public_key": NOBODYS_KEY, "assigned_ip": "0.0.0.0"}
NAMELESS = "row "  # and its number: what a client is called whose own name cannot be said

_NOT_UTF8 = "Could not decode to UTF-8"


class DamagedClientError(RegistryError):
    """A client whose row holds what no entry may.

    `entry` is what can be told of it, with stand-ins for the fields in `wrong`; where its name is wrong it is
    called `row 7`, and found by that. `reason` says what is the matter.
    """

    def __init__(self, entry: ClientEntry, wrong: frozenset[str], reason: str) -> None:
        super().__init__(f"client '{entry.client_id}' is damaged in the registry: {reason}")
        self.entry = entry
        self.wrong = wrong
        self.reason = reason

    def __reduce__(self) -> tuple[type[DamagedClientError], tuple[ClientEntry, frozenset[str], str]]:
        return type(self), (self.entry, self.wrong, self.reason)


class Entries(EntryPage):
    """Entries, how many there are in all, and what there would be besides if it were whole."""

    def __init__(
        self, entries: Iterable[ClientEntry], total: int, damaged: Iterable[DamagedClientError] = ()
    ) -> None:
        super().__init__(entries, total)
        self.damaged = tuple(damaged)


def salvaged(
    number: int, columns: Mapping[str, Any], readers: Mapping[str, Callable[[Any], Any]]
) -> DamagedClientError:
    """What can be told of the row with that number, whose columns are read by `readers`."""
    kept: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, attribute in fields_dict(ClientEntry).items():
        try:
            kept[name] = _checked(attribute, readers.get(name, _as_it_is)(columns[name]))
        except (ValueError, TypeError) as error:
            wrong[name] = _in_words(name, error)
    stand_ins = {"client_id": f"{NAMELESS}{number}", **_STAND_INS}
    entry = ClientEntry(**{**stand_ins, **kept})
    return DamagedClientError(entry, frozenset(wrong), next(iter(wrong.values()), "it cannot be read"))


def _as_it_is(value: Any) -> Any:
    return value


def _checked(attribute: Attribute[Any], value: Any) -> Any:
    convert: Any = attribute.converter
    converted = value if convert is None else convert(value)
    if attribute.validator is not None:
        attribute.validator(None, attribute, converted)
    return converted


def _in_words(name: str, error: Exception) -> str:
    return str(error) if isinstance(error, ConfigError) else f"{camel_case(name)}: {error}"


def fetch(connection: sqlite3.Connection, statement: str, *values: Any) -> tuple[list[Any], bool]:
    """All rows; False where one has text that is no UTF-8, whose bytes are surrogates then."""
    try:
        return connection.execute(statement, values).fetchall(), True
    except sqlite3.OperationalError as error:
        if _NOT_UTF8 not in str(error):
            raise
    connection.text_factory = _any_text
    try:
        return connection.execute(statement, values).fetchall(), False
    finally:
        connection.text_factory = str


def _any_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def raw_text(text: str) -> bytes:
    """The bytes of a text that `fetch` read."""
    return text.encode("utf-8", "surrogateescape")
