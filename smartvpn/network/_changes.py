"""What a change to the system's network is, and how a list of wanted changes comes true.

A change says what is wanted and can apply and undo itself. Everything is recorded in the journal
before it is applied, so whoever reads the journal later can take it back.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import attrs

from smartvpn.errors import SmartVpnError

_log = logging.getLogger(__name__)


@attrs.frozen
class Change:
    """One thing that is set in the system. Subclasses are frozen attrs classes of JSON values."""

    kind: ClassVar[str]
    heals: ClassVar[bool] = False
    """Applying it again is cheap and brings back what others removed."""
    outlives_namespace: ClassVar[bool] = False
    """What it changes is still there after a reboot, or when its network namespace is gone."""
    carries_flows: ClassVar[bool] = False
    """Connections through this machine end in its absence, however short."""

    @property
    def slot(self) -> tuple[object, ...]:
        """Changes of one slot replace each other without an undo in between."""
        return (self.kind, *attrs.astuple(self))

    def capture(self, others: Sequence[Record]) -> str | None:
        """What is to come back at the undo. `others` are the records of this namespace's other journals."""
        return None

    def recapture(self, before: str | None, others: Sequence[Record]) -> str | None:
        """What is to come back at the undo, if somebody else has changed it since `before` was captured."""
        return before

    def is_lost(self, before: str | None, others: Sequence[Record]) -> bool:
        """Whether somebody else has certainly undone it."""
        return False

    def apply(self, before: str | None) -> None:
        """Make it so. Raises SmartVpnError."""
        raise NotImplementedError

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        """Take it back; nothing happens when it is gone already, or was never applied."""
        raise NotImplementedError


@attrs.frozen
class Record:
    """A change that was applied, or was about to be, and the state it found."""

    change: Change
    before: str | None = None


class Log(Protocol):
    """Where records are kept; `save` returns once they would survive the process."""

    records: list[Record]

    def save(self) -> None:
        """Write the records."""
        ...

    def others(self) -> list[Record]:
        """The records of this namespace's other journals."""
        ...


_KINDS: dict[str, type[Change]] = {}
C = TypeVar("C", bound=type[Change])


def recorded(cls: C) -> C:
    """Class decorator: changes of this class can be read back from a journal."""
    _KINDS[cls.kind] = cls
    return cls


def record_to_json(record: Record) -> dict[str, Any]:
    """The JSON form of a record."""
    fields: dict[str, Any] = attrs.asdict(record.change)
    return {"kind": record.change.kind, "change": fields, "before": record.before}


def record_from_json(data: Any) -> Record | None:
    """The record, or None for one this version does not know."""
    try:
        fields = {name: _frozen(value) for name, value in data["change"].items()}
        return Record(_KINDS[data["kind"]](**fields), data["before"])
    except (KeyError, TypeError, AttributeError):
        _log.warning("the journal has an entry this version does not know; it is left as it is")
        return None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def reconcile(log: Log, wanted: Iterable[Change], again: Container[Change] = ()) -> None:
    """Undo what is recorded and no longer wanted, then apply what is wanted and not yet there.

    Those `again` are applied though they are recorded: somebody else may have undone them.
    A change that fails leaves no record; those before it stay. Raises SmartVpnError.
    """
    wanted = list(wanted)
    undo_all(log, keep={change.slot for change in wanted})
    for change in wanted:
        _bring_about(log, change, anew=change.heals or change in again)


def undo_all(log: Log, keep: Iterable[tuple[object, ...]] = ()) -> None:
    """Undo every record whose slot is not in `keep`, the last first. What fails is logged."""
    for record in reversed(log.records.copy()):
        if record.change.slot not in keep:
            undo(log, record)


def undo(log: Log, record: Record) -> None:
    """Undo one record and forget it."""
    try:
        record.change.undo(record.before, log.others())
    except (SmartVpnError, OSError) as error:
        _log.warning("could not restore: %s", error)
    log.records.remove(record)
    log.save()


def _bring_about(log: Log, change: Change, *, anew: bool) -> None:
    place = next((i for i, record in enumerate(log.records) if record.change.slot == change.slot), None)
    if place is None:
        record = Record(change, change.capture(log.others()))
        log.records.append(record)
    else:
        old = log.records[place]
        if old.change == change and not anew:
            return
        record = log.records[place] = Record(change, old.change.recapture(old.before, log.others()))
    log.save()
    try:
        change.apply(record.before)
    except BaseException:
        undo(log, record)
        raise
