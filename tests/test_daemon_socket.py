"""The daemon's Unix socket: who may speak, many at once, and rivals for the path."""

from __future__ import annotations

import contextlib
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.raw import AS_NOBODY, ENDINGS, TIMEOUT, Connection, SocketDaemon, run_daemon

DISCONNECTED = {"state": "disconnected"}


@pytest.fixture
def path() -> Iterator[Path]:
    """Where the socket is to be, in a folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="svsock-"))
    folder.chmod(0o755)
    yield folder / "smartvpn.sock"
    shutil.rmtree(folder)


def test_a_daemon_serves_many_at_once(path: Path) -> None:
    """Each of 50 connections has its `ready` and its own answers; ids of one mean nothing to another."""
    with SocketDaemon(path) as daemon:
        connections = [daemon.connect() for _ in range(50)]
        for number, connection in enumerate(connections):
            connection.send(id="same", method="getClient", params={"clientId": f"{number}", "x": 1})
            connection.send(id="same", method="getStatus")
        for connection in reversed(connections):
            answers = [connection.answer(), connection.answer()]
            assert [answer["success"] for answer in answers] == [False, True]
        for connection in connections:
            connection.__exit__()


def test_it_survives_its_clients(path: Path) -> None:
    """Clients that leave in any way, with answers under way, leave it as it was."""
    with SocketDaemon(path) as daemon:
        for farewell in (b"", b"{", b'{"id":"a","method":"generateKeypair"}\n' * 500, b"\xff" * 100_000):
            with daemon.connect() as connection:
                connection.write(farewell)
        with daemon.connect() as connection:
            assert connection.result("getStatus") == DISCONNECTED
        assert daemon.process.poll() is None
        assert daemon.errors == ""


def test_half_a_connection_is_answered_and_closed(path: Path) -> None:
    """A client that ends its own side gets what it asked for, and then the end."""
    with SocketDaemon(path) as daemon, daemon.connect() as connection:
        connection.send(id="a", method="getStatus")
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.answer()["result"] == DISCONNECTED
        assert connection.line() is None


@pytest.mark.parametrize("number", ENDINGS)
def test_the_file_goes_with_the_daemon(path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT: status 0, connections closed, no socket file."""
    with SocketDaemon(path) as daemon, daemon.connect() as connection:
        assert daemon.signal(number) == 0
        assert connection.line() is None
        assert not path.exists()
        assert daemon.errors == ""


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def status_of(pid: str) -> str:
    """What the kernel says of a process."""
    return Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("number", [*ENDINGS, signal.SIGKILL])
def test_another_users_file_goes_with_the_daemon(path: Path, number: signal.Signals) -> None:
    """The user may not remove it from root's folder: it is gone after any end, and nothing runs on."""
    with SocketDaemon(path, "--user", "nobody") as daemon:
        with daemon.connect() as connection:
            assert connection.result("getStatus") == DISCONNECTED
        status = path.lstat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (65534, 0o600)
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        [janitor] = children
        eventually(lambda: "CapEff:\t0000000000000002\n" in status_of(janitor))  # CAP_DAC_OVERRIDE
        assert len(list(Path(f"/proc/{janitor}/fd").iterdir())) == 4
        assert daemon.signal(number) in (0, -number)
        eventually(lambda: not path.exists() and not Path(f"/proc/{janitor}/exe").exists())
        assert "Traceback" not in daemon.errors


def test_another_daemons_file_stays(path: Path) -> None:
    """What took the place of a killed daemon's socket is not removed with it."""
    with SocketDaemon(path, "--user", "nobody") as daemon, daemon.connect():
        path.unlink()
        with SocketDaemon(path) as other, other.connect():
            assert daemon.signal(signal.SIGTERM) == 0
            assert path.exists()


def test_a_client_that_never_reads_does_not_hold_up_the_end(path: Path) -> None:
    """SIGTERM ends the daemon although answers wait for a client."""
    with SocketDaemon(path) as daemon, daemon.connect() as connection:
        _ask_until_it_stops(connection)
        with daemon.connect() as other:
            assert other.result("getStatus") == DISCONNECTED
        assert daemon.signal(signal.SIGTERM) == 0


def _ask_until_it_stops(connection: Connection) -> None:
    while select.select([], [connection.socket], [], 1.0)[1]:
        connection.send(id="x", method="generateKeypair")


# who may speak


def test_the_mode_is_0600_from_the_first_moment(path: Path) -> None:
    """Whoever looks at the folder all the time never sees another mode, whatever the umask."""
    seen: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for entry in list(path.parent.iterdir()):
                with contextlib.suppress(FileNotFoundError):  # the daemon ended between the two calls
                    seen.add(entry.lstat().st_mode)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with SocketDaemon(path, prefix=("sh", "-c", 'umask 0; exec "$@"', "sh")) as daemon, daemon.connect():
            pass
    finally:
        stop.set()
        watcher.join()
    assert seen == {stat.S_IFSOCK | 0o600}


def test_another_user_is_refused(path: Path) -> None:
    """The file mode opened wide, the peer's uid still decides: closed without a word; root may speak."""
    program = (
        "import socket,sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "sys.stdout.write(repr(s.recv(1000)))"
    )
    with SocketDaemon(path) as daemon, daemon.connect() as connection:
        path.chmod(0o666)
        command = [*AS_NOBODY, sys.executable, "-c", program, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        assert done.stdout == "b''"
        assert connection.result("getStatus") == DISCONNECTED
        assert "a connection of another user was refused" in daemon.errors


def test_root_may_command_another_users_daemon(path: Path) -> None:
    """SO_PEERCRED lets in the owner and root."""
    path.parent.chmod(0o777)
    with SocketDaemon(path, prefix=AS_NOBODY) as daemon, daemon.connect() as connection:
        assert path.stat().st_uid == 65534
        assert connection.result("getStatus") == DISCONNECTED


# rivals for the path


def test_a_live_path_is_refused(path: Path) -> None:
    """A second daemon ends with status 1 and says why; the first one does not notice."""
    with SocketDaemon(path) as daemon, daemon.connect() as connection:
        done = run_daemon("--management-socket", str(path), "--mode", "client")
        expected = f"smartvpn_daemon: a daemon listens on {path} already\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
        assert connection.result("getStatus") == DISCONNECTED
        with daemon.connect():
            pass


def test_a_live_daemon_with_a_full_backlog_is_not_stale(path: Path) -> None:
    """A path whose daemon is too busy to accept is not taken from it."""
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        done = run_daemon("--management-socket", str(path), "--mode", "client")
        assert (done.returncode, "already" in done.stderr) == (1, True)
        assert path.exists()


def test_a_stale_file_is_taken_over(path: Path) -> None:
    """What a daemon killed with -9 left is replaced."""
    with SocketDaemon(path) as killed, killed.connect():
        assert killed.signal(signal.SIGKILL) == -signal.SIGKILL
    assert path.exists()
    with SocketDaemon(path) as daemon, daemon.connect() as connection:
        assert connection.result("getStatus") == DISCONNECTED
        assert daemon.signal(signal.SIGTERM) == 0
    assert not path.exists()


def test_of_many_at_one_moment_one_wins(path: Path) -> None:
    """Daemons that start together on a stale path: one serves, the others are told so."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    command = ["--management-socket", str(path), "--mode", "server"]
    rivals = [SocketDaemon(path) for _ in range(4)]
    eventually(lambda: sum(rival.process.poll() is None for rival in rivals) <= 1)
    (winner,) = [rival for rival in rivals if rival.process.poll() is None]
    with winner.connect() as connection:
        assert connection.result("getStatus") == DISCONNECTED
    assert run_daemon(*command).returncode == 1
    assert winner.signal(signal.SIGTERM) == 0
    assert sorted(rival.status() for rival in rivals) == [0, 1, 1, 1]
    for rival in rivals:
        rival.__exit__()
    assert not path.exists()


def test_the_file_of_a_successor_is_left_alone(path: Path) -> None:
    """A daemon whose file was replaced by another's does not remove that one at its end."""
    with SocketDaemon(path) as first, first.connect():
        path.unlink()
        with SocketDaemon(path) as second, second.connect():
            assert first.signal(signal.SIGTERM) == 0
            with second.connect() as connection:
                assert connection.result("getStatus") == DISCONNECTED


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    """A file, a folder, a link to nowhere: status 1, words, and nothing is removed."""
    for make in (path.touch, path.mkdir, lambda: path.symlink_to("/nonexistent")):
        make()
        done = run_daemon("--management-socket", str(path), "--mode", "server")
        expected = f"smartvpn_daemon: {path} exists and is no socket\n"
        assert (done.returncode, done.stderr) == (1, expected)
        assert path.is_symlink() or path.exists()
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/smartvpn.sock", "No such file or directory"),
        ("x" * 120, "AF_UNIX path too long"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_path_that_cannot_be_is_told(path: Path, name: str, words: str) -> None:
    """Status 1 and the system's reason."""
    wrong = path.parent / name
    done = run_daemon("--management-socket", str(wrong), "--mode", "server")
    assert (done.returncode, done.stderr) == (1, f"smartvpn_daemon: cannot listen on {wrong}: {words}\n")


def test_a_folder_without_rights_is_told(path: Path) -> None:
    """An ordinary user who may not write there: status 1 and words."""
    done = run_daemon("--management-socket", str(path), "--mode", "server", prefix=AS_NOBODY)
    expected = f"smartvpn_daemon: cannot listen on {path}: Permission denied\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_a_socket_from_systemd_is_served_and_kept(path: Path) -> None:
    """With LISTEN_PID and LISTEN_FDS the daemon takes descriptor 3, and leaves the file to its owner."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        as_systemd = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3);"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        prefix = (sys.executable, "-c", as_systemd, str(listener.fileno()))
        ignored = Path("/nonexistent/ignored")
        with SocketDaemon(ignored, prefix=prefix, pass_fds=(listener.fileno(),)) as daemon:
            with Connection(path) as connection:
                assert connection.receive()["event"] == "ready"
                assert connection.result("getStatus") == DISCONNECTED
            assert daemon.signal(signal.SIGTERM) == 0
            assert daemon.errors == ""
        assert path.exists()
