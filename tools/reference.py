"""Writes docs/configuration.md out of the config classes and docs/ipc.md out of the command table.

python -m tools.reference    writes both; a test sees that they are current
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs

from smartvpn import config, errors, events
from smartvpn._fields import camel_case
from smartvpn.client import VpnClient
from smartvpn.commands import COMMANDS, Command, Mode, NoParams
from smartvpn.ipc import PROTOCOL_VERSION
from smartvpn.server import VpnServer
from smartvpn.types import Unset
from tools.field_notes import NOTES

ROOT = Path(__file__).resolve().parent.parent
NOTICE = "<!-- Written by tools/reference.py: change that, or the classes, and run it. -->\n"
CONFIGS = (
    config.ServerConfig,
    config.ClientConfig,
    config.ClientEntry,
    config.ClientSecurity,
    config.RateLimit,
    config.WgPeerConfig,
)
# Where the Python method does more than its command, or speaks of Python.
SAID = {
    "start": "Open registry, device and listeners; what fails leaves nothing behind.",
    "stop": "Close the listeners and end all sessions. The daemon stays, for another `start`.",
    "connect": "Bring the tunnel up; it is kept up by reconnecting. UNAUTHORIZED: the hub refuses this client.",
    "updateClient": "Change what `update` names, for a live client too; null resets to the default.",
    "rotateClientKey": "Give the client fresh keys, end its sessions, and return what `createClient` does.",
}
NAMES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", datetime: "time"}


# types in words


def members(kind: Any) -> list[Any]:
    """What a union consists of, without None and UNSET."""
    parts = typing.get_args(kind) if is_union(kind) else (kind,)
    return [part for part in parts if part not in (types.NoneType, Unset)]


def is_union(kind: Any) -> bool:
    """`A | B`, however it was written."""
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def in_words(kind: Any) -> str:
    """The JSON type that an annotation means."""
    parts = members(kind)
    if len(parts) > 1:
        return " or ".join(in_words(part) for part in parts)
    (only,) = parts
    if typing.get_origin(only) is tuple:
        return f"[{in_words(typing.get_args(only)[0])}]"
    if isinstance(only, type) and issubclass(only, StrEnum):
        return " ".join(f"`{member.value}`" for member in only)
    return NAMES.get(only) or f"[{only.__name__}](#{only.__name__.lower()})"


def fields(kind: type) -> Iterator[tuple[str, Any, bool]]:
    """JSON name, annotation, and whether it may be left out."""
    attrs.resolve_types(kind)
    for field in attrs.fields(kind):
        may_be_none = is_union(field.type) and types.NoneType in typing.get_args(field.type)
        yield camel_case(field.name), field.type, may_be_none or field.default is not attrs.NOTHING


def classes_of(kind: Any) -> Iterator[type]:
    """The attrs classes that an annotation names."""
    for part in members(kind):
        if typing.get_origin(part) is tuple:
            yield from classes_of(typing.get_args(part)[0])
        elif attrs.has(part):
            yield part


def closure(kinds: Iterable[type]) -> list[type]:
    """These classes and all that they hold, each once, in the order in which they appear."""
    found: dict[type, None] = {}

    def add(kind: type) -> None:
        if kind not in found:
            found[kind] = None
            for _, annotation, _ in fields(kind):
                for inner in classes_of(annotation):
                    add(inner)

    for kind in kinds:
        add(kind)
    return list(found)


# configuration.md


def default_in_words(field: Any) -> str:
    """The value that holds when the field is left out."""
    default = field.default
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return "—"
    if default is None or default == ():
        return "—"
    if isinstance(default, bool):
        return str(default).lower()
    return f"`{default}`"


def bounds(validator: Any) -> tuple[int, int] | None:
    """The range of an integer field, out of the check that guards it."""
    while inspect.isfunction(validator):
        inside = inspect.getclosurevars(validator).nonlocals
        if "lowest" in inside:
            return inside["lowest"], inside["highest"]
        validator = inside.get("check")
    return None


def range_in_words(field: Any) -> str:
    """` 1 … 65535`, where the field has one."""
    found = bounds(field.validator)
    if found is None:
        return ""
    lowest, highest = found
    return f", {lowest} … {highest}" if highest < 2**62 else f", {lowest} at least"


def first_paragraph(kind: type) -> str:
    """What the class says of itself, without its constructor's rules."""
    return inspect.cleandoc(kind.__doc__ or "").replace("\n\n", "\n").replace("\n", " ")


def snake_to_json(text: str) -> str:
    """Field names in a docstring as JSON has them."""
    parts = text.split("`")
    known = {field.name for kind in CONFIGS for field in attrs.fields(kind)}
    parts[1::2] = [camel_case(part) if part in known else part for part in parts[1::2]]
    return "`".join(parts)


def config_table(kind: type) -> str:
    """One class, field by field."""
    notes = dict(NOTES[kind.__name__])
    lines = [
        f"## {kind.__name__}\n",
        snake_to_json(first_paragraph(kind)) + "\n",
        "| field | type | default | meaning |",
        "|---|---|---|---|",
    ]
    attrs.resolve_types(kind)
    for field in attrs.fields(kind):
        name = camel_case(field.name)
        secret = "" if field.repr or name == "tlsCert" else " Secret: never printed or logged."
        what = in_words(field.type) + range_in_words(field)
        lines.append(f"| `{name}` | {what} | {default_in_words(field)} | {notes.pop(name)}{secret} |")
    if notes:
        raise SystemExit(f"tools/field_notes.py: {kind.__name__} has no {', '.join(notes)}")
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """The whole page."""
    intro = f"""# Configuration
{NOTICE}
JSON files: a hub reads `/etc/smartvpn/server.json` ([ServerConfig](#serverconfig)), a client `/etc/smartvpn/client.json` ([ClientConfig](#clientconfig)), both mode 0600. In Python the
same fields have snake_case names: `listenAddr` is `listen_addr`. An unknown field, a wrong type or a value out of range is an error that names the field:
`clients[2].security.ipAllowList[0]: …`. `VpnConfig.load_from_file(path, "server")` checks a file without starting anything.

Keys are base64 of 32 bytes, times ISO 8601 in UTC (`2030-01-31T12:00:00Z`), rates bytes a second. Patterns in lists are an address, a network (`10.0.0.0/8`), a
wildcard (`192.168.1.*`) or a range (`1.1.1.1-1.1.1.100`), IPv6 too. Examples: [operations.md](operations.md).
"""
    return "\n".join([intro, *map(config_table, CONFIGS)])


# ipc.md


def shape(kind: type) -> str:
    """`{clientId: string, tags?: [string]}`."""
    inside = [
        f"{name}{'?' if optional else ''}: {in_words(annotation)}"
        for name, annotation, optional in fields(kind)
    ]
    return "{" + ", ".join(inside) + "}"


def params_of(command: Command) -> str:
    """What a command takes."""
    if command.params is NoParams:
        return "—"
    if command.params.__name__ in ("StartParams", "ConnectParams"):
        inner = next(classes_of(next(iter(fields(command.params)))[1]))
        return (
            f"{{config: [{inner.__name__}](configuration.md#{inner.__name__.lower()})}}, or the config itself"
        )
    if command.params in CONFIGS:
        return f"[{command.params.__name__}](configuration.md#{command.params.__name__.lower()})"
    return outward(shape(command.params))


def outward(text: str) -> str:
    """Links to config classes lead to their page."""
    for kind in CONFIGS:
        text = text.replace(f"](#{kind.__name__.lower()})", f"](configuration.md#{kind.__name__.lower()})")
    return text


def result_of(command: Command) -> str:
    """What a command answers with."""
    if command.result is None:
        return "—"
    if command.result in CONFIGS:
        return outward(in_words(command.result))
    return f"[{command.result.__name__}](#{command.result.__name__.lower()})"


def first_words(method: Any) -> str:
    """The first paragraph of what a method of the Python class says of itself."""
    return inspect.cleandoc(method.__doc__ or "").partition("\n\n")[0]


def command_table(mode: Mode, owner: type) -> str:
    """All commands of a mode, with what the class's method says of them."""
    lines = ["| method | does | params | result |", "|---|---|---|---|"]
    for command in COMMANDS[mode].values():
        words = SAID.get(command.method) or first_words(getattr(owner, command.python_name))
        words = snake_to_json(words.replace("\n", " "))
        lines.append(f"| `{command.method}` | {words} | {params_of(command)} | {result_of(command)} |")
    return "\n".join(lines) + "\n"


def type_list() -> str:
    """Every class that a command takes or answers with, but for the configs."""
    named = [command.result for table in COMMANDS.values() for command in table.values() if command.result]
    named += [
        next(classes_of(a))
        for _, a, _ in fields(COMMANDS[Mode.SERVER]["updateClient"].params)
        if list(classes_of(a))
    ]
    lines = []
    for kind in closure(named):
        if kind not in CONFIGS:
            lines.append(f"### {kind.__name__}\n\n{first_paragraph(kind)}\n\n{outward(shape(kind))}\n")
    return "\n".join(lines)


def event_table() -> str:
    """All events and what comes with them."""
    lines = ["| event | when | data |", "|---|---|---|"]
    for event in events.EVENTS.values():
        data = event.data_type()
        what = f"[{data.__name__}](#{data.__name__.lower()})" if data is not event else shape(event)
        lines.append(f"| `{event.name}` | {first_paragraph(event)} | {what if what != '{}' else '—'} |")
    return "\n".join(lines) + "\n"


def ipc() -> str:
    """The whole page."""
    codes = " ".join(f"`{code.value}`" for code in errors.ErrorCode)
    return f"""# The management protocol
{NOTICE}
One JSON object a line, UTF-8, protocol {PROTOCOL_VERSION}: over the daemon's stdin and stdout (`smartvpn_daemon --management`) or a Unix socket (`--management-socket PATH`: many
connections at a time, for its owner and root only). Any language will do; in Python `VpnServer`, `VpnClient` and `smartvpn.blocking` speak it for you, one
method a command.

```
→ {{"id": "1", "method": "createClient", "params": {{"clientId": "alice"}}}}
← {{"id": "1", "success": true, "result": {{…}}}}
→ {{"id": "2", "method": "getClient", "params": {{"clientId": "bob"}}}}
← {{"id": "2", "success": false, "error": "client 'bob' does not exist", "code": "NOT_FOUND"}}
← {{"event": "client-connected", "data": {{"clientId": "alice", …}}}}
```

- `id` is any string and comes back with the answer; requests of one connection may be answered out of order.
- The event `ready` is the first line on every connection. Events go to every connection.
- Broken JSON, an unknown method or field, a line over 50 MB: an error answer (`id` null where none could be read), and the connection lives on.
- With `"stream": true` in `params` a long list comes in pieces, `{{"id", "stream": true, "data"}}`, and the final answer ends it.
- In stdio mode the end of input ends the daemon. SIGTERM and SIGINT end it cleanly, status 0.

In the tables `?` marks what may be left out. Times are ISO 8601 in UTC, keys base64, `…Ms` milliseconds with a fraction, `lossRatio` 0 to 1; counters are integers.

Error codes: {codes}

## Server mode

{command_table(Mode.SERVER, VpnServer)}
## Client mode

{command_table(Mode.CLIENT, VpnClient)}
## Events

`exit` and `reconnected` are raised by the Python classes, the others come from the daemon.

{event_table()}
## Types

{type_list()}"""


PAGES = {"configuration.md": configuration, "ipc.md": ipc}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
