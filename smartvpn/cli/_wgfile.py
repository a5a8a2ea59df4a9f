"""WireGuard configuration files of wg(8), wg-quick(8) and wg-easy, parsed.

Names of peers stand in comments, as wg-easy and the usual scripts write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import field, mutable

from smartvpn import _fields as check
from smartvpn.cli._errors import ExitCode, Failure

_INTERFACE = {
    "privatekey",
    "address",
    "listenport",
    "dns",
    "mtu",
    "table",
    "saveconfig",
    "fwmark",
    "preup",
    "postup",
    "predown",
    "postdown",
}
_PEER = {"publickey", "presharedkey", "allowedips", "endpoint", "persistentkeepalive"}
_KEYS = {"privatekey": check.key, "publickey": check.public_key, "presharedkey": check.key}
_LISTS = {"address", "dns", "allowedips"}
_NAME = re.compile(
    r"#+\s*(?:client:?|name\s*[:=]|begin_peer|friendly_name\s*=|peer:?)\s*(?P<name>\S.*?)\s*(?:\([0-9a-f-]{36}\))?\s*",
    re.IGNORECASE,
)
_LONGEST_FILE = 16 << 20


@mutable
class Section:
    """One `[Interface]` or `[Peer]`: its values by lower-case name, lists split."""

    kind: str
    line: int
    name: str | None = None
    values: dict[str, list[str]] = field(factory=dict)

    def one(self, name: str) -> str | None:
        """A value that stands alone."""
        found = self.values.get(name)
        return found[-1] if found else None

    def many(self, name: str) -> list[str]:
        """All values of a list."""
        return self.values.get(name, [])


def parse(text: str, shown: str) -> tuple[Section, list[Section]]:
    """The interface and its peers. `shown` names the file. Raises Failure with the line, never its value."""
    if len(text) > _LONGEST_FILE:
        raise _fault(shown, 0, "is too long for a WireGuard config")
    sections = list(_sections(text, shown))
    interfaces = [section for section in sections if section.kind == "interface"]
    if len(interfaces) != 1:
        raise _fault(shown, 0, f"has {len(interfaces)} [Interface] sections, not one")
    return interfaces[0], [section for section in sections if section.kind == "peer"]


def _sections(text: str, shown: str) -> Iterator[Section]:
    current: Section | None = None
    name: str | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        if (comment := _NAME.fullmatch(raw.strip())) is not None:
            name = comment["name"]
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            if current is not None:
                yield current
            current = Section(_kind(line, shown, number), number, name)
            name = None
        elif current is None:
            raise _fault(shown, number, "stands before any section")
        else:
            _value(current, line, shown, number)
            # A comment after the section's first line names it as well.
            current.name, name = current.name or name, None
    if current is not None:
        yield current


def _kind(line: str, shown: str, number: int) -> str:
    kind = line.lower()
    if kind not in ("[interface]", "[peer]"):
        raise _fault(shown, number, "is neither [Interface] nor [Peer]")
    return kind[1:-1]


def _value(section: Section, line: str, shown: str, number: int) -> None:
    name, equals, value = line.partition("=")
    key, value = name.strip().lower(), value.strip()
    if not equals or key not in (_INTERFACE if section.kind == "interface" else _PEER):
        raise _fault(shown, number, f"is no setting of [{section.kind.capitalize()}]")
    if key in _KEYS:
        try:
            _KEYS[key](value)
        except ValueError as error:
            raise _fault(shown, number, f"{name.strip()} {error}") from None
    parts = [part.strip() for part in value.split(",")] if key in _LISTS else [value]
    section.values.setdefault(key, []).extend(part for part in parts if part)


def _fault(shown: str, line: int, reason: str) -> Failure:
    where = f"{shown}, line {line}: " if line else f"{shown} "
    return Failure(f"{where}{reason}", "correct the file", ExitCode.CONFIG)
