"""A document of several benchmarks: each writes its own section and leaves the others as they are."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

HUB_DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks-hub.md"
_TITLE = "# Benchmarks of the hub\n\nFigures of one run on one machine each: compare only within a section.\n"


def when_and_where() -> str:
    """A line on the run: date, cores, kernel."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"Run of {now}, {os.cpu_count()} cores, Linux {platform.release()}."


def write_section(path: Path, title: str, text: str) -> None:
    """Puts the section under `## title` in the place of the one that is there, else at the end."""
    before = path.read_text() if path.exists() else _TITLE
    fresh = f"## {title}\n\n{text.strip()}\n"
    section = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if section.search(before):
        after = section.sub(lambda _: fresh + "\n", before)
    else:
        after = f"{before.rstrip()}\n\n{fresh}"
    path.write_text(after.rstrip() + "\n")
