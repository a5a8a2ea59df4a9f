"""The JSON-lines protocol without I/O: bytes in, requests or answers out, and back.

    → {"id": "req_1", "method": "getClient", "params": {"clientId": "alice"}}
    ← {"id": "req_1", "success": true, "result": {…}}
    ← {"id": "req_2", "success": false, "error": "…", "code": "NOT_FOUND"}
    ← {"id": "req_3", "stream": true, "data": {…}}
    ← {"event": "ready", "data": {…}}

A line that is no request becomes a Refusal, to be answered like any other request; the
connection lives on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, TypeAlias

from attrs import field, fields_dict, frozen, has

from smartvpn._fields import camel_case, join_path, type_name
from smartvpn._json import from_json, members, parse, parse_long, to_json
from smartvpn.commands import COMMANDS, Command, Mode
from smartvpn.errors import (
    BadRequestError,
    ConfigError,
    SmartVpnError,
    UnknownMethodError,
    error_from_code,
)
from smartvpn.events import EVENTS, Event

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 50_000_000
STREAM_ITEMS = 1000
STREAM_BYTES = 1_000_000
_SHORT_LINE = 16_384
_SHORT_LIST = 64
_PART_CHARS = 65_536

_REQUEST_FIELDS = frozenset({"id", "method", "params"})


class LineTooLong:
    """Stands for a line over the limit, whose bytes are gone."""


Line: TypeAlias = bytes | bytearray | LineTooLong


class LineSplitter:
    """Cuts a byte stream into lines, holding at most `limit` bytes.

    A longer line is reported once, its bytes are dropped as they come, and the next newline
    starts afresh.
    """

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._held = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[Line]:
        """The lines that `data` completes, without their newlines."""
        *complete, rest = data.split(b"\n")
        lines = [line for piece in complete for line in (*self._hold(piece), *self._end_line())]
        return lines + self._hold(rest)

    def finish(self) -> list[Line]:
        """The last line, where input ended without a newline."""
        return self._end_line() if self._held else []

    def _hold(self, piece: bytes) -> list[Line]:
        if self._skipping or not piece:
            return []
        if len(self._held) + len(piece) > self._limit:
            self._held = bytearray()
            self._skipping = True
            return [LineTooLong()]
        self._held += piece
        return []

    def _end_line(self) -> list[Line]:
        if self._skipping:
            self._skipping = False
            return []
        line, self._held = self._held, bytearray()
        return [line if len(line) > _SHORT_LINE else bytes(line)]


# the daemon's side


@frozen
class Request:
    """A request that passed the command table. `params` is an object of `command.params`."""

    id: str
    command: Command
    params: Any = field(repr=False)
    stream: bool = False


@frozen
class Refusal:
    """A line that is no valid request; `id` is None where none could be read."""

    id: str | None
    error: SmartVpnError


class RequestReader:
    """Bytes of one connection → requests and refusals."""

    def __init__(self, mode: Mode, limit: int = MAX_LINE_BYTES) -> None:
        self._commands = COMMANDS[mode]
        self._lines = LineSplitter(limit)
        self._limit = limit

    def cut(self, data: bytes) -> list[Line]:
        """The lines that `data` completes."""
        return self._lines.feed(data)

    def last(self) -> list[Line]:
        """The last line, where input ended without a newline."""
        return self._lines.finish()

    def read(self, line: Line) -> Request | Refusal:
        """What the line asks for. Of one that is long (`takes_long`) on a thread: others have their turns."""
        request_id, message = None, None
        try:
            message = _parse_object(line, self._limit)
            request_id = _request_id(message)
            return self._request(request_id, message)
        except SmartVpnError as error:
            return Refusal(request_id, error)
        finally:
            if takes_long(line):
                _let_go(message)

    def _request(self, request_id: str, message: dict[str, Any]) -> Request:
        command = self._command(message.get("method"))
        unknown = message.keys() - _REQUEST_FIELDS
        if unknown:
            raise ConfigError(_printable(min(unknown)), "unknown field")
        params, stream = _split_stream(message.get("params"))
        return Request(request_id, command, command.read_params(params), stream)

    def _command(self, method: object) -> Command:
        if not isinstance(method, str):
            raise BadRequestError(f"method: expected a string, got {type_name(method)}")
        command = self._commands.get(method)
        if command is None:
            raise UnknownMethodError(f"there is no method '{_printable(method)}'")
        return command


def takes_long(line: Line) -> bool:
    """Whether to read the line takes long, and belongs on a thread."""
    return not isinstance(line, LineTooLong) and len(line) > _SHORT_LINE


def _let_go(data: object) -> None:
    """Forget parsed JSON bit by bit: freed as one it would let no other thread run."""
    waiting = [data]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.values())
            item.clear()
        elif isinstance(item, list):
            waiting += [inner for inner in item[-_SHORT_LIST:] if isinstance(inner, dict | list)]
            del item[-_SHORT_LIST:]
            waiting += [item] if item else []


def _parse_object(line: Line, limit: int) -> dict[str, Any]:
    if isinstance(line, LineTooLong):
        raise BadRequestError(f"the line is longer than {limit} bytes")
    try:
        message = parse_long(line) if takes_long(line) else parse(line)
    except json.JSONDecodeError as error:
        raise BadRequestError(f"the line is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError:
        raise BadRequestError("the line is not JSON") from None
    if not isinstance(message, dict):
        raise BadRequestError(f"expected an object, got {type_name(message)}")
    return message


def _request_id(message: dict[str, Any]) -> str:
    request_id = message.get("id")
    if not isinstance(request_id, str):
        raise BadRequestError(f"id: expected a string, got {type_name(request_id)}")
    return request_id


def _split_stream(params: Any) -> tuple[Any, bool]:
    if not isinstance(params, dict) or "stream" not in params:
        return params, False
    rest = {name: value for name, value in params.items() if name != "stream"}
    if not isinstance(params["stream"], bool):
        raise ConfigError("stream", f"expected true or false, got {type_name(params['stream'])}")
    return rest, params["stream"]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:64])


def encode_result(request_id: str, result: object = None) -> bytes:
    """The final answer to a request that succeeded, or an error when it is longer than a line may be."""
    return b"".join(encode_long_result(request_id, result))


def encode_long_result(request_id: str, result: object) -> list[bytes]:
    """The same in parts, each of which is soon made and soon written."""
    parts = list(_parts(_result_texts(request_id, result)))
    if sum(map(len, parts)) <= MAX_LINE_BYTES:
        return parts
    reason = f"the answer is longer than {MAX_LINE_BYTES} bytes: ask for a page, or for a stream"
    return [encode_error(request_id, ConfigError("", reason))]


def is_long(result: object) -> bool:
    """Whether the answer takes long to encode, and belongs on a thread."""
    return _items(result) > _SHORT_LIST


def _items(value: object) -> int:
    """How many items its lists have, inner lists included; of a long one no more than that it is long."""
    if isinstance(value, tuple):
        return len(value) + (sum(map(_items, value)) if len(value) <= _SHORT_LIST else 0)
    count = 0
    for attribute in getattr(type(value), "__attrs_attrs__", ()):
        item = getattr(value, attribute.name)
        if isinstance(item, tuple) or hasattr(item, "__attrs_attrs__"):
            count += _items(item)
    return count


def _result_texts(request_id: str, result: object) -> Iterator[str]:
    yield _text({"id": request_id, "success": True})[:-1] + ',"result":'
    yield from _texts(result)
    yield "}\n"


def _texts(value: Any) -> Iterator[str]:
    """JSON; what is long piece by piece: the encoder lets no other thread run before it returns."""
    if not is_long(value):
        yield _text(to_json(value))
        return
    before, after = "[]" if isinstance(value, tuple) else "{}"
    for text in _list_texts(value) if isinstance(value, tuple) else _object_texts(value):
        yield before
        yield from text
        before = ","
    yield after


def _list_texts(values: tuple[Any, ...]) -> Iterator[Iterable[str]]:
    if isinstance(values[0], str):
        slices = (values[first : first + _SHORT_LIST] for first in range(0, len(values), _SHORT_LIST))
        return ([_text(some)[1:-1]] for some in slices)
    return map(_texts, values)


def _object_texts(value: Any) -> Iterator[Iterable[str]]:
    return (chain([f'"{name}":'], _texts(item)) for name, item in members(value))


def _parts(texts: Iterable[str]) -> Iterator[bytes]:
    """Their bytes, in parts that are short but not too short."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= _PART_CHARS:
            yield "".join(held).encode("ascii")
            held, size = [], 0
    yield "".join(held).encode("ascii")


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def encode_error(request_id: str | None, error: BaseException) -> bytes:
    """The answer to a request that failed.

    Of an error that is not ours only the class is told: its text may hold anything.
    """
    if isinstance(error, SmartVpnError):
        return _line({"id": request_id, "success": False, "error": str(error), "code": error.code})
    text = f"internal error ({type(error).__name__})"
    return _line({"id": request_id, "success": False, "error": text, "code": SmartVpnError.code})


def encode_stream(request_id: str, result: object, items: int = STREAM_ITEMS) -> Iterator[bytes]:
    """The answer in lines: chunks with the items of the result's list, then the rest.

    A chunk's `data` has the shape of the result, with that list only; the final answer has the
    list empty. A result without a list is one line. Each chunk is made when it is asked for.
    """
    name = next((name for name, value in _members(result) if isinstance(value, tuple)), None)
    if name is None:
        yield encode_result(request_id, result)
        return
    head = json.dumps({"id": request_id, "stream": True})[:-1] + f',"data":{{"{camel_case(name)}":['
    for chunk in _chunks(getattr(result, name), items):
        yield f"{head}{','.join(chunk)}]}}}}\n".encode("ascii")
    rest = {camel_case(other): to_json(value) for other, value in _members(result) if value is not None}
    yield _line({"id": request_id, "success": True, "result": {**rest, camel_case(name): []}})


def _members(value: Any) -> Iterable[tuple[str, Any]]:
    names = fields_dict(type(value)) if has(type(value)) else ()
    return [(name, getattr(value, name)) for name in names]


def _chunks(values: Iterable[object], items: int) -> Iterator[list[str]]:
    """JSON texts, together as many and as long as one line should carry."""
    chunk: list[str] = []
    size = 0
    for value in values:
        chunk.append("".join(_texts(value)))
        size += len(chunk[-1])
        if len(chunk) == items or size >= STREAM_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def encode_event(event: Event) -> bytes:
    """An event, for every connection."""
    return _line({"event": event.name, "data": to_json(event.data)})


def _line(message: dict[str, Any]) -> bytes:
    return _text(message).encode("ascii") + b"\n"


# the bridge's side


@frozen
class Answer:
    """The final answer: parsed JSON for the command's `read_result`, chunks already merged."""

    id: str
    result: Any = field(repr=False)


@frozen
class Failure:
    """The request failed; `id` is None for a line the daemon could not read."""

    id: str | None
    error: SmartVpnError


Message: TypeAlias = Answer | Failure | Event


class AnswerReader:
    """Bytes from the daemon → answers, failures and events."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._lines = LineSplitter(limit)
        self._limit = limit
        self._chunks: dict[str, list[dict[str, Any]]] = {}

    def feed(self, data: bytes) -> list[Message]:
        """What `data` completes. Raises BadRequestError when the other end does not speak the protocol."""
        messages = (self._read(line) for line in self._lines.feed(data))
        return [message for message in messages if message is not None]

    def _read(self, line: Line) -> Message | None:
        message = _parse_object(line, self._limit)
        if "event" in message:
            return _event(message)
        if message.get("stream") is True:
            self._keep_chunk(message)
            return None
        if message.get("success") is True:
            return self._answer(message)
        return self._failure(message)

    def _keep_chunk(self, message: dict[str, Any]) -> None:
        data = message.get("data")
        if not isinstance(data, dict):
            raise BadRequestError(f"data: expected an object, got {type_name(data)}")
        self._chunks.setdefault(_request_id(message), []).append(data)

    def _answer(self, message: dict[str, Any]) -> Answer:
        request_id = _request_id(message)
        chunks = self._chunks.pop(request_id, [])
        return Answer(request_id, _merged(message.get("result"), chunks))

    def _failure(self, message: dict[str, Any]) -> Failure:
        request_id = None if message.get("id") is None else _request_id(message)
        if request_id is not None:
            self._chunks.pop(request_id, None)
        return Failure(request_id, error_from_code(str(message.get("code")), str(message.get("error"))))


def _merged(result: Any, chunks: list[dict[str, Any]]) -> Any:
    if not chunks:
        return result
    merged = dict(result) if isinstance(result, dict) else {}
    for name in chunks[0]:
        merged[name] = [item for chunk in chunks for item in chunk.get(name, [])]
    return merged


def _event(message: dict[str, Any]) -> Event:
    kind = EVENTS.get(str(message["event"]))
    if kind is None:
        raise BadRequestError(f"there is no event '{_printable(str(message['event']))}'")
    return kind.of(from_json(message.get("data", {}), kind.data_type(), join_path(kind.name, "data")))


def encode_request(request_id: str, command: Command, params: object, *, stream: bool = False) -> bytes:
    """A request. `params` is an object of `command.params`."""
    written = command.write_params(params)
    if stream:
        written = {**written, "stream": True}
    return _line({"id": request_id, "method": command.method, "params": written})
