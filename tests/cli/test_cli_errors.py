"""Bad input: one line that says the cause and what to do, a status of its own, nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from smartvpn._extras import how_to_install
from smartvpn.cli import _process, _systemd
from smartvpn.cli._commands import main
from smartvpn.cli._errors import ExitCode, Failure, explain
from smartvpn.cli._files import refuse_unwritable
from smartvpn.cli._qr import qr_text
from smartvpn.keys import PrivateKey
from tests.cli.tool import environment, run
from tests.raw import AS_NOBODY, SocketDaemon

NEED_A_DAEMON = [
    ["status"],
    ["top", "--count", "1"],
    ["dashboard"],
    ["down"],
    ["client", "add", "alice"],
    ["client", "list"],
    ["client", "show", "alice"],
    ["client", "edit", "alice", "--priority", "1"],
    ["client", "enable", "alice"],
    ["client", "disable", "alice"],
    ["client", "rotate", "alice"],
    ["client", "remove", "alice", "--yes"],
    ["client", "export", "alice"],
]
WRONG = [
    [],
    ["nonsense"],
    ["client"],
    ["client", "nonsense"],
    ["client", "add"],
    ["client", "add", "alice", "--rate", "fast"],
    ["client", "add", "alice", "--expires", "soon"],
    ["client", "add", "alice", "--burst", "1MB"],
    ["client", "add", "alice", "--qr", "--json"],
    ["client", "list", "alice"],
    ["client", "show"],
    ["client", "edit", "alice"],
    ["client", "edit", "alice", "--reset", "name"],
    ["client", "edit", "alice", "--rate", "1MB", "--reset", "rate"],
    ["client", "enable"],
    ["client", "disable"],
    ["client", "rotate"],
    ["client", "remove"],
    ["client", "export", "alice", "--format", "openvpn"],
    ["init", "--mode", "tcp"],
    ["up", "one", "two"],
    ["down", "now"],
    ["run", "--user"],
    ["status", "--verbose"],
    ["top", "--interval", "0"],
    ["doctor", "--target", "nowhere"],
    ["dashboard", "--listen", "nowhere"],
    ["dashboard", "--listen", "0.0.0.0:8787"],
    ["dashboard", "--tls-cert", __file__],
    ["dashboard", "--public-host", "a b"],
    ["dashboard", "--token-file"],
    ["logs", "--lines", "-1"],
    ["service"],
    ["service", "install", "a", "b"],
    ["service", "dashboard", "--listen", "[::]:443"],
    ["service", "remove", "--mode", "both"],
    ["completion", "powershell"],
    ["import"],
]


def every_command(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands by their words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    made = Path(tempfile.mkdtemp(prefix="svcli-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Such a folder."""
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def hub_not_started() -> Iterator[Path]:
    """The socket of a daemon of root's that is asked for nothing but what it refuses."""
    with open_folder() as place, SocketDaemon(place / "s.sock") as daemon, daemon.connect():
        yield place / "s.sock"


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_arguments(arguments: list[str]) -> None:
    """Status 2, and where to read on."""
    done = run(*arguments)
    assert done.status == ExitCode.USAGE
    assert "--help`" in done.one_line()


def test_each_command_is_tried_with_wrong_arguments() -> None:
    """No command is missing from the list above."""
    tried = {tuple(words[: len(path)]) for path in every_command() for words in WRONG}
    assert set(every_command()) <= tried


@pytest.mark.parametrize("arguments", NEED_A_DAEMON, ids=" ".join)
def test_no_daemon(arguments: list[str], folder: Path) -> None:
    """Status 3, the socket's path, and how one is started; as JSON too."""
    path = folder / "none.sock"
    done = run(*arguments, "--socket", path, cwd=folder)
    assert done.status == ExitCode.UNREACHABLE
    assert f"no daemon listens on {path}" in done.one_line()
    as_json = run(*arguments, "--socket", path, "--json", cwd=folder)
    assert json.loads(as_json.one_line())["status"] == ExitCode.UNREACHABLE
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("arguments", NEED_A_DAEMON, ids=" ".join)
def test_another_user(arguments: list[str], hub_not_started: Path, folder: Path) -> None:
    """A daemon of root's: status 4, and the way to it; opened wide, it refuses all the same."""
    words = [*arguments, "--socket", str(hub_not_started)]
    hub_not_started.chmod(0o600)
    done = run(*words, prefix=AS_NOBODY, cwd=folder)
    assert (done.status, "sudo" in done.one_line()) == (ExitCode.PERMISSION, True)
    if arguments != ["down"]:
        hub_not_started.chmod(0o666)
        done = run(*words, prefix=AS_NOBODY, cwd=folder)
        assert (done.status, "refuses this user" in done.one_line()) == (ExitCode.PERMISSION, True)


@pytest.mark.parametrize(
    "arguments", [words for words in NEED_A_DAEMON if words[0] == "client"], ids=" ".join
)
def test_a_hub_that_is_not_started(arguments: list[str], hub_not_started: Path, folder: Path) -> None:
    """Status 6: the daemon is there, its hub is not; no file is left."""
    done = run(*arguments, "--socket", hub_not_started, cwd=folder)
    assert (done.status, "not started" in done.one_line()) == (ExitCode.CONFLICT, True)
    assert list(folder.iterdir()) == []


def test_a_daemon_of_the_other_kind(folder: Path) -> None:
    """Status 6 and which it is."""
    path = folder / "s.sock"
    with SocketDaemon(path, "--mode", "client") as daemon, daemon.connect():
        done = run("client", "list", "--socket", path)
        assert (done.status, "runs in client mode" in done.one_line()) == (ExitCode.CONFLICT, True)


KEY = PrivateKey.generate()
CONFIGS = {
    "{": ("is not JSON", 7),
    "[]": ("", 7),
    "{}": ("serverPublicKey: is missing", 7),
    '{"subnet": "10.8.0.0/24"}': ("privateKey: is missing", 7),
    f'{{"subnet": "10.8.0.0/24", "privateKey": "{KEY.base64}", "publicKey": "x"}}': (
        "publicKey: is not a key",
        7,
    ),
    '{"subnet": "10.8.0.0/24", "colour": "red"}': ("colour: unknown field", 7),
}


@pytest.mark.parametrize("command", [["up"], ["run"], ["service", "install", "--print"]], ids=" ".join)
@pytest.mark.parametrize(("text", "expected"), CONFIGS.items(), ids=map(str, range(len(CONFIGS))))
def test_a_wrong_config(command: list[str], text: str, expected: tuple[str, int], folder: Path) -> None:
    """Status 7 with the file's name and the field's, and never a key."""
    config = folder / "config.json"
    config.write_text(text)
    words, status = expected
    done = run(*command, config, "--socket", folder / "s.sock")
    assert done.status == status
    line = done.one_line()
    assert str(config) in line
    assert words in line
    assert KEY.base64 not in line
    assert list(folder.iterdir()) == [config]


@pytest.mark.parametrize("command", [["up"], ["run"], ["import"], ["service", "install"]], ids=" ".join)
def test_a_missing_file(command: list[str], folder: Path) -> None:
    """Status 5 and its name."""
    done = run(*command, folder / "none", "--socket", folder / "s.sock")
    assert (done.status, str(folder / "none") in done.one_line()) == (ExitCode.NOT_FOUND, True)


def test_a_file_of_root(folder: Path) -> None:
    """A config that this user may not read: status 4; doctor looks at the rest all the same."""
    config = folder / "config.json"
    config.write_text("{}")
    config.chmod(0o600)
    code = (
        "import os, sys; from smartvpn.cli._commands import run; import smartvpn.cli._errors;"
        "os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3); sys.exit(run(sys.argv[1:]))"
    )
    as_nobody = (sys.executable, "-c", code)
    for command in ("up", "import"):
        done = run(command, config, command=as_nobody, cwd=folder)
        assert (done.status, "Permission denied; run it" in done.one_line()) == (ExitCode.PERMISSION, True)
    done = run("doctor", config, "--json", command=as_nobody, cwd=folder)
    [check] = [item for item in json.loads(done.out) if item["check"] == "config"]
    assert (check["verdict"], check["fix"]) == ("fail", "run it as root (sudo)")
    done = run("init", "--config", config, "--endpoint", "vpn.example.org", command=as_nobody, cwd=folder)
    assert (done.status, "lose its keys" in done.one_line()) == (ExitCode.CONFLICT, True)


def test_init_refuses_what_is_wrong(folder: Path) -> None:
    """A field's fault is named, an existing config is kept, and no file is left."""
    config = folder / "server.json"
    wrong = {
        "--subnet": "10.8.0.1/24",
        "--endpoint": "no host",
        "--listen": "here",
        "--dns": "me",
        "--tls-cert": "none.pem",
    }
    for option, value in wrong.items():
        done = run(
            "init", "--config", config, "--yes", "--endpoint", "vpn.example.org", option, value, cwd=folder
        )
        assert done.status in (ExitCode.USAGE, ExitCode.NOT_FOUND)
        assert done.one_line()
    assert list(folder.iterdir()) == []
    config.write_text("mine")
    done = run("init", "--config", config, "--endpoint", "vpn.example.org")
    assert (done.status, "exists" in done.one_line()) == (ExitCode.CONFLICT, True)
    assert config.read_text() == "mine"


def test_an_unforeseen_error_shows_nothing_of_itself() -> None:
    """Its text may hold a key: only its kind is shown."""
    explained = explain(RuntimeError(f"key {KEY.base64}"))
    assert explained.status == ExitCode.FAILED
    assert KEY.base64 not in explained.line()
    assert "RuntimeError" in explained.line()


def test_a_reader_that_leaves_is_no_error() -> None:
    """`smartvpn … | head -0`: no traceback, no complaint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "smartvpn.cli", "completion", "bash"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert errors == b""


def test_without_the_extra_it_says_what_to_install() -> None:
    """`pip install smartvpn` alone brings no click: one line, and the package's name."""
    code = (
        "import sys, importlib.util as u; found = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'rich' else found(name, *a);"
        "from smartvpn.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    expected = f"smartvpn: rich not installed; run: {sys.executable} -m pip install 'smartvpn[cli]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.parametrize("command", [["dashboard"], ["service", "dashboard"]], ids=" ".join)
def test_without_the_dashboards_extra_it_says_what_to_install(command: list[str]) -> None:
    """`pip install 'smartvpn[cli]'` brings no web server: status 5, one line, and what to do."""
    code = (
        "import sys, importlib.util as u; found = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'uvicorn' else found(name, *a);"
        "from smartvpn.cli._commands import run; sys.exit(run(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, *command]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    expected = f"smartvpn: the dashboard needs uvicorn; run: {how_to_install('dashboard')}\n"
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.NOT_FOUND, "", expected)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_scripts(shell: str) -> None:
    """Each names the command; what click answers to one is the command's words."""
    assert "_SMARTVPN_COMPLETE" in run("completion", shell).out
    words = {"_SMARTVPN_COMPLETE": "bash_complete", "COMP_WORDS": "smartvpn client r", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "smartvpn.cli"],
        capture_output=True,
        text=True,
        env={**environment(), **words},
        check=False,
    )
    assert done.stdout.split() == ["plain,remove", "plain,rotate"]


def test_the_import_of_the_package_needs_no_extra() -> None:
    """A user of the library alone is not forced to click, rich or segno."""
    code = "import sys, smartvpn, smartvpn.daemon; print({'click', 'rich', 'segno'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout == "set()\n"


def test_a_text_that_no_code_can_hold() -> None:
    """There is none for it, which is no error: the files are written by then."""
    assert qr_text("x" * 300, colours=False)
    assert qr_text("x" * 3000, colours=False) is None


def test_a_folder_in_a_files_place(folder: Path) -> None:
    """It is told before a key is changed: --force replaces files, and no folder."""
    place = folder / "alice.conf"
    place.mkdir()
    with pytest.raises(Failure, match="is a folder") as told:
        refuse_unwritable([folder / "alice.json", place])
    assert told.value.status is ExitCode.CONFLICT


def test_a_service_manager_that_takes_its_time(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No internal error, but what took how long, and where to look."""
    slow = folder / "systemctl"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(_systemd, "_SECS", 0.2)
    with pytest.raises(
        Failure, match=r"`systemctl start smartvpn-server.service` did not end within 0.2 s"
    ) as told:
        _systemd.systemctl("start", "smartvpn-server.service")
    assert (told.value.status, "smartvpn logs" in str(told.value.fix)) == (ExitCode.UNREACHABLE, True)


def test_systemd_is_no_daemon_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that it holds for a unit leads to process 1, which nobody ends."""
    signals: list[int] = []
    monkeypatch.setattr(_process, "_listener", lambda _: 1)
    monkeypatch.setattr(_process, "systemd_runs", lambda: True)
    monkeypatch.setattr(_process.signal, "pidfd_send_signal", lambda _, number: signals.append(number))
    with pytest.raises(Failure, match="systemd holds the socket") as told:
        _process.end_listener("/run/smartvpn.sock")
    assert (told.value.status, signals) == (ExitCode.CONFLICT, [])
