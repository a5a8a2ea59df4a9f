"""The documents say what is: their examples run, their configs load, their tables name every field."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click
import pytest

from smartvpn import ClientConfig, ClientSecurity, PrivateKey, ServerConfig
from smartvpn._fields import camel_case
from smartvpn._json import from_json
from smartvpn.cli._commands import main
from tests.netns.topology import Topology
from tools import reference

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "vendor" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks whose first line says that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Those to files of this repository."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_named_are_there(page: Path) -> None:
    """What looks like a path of the repository is one."""
    if page.name == "changelog.md":
        return
    for path in re.findall(
        r"`((?:csrc|tests|smartvpn|bench|examples|docs|tools)/[\w./-]*)`", page.read_text()
    ):
        assert (ROOT / path).exists(), path


def test_every_config_field_is_explained() -> None:
    """In the tables of operations.md, and no field that is none."""
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    for kind in (ServerConfig, ClientConfig):
        fields = {camel_case(field.name) for field in attrs.fields(kind)}
        assert fields <= named, fields - named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_is_python(page: Path) -> None:
    """Every block compiles, and what it imports from us is there."""
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("smartvpn"):
                module = importlib.import_module(str(node.module))
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The commands in blocks for the shell, without comments."""
    for kind in ("sh", "sh install", "sh hub", "sh client"):
        for text in blocks(page, kind):
            for line in text.splitlines():
                yield shlex.split(line, comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_are_there(page: Path) -> None:
    """Every `smartvpn` command that a reader is told to type exists, with its options."""
    for words in shell_lines(page):
        if words[:1] != ["smartvpn"]:
            continue
        command: click.Command = main
        rest = words[1:]
        while isinstance(command, click.Group):
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= known, words


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_the_references_are_current(name: str) -> None:
    """They are what `python -m tools.reference` writes; a field without a note stops it."""
    assert (ROOT / "docs" / name).read_text() == reference.PAGES[name]()


def _with_keys(text: str) -> Any:
    key = PrivateKey.generate()
    return json.loads(text.replace("<privateKey>", key.base64).replace("<publicKey>", str(key.public_key)))


def test_the_configs_load() -> None:
    """With a pair of keys in place of the words that stand for one."""
    page = ROOT / "docs" / "operations.md"
    servers = blocks(page, "json server")
    assert len(servers) == 2
    for text in servers:
        from_json(_with_keys(text), ServerConfig)
    (security,) = blocks(page, "json security")
    assert from_json(json.loads(security), ClientSecurity).max_connections == 2


def test_the_python_of_the_readme_runs(topology: Topology, tmp_path: Path) -> None:
    """The hub's example makes alice's config; the client's example connects with it."""
    hub, client = blocks(ROOT / "README.md", "python")
    prefix = ["env", f"PYTHONPATH={ROOT}", f"STATE_DIRECTORY={tmp_path}", sys.executable, "-u"]
    (tmp_path / "hub.py").write_text(hub.replace("vpn.example.org", "10.99.0.1"))
    (tmp_path / "client.py").write_text(client)
    running = topology.popen("hub", *prefix, "hub.py", cwd=tmp_path, stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"[Interface]\n"
    done = subprocess.run(
        topology.command("client", *prefix, "client.py"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"10\.8\.0\.2 websocket 1420\n[\d.]+ ms\n", done.stdout), done.stdout
    printed = []
    while "ClientConnected" not in "".join(printed):
        printed.append(running.stdout.readline().decode())
        assert printed[-1], printed
