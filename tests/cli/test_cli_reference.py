"""docs/cli.md says what the commands are, and every exit code."""

from __future__ import annotations

import importlib.util
import re

from smartvpn.cli._errors import ExitCode
from tests.test_docs import ROOT


def test_the_reference_is_that_of_the_commands() -> None:
    """Run `python tools/cli_reference.py` where it is not."""
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "tools" / "cli_reference.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "docs" / "cli.md").read_text() == tool.page()


def test_every_exit_code_is_there() -> None:
    """And no code that is none."""
    text = (ROOT / "docs" / "cli.md").read_text().partition("## Exit codes")[2].partition("## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == set(ExitCode)
