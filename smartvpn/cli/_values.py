"""Values as people write and read them: sizes, rates, times."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(bit|b|)(?:/s|ps)?", re.IGNORECASE)
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_SPAN = re.compile(r"(\d{1,6})([mhdw])")
_SPANS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes, or bytes a second: `1250000`, `1.25MB`, `10mbit`."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """click: the text's number."""
        if isinstance(value, int):
            return value
        match = _RATE.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no size such as 1250000, 1.25MB or 10mbit", param, ctx)
        number = float(match[1]) * _SCALE[match[2].lower()] / (8 if match[3].lower() == "bit" else 1)
        if not 1 <= number < 2**63:
            self.fail(f"{value!r} is out of range", param, ctx)
        return int(number)


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A point in time: `30d`, `12h`, `2030-01-31`, `2030-01-31T12:00:00Z`."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """click: the text's moment, in UTC where it names no zone."""
        if isinstance(value, datetime):
            return value
        span = _SPAN.fullmatch(value)
        try:
            if span is not None:
                return datetime.now(UTC) + timedelta(**{_SPANS[span[2]]: int(span[1])})
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time such as 30d, 12h or 2030-01-31T12:00:00Z", param, ctx)


# Reading shows whether a file can be read: by then the reason, and the exit status, are the system's.
FILE = click.Path(path_type=Path, dir_okay=False, readable=False)
FOLDER = click.Path(path_type=Path, file_okay=False, readable=False)
SIZE = Size()
MOMENT = Moment()


def bytes_text(count: float) -> str:
    """`1.5 MB`, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def rate_text(bytes_per_sec: float) -> str:
    """`12.0 Mbit/s`."""
    bits = bytes_per_sec * 8
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits < 999.5:
            return f"{bits:.0f} {unit}" if unit == "bit/s" else f"{bits:.1f} {unit}"
        bits /= 1000
    return f"{bits:.2f} Gbit/s"


def span_text(seconds: float) -> str:
    """`3 d 4 h`, the two largest units."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def since_text(moment: datetime | None) -> str | None:
    """How long ago that was."""
    return None if moment is None else span_text((datetime.now(UTC) - moment).total_seconds())


def time_text(moment: datetime | None) -> str | None:
    """A time for people, UTC."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
