"""Writes the reference part of docs/cli.md out of the commands themselves; a test sees that it is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from smartvpn.cli._commands import main

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
MARK = "<!-- The rest is written by tools/cli_reference.py. -->\n"
EVERYWHERE = {"json", "socket", "help"}


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands that do something, in the order they were added."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def usage(path: tuple[str, ...], command: click.Command) -> str:
    """`smartvpn client add NAME`."""
    arguments = [
        str(item.name).upper() if item.required else f"[{str(item.name).upper()}]"
        for item in command.params
        if isinstance(item, click.Argument)
    ]
    return " ".join([*path, *arguments])


def option_row(option: click.Option) -> str:
    """A row of the table."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    if not option.is_flag:
        kind = option.type
        metavar = "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else option.metavar
        names += f" {metavar or kind.name.upper()}"
    return f"| `{names.replace('|', ' or ')}` | {option.help or ''} |"


def section(path: tuple[str, ...], command: click.Command) -> str:
    """A command's part of the page."""
    rows = [
        option_row(item)
        for item in command.params
        if isinstance(item, click.Option) and item.name not in EVERYWHERE
    ]
    table = ["", "| option | meaning |", "|---|---|", *rows] if rows else []
    text = (command.help or "").replace("\n", " ")
    return "\n".join([f"### `{usage(path, command)}`", "", text, *table, ""])


def page() -> str:
    """The whole page: what people wrote, and the reference."""
    written = PAGE.read_text().partition(MARK)[0]
    return written + MARK + "\n" + "\n".join(section(*item) for item in commands(main, ("smartvpn",)))


if __name__ == "__main__":
    PAGE.write_text(page())
