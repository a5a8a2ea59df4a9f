"""The JSON-lines codec and the command table."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from smartvpn import errors, events
from smartvpn._json import to_json
from smartvpn.commands import CLIENT_COMMANDS, COMMANDS, SERVER_COMMANDS, Command, Mode
from smartvpn.config import ClientConfig, ClientEntry, ClientSecurity, ServerConfig
from smartvpn.errors import ConfigError, ErrorCode, NotFoundError, SmartVpnError
from smartvpn.ipc import (
    Answer,
    AnswerReader,
    Failure,
    LineSplitter,
    LineTooLong,
    Refusal,
    Request,
    RequestReader,
    encode_error,
    encode_event,
    encode_long_result,
    encode_request,
    encode_result,
    encode_stream,
    is_long,
    takes_long,
)
from smartvpn.types import (
    ClientInfo,
    ClientUpdate,
    ExportFormat,
    Keypair,
    MtuInfo,
    RegisteredClients,
    SecurityUpdate,
    Status,
)

HUB = Keypair.generate()
SERVER = {
    "listenAddr": ":1",
    "privateKey": HUB.private_key,
    "publicKey": HUB.public_key,
    "subnet": "10.0.0.0/8",
}
CLIENT = {
    "serverUrl": "wss://hub/",
    "serverPublicKey": HUB.public_key,
    "clientPrivateKey": HUB.private_key,
    "clientPublicKey": HUB.public_key,
}


def read(message: object, mode: Mode = Mode.SERVER) -> Request | Refusal:
    """The one thing the reader makes of a line."""
    line = message if isinstance(message, bytes) else json.dumps(message).encode()
    [result] = fed(RequestReader(mode), line + b"\n")
    return result


def fed(reader: RequestReader, data: bytes) -> list[Request | Refusal]:
    """What the reader makes of the lines that the bytes complete."""
    return [reader.read(line) for line in reader.cut(data)]


def request(method: str, params: object = None, mode: Mode = Mode.SERVER) -> Request:
    """A request that must be valid."""
    result = read({"id": "1", "method": method, "params": params}, mode)
    assert isinstance(result, Request), result
    return result


# lines


def split(chunks: Sequence[bytes], limit: int) -> list[bytes | None]:
    """The lines of the chunks; None for one that was too long."""
    splitter = LineSplitter(limit)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.finish()
    return [None if isinstance(line, LineTooLong) else line for line in lines]


@given(st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_do_not_depend_on_the_cuts(lines: list[bytes], data: st.DataObject) -> None:
    """However the stream is cut, the lines are the same, and one over the limit is told once."""
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert split(chunks, 8) == [line if len(line) <= 8 else None for line in lines]


def test_too_long_line_is_not_held() -> None:
    """No more than the limit is buffered, and the next line is read as if nothing had been."""
    splitter = LineSplitter(100)
    told = [line for _ in range(1000) for line in splitter.feed(b"x" * 60)]
    assert len(told) == 1
    assert isinstance(told[0], LineTooLong)
    assert splitter._held == b""
    assert splitter.feed(b"\nnext\n") == [b"next"]


def test_last_line_without_newline() -> None:
    """At the end of input what is there counts as a line, once."""
    splitter = LineSplitter()
    assert splitter.feed(b"a\nb") == [b"a"]
    assert (splitter.finish(), splitter.finish()) == ([b"b"], [])


def test_line_limit_is_50_mb() -> None:
    """A line of exactly 50 MB is a line, one byte more is not."""
    assert split([b"x" * 50_000_000 + b"\n"], 50_000_000) == [b"x" * 50_000_000]
    reader = RequestReader(Mode.SERVER)
    [refusal] = fed(reader, b"x" * 50_000_001)
    assert isinstance(refusal, Refusal)
    assert (refusal.id, str(refusal.error)) == (None, "the line is longer than 50000000 bytes")
    [after] = fed(reader, b'\n{"id":"a","method":"getStatus"}\n')
    assert isinstance(after, Request)


# requests

REFUSALS: list[tuple[object, str | None, ErrorCode, str]] = [
    (b"", None, ErrorCode.BAD_REQUEST, "the line is not JSON: Expecting value at column 1"),
    (
        b"{",
        None,
        ErrorCode.BAD_REQUEST,
        "the line is not JSON: Expecting property name enclosed in double quotes",
    ),
    (b"\xff\xfe", None, ErrorCode.BAD_REQUEST, "the line is not JSON"),
    (b"[" * 100_000, None, ErrorCode.BAD_REQUEST, "the line is not JSON"),
    (b'{"id": NaN}', None, ErrorCode.BAD_REQUEST, "the line is not JSON"),
    ([], None, ErrorCode.BAD_REQUEST, "expected an object, got a list"),
    ({"method": "getStatus"}, None, ErrorCode.BAD_REQUEST, "id: expected a string, got null"),
    ({"id": 1, "method": "getStatus"}, None, ErrorCode.BAD_REQUEST, "id: expected a string, got a number"),
    ({"id": "a"}, "a", ErrorCode.BAD_REQUEST, "method: expected a string, got null"),
    ({"id": "a", "method": "connect"}, "a", ErrorCode.UNKNOWN_METHOD, "there is no method 'connect'"),
    ({"id": "a", "method": "x\n" * 99}, "a", ErrorCode.UNKNOWN_METHOD, "there is no method 'x?x?"),
    ({"id": "a", "method": "getStatus", "extra": 1}, "a", ErrorCode.INVALID_PARAMS, "extra: unknown field"),
    ({"id": "a", "method": "getStatus", "params": []}, "a", ErrorCode.INVALID_PARAMS, "expected an object"),
    (
        {"id": "a", "method": "getStatus", "params": {"x": 1}},
        "a",
        ErrorCode.INVALID_PARAMS,
        "x: unknown field",
    ),
    ({"id": "a", "method": "getClient"}, "a", ErrorCode.INVALID_PARAMS, "clientId: is missing"),
    (
        {"id": "a", "method": "getClient", "params": {"clientId": "x", "stream": 1}},
        "a",
        ErrorCode.INVALID_PARAMS,
        "stream: expected true or false, got a number",
    ),
    ({"id": "a", "method": "start"}, "a", ErrorCode.INVALID_PARAMS, "config: is missing"),
    (
        {"id": "a", "method": "start", "params": {"config": SERVER, "more": 1}},
        "a",
        ErrorCode.INVALID_PARAMS,
        "more: unknown field",
    ),
    (
        {"id": "a", "method": "start", "params": {**SERVER, "mtu": 1}},
        "a",
        ErrorCode.INVALID_PARAMS,
        "mtu: 1 is not between 576 and 65000",
    ),
    (
        {"id": "a", "method": "updateClient", "params": {"clientId": "x", "update": {"publicKey": "k"}}},
        "a",
        ErrorCode.INVALID_PARAMS,
        "update.publicKey: unknown field",
    ),
]


@pytest.mark.parametrize(("message", "request_id", "code", "text"), REFUSALS)
def test_refusals(message: object, request_id: str | None, code: ErrorCode, text: str) -> None:
    """A wrong line is answered with its id where there is one, its code, and what was wrong."""
    refusal = read(message)
    assert isinstance(refusal, Refusal)
    assert (refusal.id, refusal.error.code) == (request_id, code)
    assert str(refusal.error).startswith(text)
    answer = json.loads(encode_error(refusal.id, refusal.error))
    assert answer == {"id": request_id, "success": False, "error": str(refusal.error), "code": code.value}


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data: bytes) -> None:
    """Whatever comes in, each line is a request or a refusal that can be encoded."""
    reader = RequestReader(Mode.SERVER)
    results = fed(reader, data + b"\n")
    assert len(results) == data.count(b"\n") + 1
    for result in results:
        assert isinstance(result, Refusal)
        assert encode_error(result.id, result.error).endswith(b"}\n")


@given(st.text())
def test_any_id_is_echoed(request_id: str) -> None:
    """An id is any string, lone surrogates and newlines included."""
    result = read({"id": request_id, "method": "getStatus"})
    assert isinstance(result, Request)
    line = encode_result(result.id, Status(state="connected"))
    assert (json.loads(line)["id"], line.count(b"\n")) == (request_id, 1)


def test_config_commands_take_both_forms() -> None:
    """`start` and `connect` take the config, or an object around it."""
    plain, wrapped = request("start", SERVER), request("start", {"config": SERVER})
    assert plain.params == wrapped.params
    assert isinstance(plain.params.config, ServerConfig)
    joined = request("connect", {"config": CLIENT}, Mode.CLIENT)
    assert isinstance(joined.params.config, ClientConfig)
    assert request("connect", CLIENT, Mode.CLIENT).params == joined.params


def test_connect_needs_both_keys() -> None:
    """A config without its secrets is refused by the missing key's name."""
    params = {name: value for name, value in CLIENT.items() if name != "clientPrivateKey"}
    refusal = read({"id": "1", "method": "connect", "params": params}, Mode.CLIENT)
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, ConfigError)
    assert refusal.error.field == "clientPrivateKey"


def test_streaming_is_asked_for_in_params() -> None:
    """`stream` belongs to the request, not to the command's own params."""
    asked = request("listRegisteredClients", {"tag": "a", "stream": True})
    assert (asked.stream, asked.params.tag) == (True, "a")
    assert not request("listRegisteredClients").stream


def test_secrets_are_not_shown() -> None:
    """A request's repr has no params, so a log line has no key."""
    assert HUB.private_key not in repr(request("start", SERVER))


# the way there and back


def info() -> ClientInfo:
    """A live session."""
    return ClientInfo(
        client_id="alice",
        session_id="s",
        assigned_ip="10.0.0.2",
        transport="websocket",
        remote_addr="192.0.2.1:5",
        authenticated_key=HUB.public_key,
        connected_since=datetime(2026, 1, 1, tzinfo=UTC),
        bytes_sent=1,
        bytes_received=2,
        packets_dropped=3,
        bytes_dropped=4,
        keepalives_received=5,
    )


@pytest.mark.parametrize(
    "event",
    [
        events.Ready(version="1", mode="server", protocol=1),
        events.Started(),
        events.Stopped(),
        events.ClientConnected(client=info()),
        events.ClientDisconnected(client_id="a", session_id="s", reason="kicked"),
        events.StatusChanged(status=Status(state="reconnecting")),
        events.ErrorReported(message="no", code="INTERNAL"),
        events.EventsLost(count=3),
        events.Exited(code=0),
        events.Reconnected(),
    ],
)
def test_events(event: events.Event) -> None:
    """Every event comes back equal; what it wraps stands flat under `data`."""
    line = encode_event(event)
    assert AnswerReader().feed(line) == [event]
    assert json.loads(line)["event"] == event.name


def test_event_data_is_flat() -> None:
    """A status event's data is the status, a connected event's the client."""
    assert json.loads(encode_event(events.StatusChanged(status=Status(state="error"))))["data"] == {
        "state": "error"
    }
    assert json.loads(encode_event(events.ClientConnected(client=info())))["data"]["clientId"] == "alice"


def test_answers() -> None:
    """A result comes back as the command's type; a command without result answers null."""
    command = CLIENT_COMMANDS["getMtuInfo"]
    mtu = MtuInfo(
        tun_mtu=1420,
        effective_mtu=1421,
        link_mtu=1500,
        overhead_bytes=79,
        oversized_packets_dropped=0,
        icmp_too_big_sent=0,
    )
    [answer] = AnswerReader().feed(encode_result("1", mtu))
    assert isinstance(answer, Answer)
    assert (answer.id, command.read_result(answer.result)) == ("1", mtu)
    assert encode_result("2") == b'{"id":"2","success":true,"result":null}\n'
    assert SERVER_COMMANDS["stop"].read_result(None) is None


def test_failures() -> None:
    """An error comes back as its class; one that is not ours tells no more than its class."""
    [failure] = AnswerReader().feed(encode_error("1", NotFoundError("client 'bob' does not exist")))
    assert isinstance(failure, Failure)
    assert (type(failure.error), str(failure.error)) == (NotFoundError, "client 'bob' does not exist")
    line = encode_error(None, RuntimeError("the key is hunter2"))
    assert json.loads(line) == {
        "id": None,
        "success": False,
        "error": "internal error (RuntimeError)",
        "code": "INTERNAL",
    }


def entries(count: int) -> list[ClientEntry]:
    """Clients with distinct ids."""
    return [
        ClientEntry(
            client_id=f"c{index}",
            public_key=HUB.public_key,
            wg_public_key=HUB.public_key,
            assigned_ip=f"10.0.{index // 250}.{index % 250}",
        )
        for index in range(count)
    ]


@pytest.mark.parametrize(("count", "lines"), [(0, 1), (1, 2), (4, 3), (5, 4)])
def test_streamed_lists(count: int, lines: int) -> None:
    """Chunks hold the list in order, the final answer the rest; the reader joins them."""
    page = RegisteredClients(clients=entries(count), total=99)
    encoded = list(encode_stream("1", page, items=2))
    assert len(encoded) == lines
    assert json.loads(encoded[-1]) == {"id": "1", "success": True, "result": {"clients": [], "total": 99}}
    [answer] = AnswerReader().feed(b"".join(encoded))
    assert isinstance(answer, Answer)
    assert SERVER_COMMANDS["listRegisteredClients"].read_result(answer.result) == page


def test_long_lists() -> None:
    """A list of any length comes whole, as the converter would write it."""
    for count in (0, 1, 64, 65, 200):
        page = RegisteredClients(clients=entries(count), total=99)
        assert is_long(page) == (count > 64)
        expected = {"id": "1", "success": True, "result": to_json(page)}
        assert json.loads(encode_result("1", page)) == expected
    assert not is_long(Status(state="connected"))
    assert not is_long(None)


def test_long_lists_within() -> None:
    """What is long inside counts as well, and comes in parts of which none is long."""
    patterns = [f"10.{n // 256}.{n % 256}.0/24" for n in range(20_000)]
    [one] = entries(1)
    long = attrs.evolve(one, security=ClientSecurity(ip_block_list=patterns), tags=["a"])
    for result in (long, RegisteredClients(clients=[one, long], total=2)):
        assert is_long(result)
        expected = {"id": "1", "success": True, "result": to_json(result)}
        parts = encode_long_result("1", result)
        assert json.loads(b"".join(parts)) == expected
        assert max(map(len, parts)) < 80_000
    [chunk, _] = encode_stream("1", RegisteredClients(clients=[long], total=1))
    assert json.loads(chunk)["data"] == {"clients": [to_json(long)]}


def test_a_line_is_long_or_short() -> None:
    """Both are read alike; the long one is for a thread."""
    for spaces, long in ((0, False), (20_000, True)):
        line = b'{"id":"1","method":"getClient","params":{"clientId":"a"' + b" " * spaces + b"}}"
        assert takes_long(line) == long
        request = RequestReader(Mode.SERVER).read(line)
        assert isinstance(request, Request)
        assert request.params.client_id == "a"
    assert not takes_long(LineTooLong())


def test_stream_without_a_list_is_one_answer() -> None:
    """What cannot be cut comes whole."""
    status = Status(state="connected")
    assert list(encode_stream("1", status)) == [encode_result("1", status)]


def test_failure_ends_a_stream() -> None:
    """Chunks of a request that failed in the end are forgotten."""
    first, *_ = encode_stream("1", RegisteredClients(clients=entries(2), total=2))
    messages = AnswerReader().feed(first + encode_error("1", SmartVpnError("x")) + encode_result("1", None))
    assert messages[1] == Answer("1", None)


@pytest.mark.parametrize("line", [b"hello", b'{"event":"party","data":{}}', b'{"id":1,"success":true}'])
def test_other_end_does_not_speak_the_protocol(line: bytes) -> None:
    """A daemon's line that makes no sense is an error, not silence."""
    with pytest.raises(errors.BadRequestError):
        AnswerReader().feed(line + b"\n")


def test_request_round_trip() -> None:
    """What a bridge encodes is what the daemon reads."""
    command = SERVER_COMMANDS["updateClient"]
    update = ClientUpdate(tags=None, security=SecurityUpdate(max_connections=2))
    params = command.bind("alice", update)
    [got] = fed(RequestReader(Mode.SERVER), encode_request("7", command, params, stream=True))
    assert got == Request("7", command, params, stream=True)


# the command table

METHODS = {
    Mode.SERVER: "start stop getStatus getStatistics createClient removeClient getClient enableClient "
    "disableClient listRegisteredClients updateClient rotateClientKey exportClientConfig listClients "
    "disconnectClient setClientRateLimit removeClientRateLimit getClientTelemetry generateKeypair "
    "generateWgKeypair generateClientKeypair addWgPeer removeWgPeer listWgPeers",
    Mode.CLIENT: "connect disconnect getStatus getStatistics getConnectionQuality getMtuInfo generateKeypair",
}


@pytest.mark.parametrize("mode", list(Mode))
def test_methods(mode: Mode) -> None:
    """Each mode has exactly the methods of the protocol."""
    assert list(COMMANDS[mode]) == METHODS[mode].split()


ORDER = {
    "createClient": "client_id tags description security priority expires_at assigned_ip enabled public_key "
    "wg_public_key",
    "listRegisteredClients": "tag enabled offset limit",
    "updateClient": "client_id update",
    "exportClientConfig": "client_id format",
    "disconnectClient": "client_id session_id",
    "setClientRateLimit": "client_id rate_bytes_per_sec burst_bytes",
    "addWgPeer": "public_key preshared_key allowed_ips endpoint persistent_keepalive",
    "removeWgPeer": "public_key",
    "start": "config",
    "generateKeypair": "",
}


@pytest.mark.parametrize("method", list(ORDER))
def test_positional_order(method: str) -> None:
    """Python callers may give arguments in the order of the protocol's params."""
    names = [item.name for item in attrs.fields(SERVER_COMMANDS[method].params)]
    assert names == ORDER[method].split()


def test_python_names() -> None:
    """Methods are snake_case; `stop` of a hub leaves the name to the daemon's end."""
    names = [command.python_name for command in SERVER_COMMANDS.values()]
    assert names[:5] == ["start", "stop_server", "get_status", "get_statistics", "create_client"]
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)
    assert len(set(names)) == len(names)


def test_bind() -> None:
    """Arguments by position and by name make the params; wrong ones fail as Python calls do."""
    command = SERVER_COMMANDS["exportClientConfig"]
    assert command.bind("alice", format="wireguard").format is ExportFormat.WIREGUARD
    for arguments, names in ((("a", "b", "c"), {}), (("a",), {"client_id": "a"}), ((), {"colour": 1})):
        with pytest.raises(TypeError):
            command.bind(*arguments, **names)
    with pytest.raises(ConfigError, match=r"^format: "):
        command.bind("alice", "ini")


@pytest.mark.parametrize(
    ("method", "result", "bare"),
    [
        ("listClients", {"clients": []}, []),
        ("listWgPeers", {"peers": []}, []),
        ("listRegisteredClients", {"clients": [], "total": 7}, []),
        ("exportClientConfig", {"config": "text"}, "text"),
    ],
)
def test_bare_results(method: str, result: Any, bare: object) -> None:
    """Lists and single values come bare to Python callers."""
    command = SERVER_COMMANDS[method]
    assert command.python_result(command.read_result(result)) == bare


def test_page_knows_the_total() -> None:
    """The bare list of registered clients still tells how many there are."""
    command: Command = SERVER_COMMANDS["listRegisteredClients"]
    assert command.python_result(command.read_result({"clients": [], "total": 7})).total == 7
