"""The daemon as a process: stdio, the lines it refuses, its arguments and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smartvpn import __version__, daemon
from smartvpn.commands import SERVER_COMMANDS, Mode
from smartvpn.config import ClientEntry
from smartvpn.ipc import Refusal, Request
from smartvpn.keys import PrivateKey
from smartvpn.types import RegisteredClients
from tests.raw import AS_NOBODY, DAEMON, ENDINGS, TIMEOUT, DaemonProcess, environment, run_daemon

KEYPAIR = {"publicKey", "privateKey"}


def ready(mode: str) -> dict[str, Any]:
    """What a daemon says first."""
    return {"event": "ready", "data": {"version": __version__, "mode": mode, "protocol": 1}}


@pytest.fixture(scope="module")
def shared() -> Iterator[DaemonProcess]:
    """One server daemon for all tests that must not end it; at the end it has said nothing unasked."""
    with DaemonProcess.stdio("server") as daemon:
        assert daemon.lines.receive() == ready("server")
        yield daemon
        assert daemon.lines.events == []
        assert daemon.end() == 0
        assert daemon.lines.line() is None


# from ready to the end


@pytest.mark.parametrize("mode", ["server", "client"])
def test_end_of_input_is_a_clean_end(mode: str) -> None:
    """`ready` comes first and once, stdout carries answers only, and stderr is none the worse."""
    with DaemonProcess.stdio(mode) as daemon:
        assert daemon.lines.receive() == ready(mode)
        assert daemon.lines.result("generateKeypair").keys() == KEYPAIR
        assert daemon.lines.result("getStatus") == {"state": "disconnected"}
        assert daemon.end() == 0
        assert daemon.lines.line() is None
        assert daemon.errors == ""


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_is_a_clean_end(number: signal.Signals) -> None:
    """SIGTERM and SIGINT end it with status 0, in the middle of a line too."""
    with DaemonProcess.stdio("server") as daemon:
        assert daemon.lines.receive() == ready("server")
        daemon.lines.write(b'{"id":"half')
        assert daemon.signal(number) == 0
        assert daemon.lines.line() is None
        assert daemon.errors == ""


def test_what_was_asked_before_the_end_is_answered() -> None:
    """All answers reach a slow reader after the end of input; a last line needs no newline."""
    with DaemonProcess.stdio("server") as daemon:
        for number in range(300):
            daemon.lines.send(id=str(number), method="generateClientKeypair")
        daemon.lines.write(b'{"id":"last","method":"getStatus"}')
        daemon.stdin.close()
        assert daemon.lines.receive() == ready("server")
        answered = {daemon.lines.answer()["id"] for _ in range(301)}
        assert answered == {"last", *map(str, range(300))}
        assert daemon.lines.line() is None
        assert daemon.status() == 0


def test_a_reader_that_stopped_reading_does_not_hold_up_the_end() -> None:
    """SIGTERM ends it although nobody takes what it says."""
    with DaemonProcess.stdio("server") as daemon:
        assert daemon.lines.receive() == ready("server")
        while select.select([], [daemon.stdin], [], 1.0)[1]:
            daemon.lines.send(id="x", method="generateKeypair")
        assert daemon.signal(signal.SIGTERM) == 0


def test_a_reader_that_is_gone_is_the_end() -> None:
    """With stdout closed there is nobody to serve: status 0."""
    with DaemonProcess.stdio("server") as daemon:
        daemon.lines.receive()
        daemon.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            daemon.lines.send(id="x", method="getStatus")
        assert daemon.status() == 0


def test_files_and_dev_null_serve_as_stdio(tmp_path: Path) -> None:
    """What epoll cannot watch is read and written all the same."""
    questions, answers = tmp_path / "in", tmp_path / "out"
    questions.write_text('{"id":"a","method":"getStatus"}\n' * 100)
    with questions.open("rb") as stdin, answers.open("wb") as stdout:
        done = subprocess.run(
            [*DAEMON, "--management", "--mode", "client"],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            env=environment(),
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    first, *rest = [json.loads(line) for line in answers.read_bytes().splitlines()]
    assert first == ready("client")
    assert rest == [{"id": "a", "success": True, "result": {"state": "disconnected"}}] * 100
    done_at_once = run_daemon("--management", "--mode", "server")
    assert (done_at_once.returncode, json.loads(done_at_once.stdout)) == (0, ready("server"))


# requests


def test_any_text_is_an_id(shared: DaemonProcess) -> None:
    """It comes back as it was: empty, long, escaped, in any script, half a surrogate."""
    for request_id in ("", "a" * 10_000, '\n\0"\\', "żółć 漢字 🚀", "\ud800", "null"):
        shared.lines.send(id=request_id, method="getStatus")
        answer = shared.lines.answer()
        assert answer == {"id": request_id, "success": True, "result": {"state": "disconnected"}}


def test_thousands_of_requests_in_one_go(shared: DaemonProcess) -> None:
    """Each is answered once, under its own id, in whatever order."""
    count = 5000
    requests = b"".join(b'{"id":"%d","method":"generateKeypair"}\n' % number for number in range(count))
    writer = threading.Thread(target=shared.lines.write, args=(requests,))
    writer.start()
    answers = [shared.lines.answer() for _ in range(count)]
    writer.join()
    assert sorted(int(answer["id"]) for answer in answers) == list(range(count))
    assert len({answer["result"]["privateKey"] for answer in answers}) == count


# lines that are no requests


@pytest.mark.parametrize(
    ("line", "request_id", "code", "words"),
    [
        (b"", None, "BAD_REQUEST", "the line is not JSON"),
        (b"{", None, "BAD_REQUEST", "the line is not JSON"),
        (b'{"id":"a","method":"getStatus"}}', None, "BAD_REQUEST", "the line is not JSON"),
        (b'{"id":"a","method":"getStatus","params":{"x":NaN}}', None, "BAD_REQUEST", "the line is not JSON"),
        (b"\xff\xfe\x00\x80", None, "BAD_REQUEST", "the line is not JSON"),
        (bytes(range(11, 256)), None, "BAD_REQUEST", "the line is not JSON"),
        (b"\0" * 1000, None, "BAD_REQUEST", "the line is not JSON"),
        (b"[" * 200_000, None, "BAD_REQUEST", "the line is not JSON"),
        (b'{"a":' * 200_000, None, "BAD_REQUEST", "the line is not JSON"),
        (b"9" * 100_000, None, "BAD_REQUEST", "the line is not JSON"),
        (b"[]", None, "BAD_REQUEST", "expected an object, got a list"),
        (b'"text"', None, "BAD_REQUEST", "expected an object, got a string"),
        (b"null", None, "BAD_REQUEST", "expected an object, got null"),
        (b'{"method":"getStatus"}', None, "BAD_REQUEST", "id: expected a string, got null"),
        (b'{"id":7,"method":"getStatus"}', None, "BAD_REQUEST", "id: expected a string, got a number"),
        (b'{"id":["a"],"method":"getStatus"}', None, "BAD_REQUEST", "id: expected a string, got a list"),
        (b'{"id":true,"method":"getStatus"}', None, "BAD_REQUEST", "id: expected a string, got a boolean"),
        (b'{"id":"a"}', "a", "BAD_REQUEST", "method: expected a string, got null"),
        (b'{"id":"a","method":{}}', "a", "BAD_REQUEST", "method: expected a string, got an object"),
        (b'{"id":"a","method":"fly"}', "a", "UNKNOWN_METHOD", "there is no method 'fly'"),
        (b'{"id":"a","method":"connect"}', "a", "UNKNOWN_METHOD", "there is no method 'connect'"),
        (b'{"id":"a","method":"__init__"}', "a", "UNKNOWN_METHOD", "there is no method '__init__'"),
        (b'{"id":"a","method":"getStatus","x":1}', "a", "INVALID_PARAMS", "x: unknown field"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else "",
)
def test_a_wrong_line_is_answered(
    shared: DaemonProcess, line: bytes, request_id: str | None, code: str, words: str
) -> None:
    """With an error that says what is wrong; the connection lives on."""
    shared.lines.write(line + b"\n")
    answer = shared.lines.answer()
    assert answer.pop("error").startswith(words)
    assert answer == {"id": request_id, "success": False, "code": code}
    assert shared.lines.result("getStatus") == {"state": "disconnected"}


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("getStatus", [], "expected an object, got a list"),
        ("getStatus", "no", "expected an object, got a string"),
        ("getStatus", {"verbose": True}, "verbose: unknown field"),
        ("getStatus", {"stream": 1}, "stream: expected true or false, got a number"),
        ("getClient", None, "clientId: is missing"),
        ("getClient", {}, "clientId: is missing"),
        ("getClient", {"clientId": 5}, "clientId: expected a string, got a number"),
        ("getClient", {"clientId": ""}, "clientId: expected 1 to 128 bytes of printable characters"),
        ("getClient", {"client_id": "alice"}, "client_id: unknown field"),
        ("getClient", {"clientId": "a", "tag": "b"}, "tag: unknown field"),
        ("createClient", {"clientId": "a", "tags": "b"}, "tags: expected a list, got a string"),
        ("createClient", {"clientId": "a", "tags": ["b", 1]}, "tags[1]: expected a string, got a number"),
        ("createClient", {"clientId": "a", "priority": -1}, "priority: -1 is not between"),
        ("createClient", {"clientId": "a", "priority": True}, "priority: expected an integer"),
        ("createClient", {"clientId": "a", "expiresAt": "soon"}, "expiresAt: "),
        ("createClient", {"clientId": "a", "assignedIp": "10.8.0.999"}, "assignedIp: "),
        ("createClient", {"clientId": "\u00e4" * 65}, "clientId: expected 1 to 128 bytes"),
        ("createClient", {"clientId": "a", "tags": ["t"] * 65}, "tags: has 65 items, more than 64"),
        ("createClient", {"clientId": "a", "tags": ["t" * 256]}, "tags[0]: expected 1 to 255"),
        ("createClient", {"clientId": "a", "description": "d" * 4097}, "description: has 4097 characters"),
        (
            "createClient",
            {"clientId": "a", "security": {"ipBlockList": ["10.0.0.1"] * 100_001}},
            "security.ipBlockList: has 100001 items, more than 100000",
        ),
        (
            "createClient",
            {"clientId": "a", "security": {"rateLimit": {"bytesPerSec": 1 << 63, "burstBytes": 1}}},
            "security.rateLimit.bytesPerSec: 9223372036854775808 is not between",
        ),
        ("updateClient", {"clientId": "a", "update": {"tags": ["t"] * 65}}, "update.tags: has 65 items"),
        (
            "updateClient",
            {"clientId": "a", "update": {"description": "d" * 4097}},
            "update.description: has 4097 characters",
        ),
        ("setClientRateLimit", {"clientId": "a", "rateBytesPerSec": 1 << 63, "burstBytes": 1}, "rateBytes"),
        ("createClient", {"clientId": "a", "enabled": "yes"}, "enabled: expected true or false"),
        ("createClient", {"clientId": "a", "publicKey": "short"}, "publicKey: "),
        ("createClient", {"clientId": "a", "wgPublicKey": "short"}, "wgPublicKey: "),
        (
            "createClient",
            {"clientId": "a", "security": {"ipAllowList": ["10.0.0.0/8", "x"]}},
            "security.ipAllowList[1]: ",
        ),
        (
            "createClient",
            {"clientId": "a", "security": {"rateLimit": {"bytesPerSec": 5}}},
            "security.rateLimit.burstBytes: is missing",
        ),
        ("updateClient", {"clientId": "a"}, "update: is missing"),
        ("updateClient", {"clientId": "a", "update": {"clientId": "b"}}, "update.clientId: unknown field"),
        ("updateClient", {"clientId": "a", "update": {"publicKey": "b"}}, "update.publicKey: unknown field"),
        ("listRegisteredClients", {"offset": -1}, "offset: -1 is not between"),
        ("exportClientConfig", {"clientId": "a", "format": "pdf"}, "format: is not one of"),
        ("setClientRateLimit", {"clientId": "a", "burstBytes": 1}, "rateBytesPerSec: is missing"),
        ("setClientRateLimit", {"clientId": "a", "rateBytesPerSec": 1}, "burstBytes: is missing"),
        ("disconnectClient", {"clientId": "a", "sessionId": 1}, "sessionId: expected a string"),
        ("addWgPeer", {"publicKey": "x", "allowedIps": []}, "publicKey: "),
        ("removeWgPeer", {}, "publicKey: is missing"),
        ("start", None, "config: is missing"),
        ("start", {"config": None}, "expected an object, got null"),
    ],
)
def test_wrong_params_are_named(shared: DaemonProcess, method: str, params: Any, words: str) -> None:
    """The error starts with the JSON path of the field."""
    code, error = shared.lines.refusal(method, params)
    assert (code, error[: len(words)]) == ("INVALID_PARAMS", words)


def test_a_hub_that_is_not_started_says_so(shared: DaemonProcess) -> None:
    """The commands that need one are INVALID_STATE; `stop` is content."""
    for method, params in [
        ("getStatistics", None),
        ("createClient", {"clientId": "a"}),
        ("getClient", {"clientId": "a"}),
        ("listClients", None),
        ("listWgPeers", None),
    ]:
        assert shared.lines.refusal(method, params) == ("INVALID_STATE", "the hub is not started")
    assert shared.lines.ask("stop") == {"success": True, "result": None}


def test_a_line_over_the_limit_is_refused_once() -> None:
    """50 MB are read and weighed; one byte more is an error without id, and the next line works."""
    request = b'{"id":"big","method":"getStatus"'
    with DaemonProcess.stdio("server") as daemon:
        assert daemon.lines.receive() == ready("server")
        daemon.lines.write(request + b" " * (50_000_000 - len(request) - 1) + b"}\n")
        assert daemon.lines.answer()["success"] is True
        daemon.lines.write(request + b" " * 70_000_000 + b"}\n")
        assert daemon.lines.answer() == {
            "id": None,
            "success": False,
            "error": "the line is longer than 50000000 bytes",
            "code": "BAD_REQUEST",
        }
        assert daemon.lines.result("getStatus") == {"state": "disconnected"}
        assert _peak_memory(daemon.process.pid) < 400_000_000


def _peak_memory(pid: int) -> int:
    """Bytes of memory a process has had at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


# arguments


def test_a_key_pair_is_one_line() -> None:
    """`--generate-keypair` prints a JSON object whose halves fit, and ends."""
    done = run_daemon("--generate-keypair")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    pair = json.loads(done.stdout)
    assert pair == {
        "publicKey": PrivateKey(pair["privateKey"]).public_key.base64,
        "privateKey": pair["privateKey"],
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--mode is required"),
        (["--management"], "--mode is required"),
        (["--mode", "server"], "one of --management, --management-socket, --config is required"),
        (["--management", "--mode", "router"], "argument --mode: invalid"),
        (["--management", "--management-socket", "/x", "--mode", "client"], "exclude each other"),
        (["--management-socket"], "expected one argument"),
        (["--management", "--mode", "server", "--workers", "many"], "argument --workers: expected a number"),
        (["--management", "--mode", "server", "--workers", "-1"], "argument --workers: expected a number"),
        (["--management", "--mode", "server", "--fast"], "unrecognized arguments: --fast"),
        (["--management", "--mode", "server", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str) -> None:
    """Status 2, and stderr says what is wrong; stdout stays empty."""
    done = run_daemon(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_without_rights_it_still_answers() -> None:
    """A daemon of an ordinary user does what needs no rights, and says what it could not do."""
    with DaemonProcess.stdio("server", prefix=AS_NOBODY) as daemon:
        assert daemon.lines.receive() == ready("server")
        pair = daemon.lines.result("generateKeypair")
        assert pair.keys() == KEYPAIR
        config = pair | {"listenAddr": "127.0.0.1:0", "subnet": "10.8.0.0/24", "registry": ":memory:"}
        assert daemon.lines.refusal("start", config)[0] == "PERMISSION"
        assert daemon.lines.result("getStatus") == {"state": "disconnected"}
        assert daemon.end() == 0


# long lines and answers

LONG = json.dumps([{"a": [{"b": "c"}] * 100}] * 2000).encode()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_long_answer_holds_up_nobody(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """Others are served while it is written, line by line."""
    served, taken = threading.Event(), []
    encode = daemon.encode_stream

    def patiently(*arguments: Any) -> Iterator[bytes]:
        for line in encode(*arguments):
            served.clear()
            assert served.wait(10), "the loop stood still"
            yield line

    async def serve_others() -> None:
        while True:
            served.set()
            await asyncio.sleep(0)

    monkeypatch.setattr(daemon, "encode_stream", patiently)
    monkeypatch.setattr(daemon, "encode_long_result", lambda *arguments: list(patiently(*arguments)))
    keys = {"public_key": PrivateKey.generate().public_key.base64, "assigned_ip": "10.8.0.2"}
    one = ClientEntry(client_id="a", wg_public_key=keys["public_key"], **keys)
    request = Request("1", SERVER_COMMANDS["listRegisteredClients"], None, stream)
    serving = asyncio.create_task(serve_others())
    result = RegisteredClients(clients=[one] * 2500, total=2500)
    async for line in daemon._answer_lines(request, result):
        taken += b"".join(line).splitlines()
    serving.cancel()
    assert len(taken) == 4


async def _nothing(*_: Any) -> bytes:
    return b""


async def test_a_long_line_holds_up_nobody() -> None:
    """Others have their turns while it is parsed."""
    connection = daemon.Connection(daemon.Daemon(Mode.SERVER), _nothing, _nothing)
    reading = asyncio.create_task(connection._understood(b'{"id":"1","method":"x","params":' + LONG + b"}"))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    refusal = await reading
    assert isinstance(refusal, Refusal)
    assert str(refusal.error) == "there is no method 'x'"
    assert turns > 20
