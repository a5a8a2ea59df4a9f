"""The one converter between the attrs classes and JSON.

Strict: no type is bent into another, an unknown field is an error. Every error is a ConfigError
that names the JSON path, such as `clients[2].security.ipAllowList[0]`, and repeats no value of the
wrong type, so no secret. Fields that were left out stay out: None and the empty list are omitted
where they are the default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum, StrEnum
from json import decoder, scanner
from types import GenericAlias, NoneType, UnionType
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin

import attrs
from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
)
from cattrs.gen import make_dict_structure_fn, override

from smartvpn import _fields as check
from smartvpn._fields import camel_case, join_path, type_name
from smartvpn.config import ClientConfig
from smartvpn.errors import ConfigError
from smartvpn.types import UNSET, Unset

JsonValue: TypeAlias = dict[str, "JsonValue"] | list["JsonValue"] | str | int | float | bool | None
T = TypeVar("T")

_SHORT_TEXT = 2048
_DECODER: Any = decoder  # their parts are not in the type stubs
_SCANNER: Any = scanner
Hook: TypeAlias = Callable[[Any, Any], Any]


def from_json(data: object, cls: type[T], path: str = "") -> T:
    """A `cls` out of parsed JSON. `path` is where `data` stands, for messages. Raises ConfigError."""
    try:
        return _CONVERTER.structure(data, cls)
    except Exception as error:
        fault = _fault(error, path)
    raise fault


def to_json(value: object) -> Any:
    """The JSON form of an attrs object, or of a list of them."""
    return _CONVERTER.unstructure(value)


def members(value: attrs.AttrsInstance) -> Iterator[tuple[str, Any]]:
    """What `to_json` would write of an object: names, and values that are not written yet."""
    for field in attrs.fields(type(value)):
        item = getattr(value, field.name)
        if not _left_out(item, field.default):
            yield camel_case(field.name), item


def parse(text: str | bytes | bytearray) -> Any:
    """Parsed JSON. Raises ValueError, also for NaN, numbers without end, and nesting without end."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def parse_long(text: str | bytes | bytearray) -> Any:
    """As `parse`, for a thread beside others. Raises ValueError as it does."""
    try:
        if not isinstance(text, str):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        return _InTurns().decode(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


class _InTurns(json.JSONDecoder):
    """Reads as any other. The C scanner lets no other thread run before it returns: it gets what is short."""

    def __init__(self) -> None:
        super().__init__(parse_constant=_refuse_constant)
        self._scan_short: Any = _SCANNER.make_scanner(self)
        self.parse_object = self._object_in_turns
        self.parse_array = self._array_in_turns
        self.scan_once = _SCANNER.py_make_scanner(self)

    def _object_in_turns(self, place: tuple[str, int], *how: Any) -> Any:
        return self._short(*place) or _DECODER.JSONObject(place, *how)

    def _array_in_turns(self, place: tuple[str, int], *how: Any) -> Any:
        return self._short(*place) or _DECODER.JSONArray(place, *how)

    def _short(self, text: str, inside: int) -> tuple[Any, int] | None:
        """The object or list that begins before `inside`, and its end, where that is near and all is well."""
        begin = inside - 1
        try:
            value, length = self._scan_short(text[begin : begin + _SHORT_TEXT], 0)
        except (StopIteration, ValueError, RecursionError):
            return None
        return value, begin + length


def dump(value: object, indent: int | None = None) -> str:
    """JSON text of an attrs object, ASCII only."""
    separators = (",", ":") if indent is None else None
    return json.dumps(to_json(value), indent=indent, separators=separators, allow_nan=False)


def dump_pieces(value: object) -> Iterator[str]:
    """What `dump` writes, in pieces: all of it at once would let no other thread run."""
    return json.JSONEncoder(separators=(",", ":"), allow_nan=False).iterencode(to_json(value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# faults


def _fault(error: BaseException, path: str) -> ConfigError:
    if isinstance(error, ForbiddenExtraKeysError):
        return ConfigError(join_path(path, _shown_name(min(error.extra_fields))), "unknown field")
    if isinstance(error, ClassValidationError | IterableValidationError):
        return _first_fault(error, path)
    if isinstance(error, ConfigError):
        return ConfigError(join_path(path, error.field), error.reason)
    if isinstance(error, KeyError):
        return ConfigError(path, "is missing")
    if isinstance(error, ValueError):
        return ConfigError(path, str(error))
    raise error


def _first_fault(group: ClassValidationError | IterableValidationError, path: str) -> ConfigError:
    located, others = group.group_exceptions()
    unknown = [error for error in others if isinstance(error, ForbiddenExtraKeysError)]
    if unknown:
        return _fault(unknown[0], path)
    if located:
        error, note = located[0]
        step = camel_case(note.name) if isinstance(note, AttributeValidationNote) else f"[{note.index}]"
        return _fault(error, join_path(path, step))
    return _fault(others[0], path)


def _shown_name(name: object) -> str:
    text = "".join(char if char.isprintable() else "?" for char in str(name))
    return text if len(text) <= 64 else text[:61] + "..."


# hooks for values


def _checked(validate: Callable[[object], object]) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        validate(value)
        return value

    return structure


def _float(value: Any, _: Any) -> float:
    check.number(value)
    try:
        return float(value)
    except OverflowError:
        raise ValueError("is out of range") from None


def _none(value: Any, _: Any) -> None:
    if value is not None:
        raise ValueError(f"expected null, got {type_name(value)}")


def _datetime(value: Any, _: Any) -> datetime:
    check.text(value)
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a time such as 2030-01-31T12:00:00Z") from None


def _datetime_text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _enum(value: Any, kind: type[StrEnum]) -> StrEnum:
    check.text(value)
    if value not in [member.value for member in kind]:
        raise ValueError(f"is not one of {', '.join(kind)}")
    return kind(value)


# hooks for unions and containers


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _union_hook(kind: Any, converter: Converter) -> Hook:
    """`T | None`, `T | None | Unset`, `T | Unset`: null where None is allowed, else T."""
    members = set(get_args(kind))
    inner = [member for member in get_args(kind) if member not in (NoneType, Unset)]
    if len(inner) != 1:
        raise TypeError(f"no rule for {kind}")

    def structure(value: Any, _: Any) -> Any:
        if value is None and NoneType in members:
            return None
        return converter.structure(value, inner[0])

    return structure


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _tuple_hook(kind: Any, converter: Converter) -> Hook:
    items: Any = GenericAlias(list, get_args(kind)[:1])
    structure_list = converter.get_structure_hook(items)

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list, got {type_name(value)}")
        return tuple(structure_list(value, items))

    return structure


def _object_hook(cls: type, converter: Converter) -> Hook:
    attrs.resolve_types(cls)
    names: dict[str, Any] = {
        field.name: override(rename=camel_case(field.name)) for field in attrs.fields(cls)
    }
    structure_fields: Hook = make_dict_structure_fn(cls, converter, **names)

    def structure(value: Any, kind: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"expected an object, got {type_name(value)}")
        return structure_fields(value, kind)

    return structure


def _object_unhook(cls: type, converter: Converter) -> Callable[[Any], dict[str, Any]]:
    fields = [(field.name, camel_case(field.name), field.default) for field in attrs.fields(cls)]

    def unstructure(value: Any) -> dict[str, Any]:
        result = {}
        for name, json_name, default in fields:
            item = getattr(value, name)
            if not _left_out(item, default):
                result[json_name] = converter.unstructure(item)
        return result

    return unstructure


def _left_out(item: object, default: object) -> bool:
    if item is UNSET:
        return True
    return (item is None or item == ()) and item == default


def _is_exported(kind: Any) -> bool:
    return bool(kind == ClientConfig | str)


def _exported(value: Any, _: Any) -> Any:
    return _CONVERTER.structure(value, str if isinstance(value, str) else ClientConfig)


def _list_of(items: tuple[Any, ...]) -> list[Any]:
    return [_CONVERTER.unstructure(item) for item in items]


def _make_converter() -> Converter:
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)
    for kind, validate in ((str, check.text), (bool, check.boolean), (int, check.integer(-(2**63)))):
        converter.register_structure_hook(kind, _checked(validate))
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook(NoneType, _none)
    converter.register_structure_hook(datetime, _datetime)
    converter.register_unstructure_hook(datetime, _datetime_text)
    converter.register_structure_hook_func(_is_enum, _enum)
    converter.register_unstructure_hook(StrEnum, lambda member: member.value)
    converter.register_structure_hook_factory(_is_union, _union_hook)
    converter.register_structure_hook_func(_is_exported, _exported)
    converter.register_structure_hook_factory(_is_tuple, _tuple_hook)
    converter.register_unstructure_hook(tuple, _list_of)
    converter.register_structure_hook_factory(attrs.has, _object_hook)
    converter.register_unstructure_hook_factory(attrs.has, _object_unhook)
    return converter


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


_CONVERTER = _make_converter()
