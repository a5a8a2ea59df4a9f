"""Building blocks of the attrs classes: JSON names, converters and validators.

A check is a function that raises ValueError with a reason; `valid`, `optional` and `each` turn
it into an attrs validator that raises ConfigError with the JSON path of the field.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, TypeAlias, TypeVar, cast

import attrs

from smartvpn._address import (
    parse_address,
    parse_endpoint,
    parse_interface,
    parse_listen,
    parse_network,
    parse_pattern,
    parse_public_host,
    parse_server_url,
)
from smartvpn.errors import ConfigError
from smartvpn.keys import decode_key, decode_public_key

Check: TypeAlias = Callable[[Any], object]
Validator: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]

E = TypeVar("E", bound=StrEnum)

UINT16_MAX = 2**16 - 1
UINT32_MAX = 2**32 - 1
INT64_MAX = 2**63 - 1

MAX_CLIENT_ID_BYTES = 128
MAX_DESCRIPTION = 4096
MAX_TAGS = 64
MAX_PATTERNS = 100_000


@cache
def camel_case(name: str) -> str:
    """The JSON name of a Python field: `assigned_ip6` is `assignedIp6`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def join_path(parent: str, child: str) -> str:
    """The JSON path of `child` inside `parent`; either may be empty."""
    if not parent or not child or child.startswith("["):
        return parent + child
    return f"{parent}.{child}"


def type_name(value: object) -> str:
    """What JSON calls the type of `value`; says nothing of the value itself."""
    names: dict[type, str] = {bool: "a boolean", str: "a string", dict: "an object", list: "a list"}
    if value is None:
        return "null"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number"
    return names.get(type(value), type(value).__name__)


# validators


def _run(check: Check, path: str, value: object) -> None:
    try:
        check(value)
    except ConfigError as error:
        raise ConfigError(join_path(path, error.field), error.reason) from None
    except ValueError as error:
        raise ConfigError(path, str(error)) from None


def valid(check: Check) -> Validator:
    """The field passes `check`."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        _run(check, camel_case(attribute.name), value)

    return validate


def optional(check: Check) -> Validator:
    """The field is None or passes `check`."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None:
            _run(check, camel_case(attribute.name), value)

    return validate


def each(check: Check, most: int | None = None) -> Validator:
    """The field is None or a tuple, of `most` items where that is given, whose every item passes `check`."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        name = camel_case(attribute.name)
        if value is None:
            return
        if not isinstance(value, tuple):
            raise ConfigError(name, f"expected a list, got {type_name(value)}")
        if most is not None and len(value) > most:
            raise ConfigError(name, f"has {len(value)} items, more than {most}")
        for index, item in enumerate(value):
            _run(check, f"{name}[{index}]", item)

    return validate


# converters: what they cannot convert they pass on, for the validator to name


def strings(values: Iterable[str]) -> tuple[str, ...]:
    """A tuple of texts."""
    converted: tuple[str, ...] = items(values)
    return converted


def optional_strings(values: Iterable[str] | None) -> tuple[str, ...] | None:
    """As `strings`, or None."""
    return None if values is None else strings(values)


def items(values: Any) -> Any:
    """A tuple of any iterable but text and objects."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        return values
    return tuple(values)


def canonical_address(value: str | None) -> str | None:
    """The shortest form of an address, so that equal addresses are equal text."""
    try:
        return None if value is None else str(ipaddress.ip_address(value))
    except ValueError:
        return value


def utc(value: datetime | None) -> datetime | None:
    """The same moment in UTC; a time without zone is UTC already."""
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        return value


def choice(kind: type[E], value: str) -> E:
    """The member of `kind` that `value` names."""
    try:
        return kind(value)
    except ValueError:
        return cast(E, value)


# checks


def instance(kind: type) -> Check:
    """A value of class `kind`."""

    def check(value: object) -> None:
        if not isinstance(value, kind):
            raise ValueError(f"expected {kind.__name__}, got {type_name(value)}")

    return check


def member(kind: type[StrEnum]) -> Check:
    """A member of `kind`."""

    def check(value: object) -> None:
        if not isinstance(value, kind):
            raise ValueError(f"is not one of {', '.join(kind)}")

    return check


def integer(lowest: int, highest: int = INT64_MAX) -> Check:
    """An integer in the inclusive range."""

    def check(value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"expected an integer, got {type_name(value)}")
        if not lowest <= value <= highest:
            raise ValueError(f"{_short(value)} is not between {lowest} and {highest}")

    return check


def _short(value: int) -> str:
    return str(value) if value.bit_length() <= 128 else "the number"


def number(value: object) -> None:
    """A finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"expected a number, got {type_name(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is not finite")


def boolean(value: object) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {type_name(value)}")


def text(value: object) -> None:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {type_name(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None


def filled(value: object) -> None:
    """A string that is not empty."""
    text(value)
    if value == "":
        raise ValueError("is empty")


def name(value: object) -> None:
    """An identifier people choose: 1 to 255 printable characters."""
    text(value)
    if not isinstance(value, str) or not 1 <= len(value) <= 255 or not value.isprintable():
        raise ValueError("expected 1 to 255 printable characters")


def client_id(value: object) -> None:
    """An identifier that the engine has room for: 1 to 128 bytes of printable characters."""
    text(value)
    if not 1 <= len(str(value).encode()) <= MAX_CLIENT_ID_BYTES or not str(value).isprintable():
        raise ValueError(f"expected 1 to {MAX_CLIENT_ID_BYTES} bytes of printable characters")


def description(value: object) -> None:
    """A text for people."""
    text(value)
    if len(str(value)) > MAX_DESCRIPTION:
        raise ValueError(f"has {len(str(value))} characters, more than {MAX_DESCRIPTION}")


def moment(value: object) -> None:
    """A point in time."""
    if not isinstance(value, datetime):
        raise ValueError(f"expected a time, got {type_name(value)}")
    if value.utcoffset() is None or value.tzinfo is not UTC:
        raise ValueError("is out of range")


def _of_text(parse: Callable[[str], object]) -> Check:
    def check(value: object) -> None:
        text(value)
        parse(str(value))

    return check


def _cert_hash(value: str) -> None:
    try:
        decode_key(value)
    except ValueError:
        raise ValueError("is not a certificate hash: expected base64 of 32 bytes (SHA-256)") from None


def _ipv4(value: str) -> None:
    if parse_address(value).version != 4:
        raise ValueError("expected an IPv4 address")


def _ipv6(value: str) -> None:
    if parse_address(value).version != 6:
        raise ValueError("expected an IPv6 address")


def _exact_network(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    network = parse_network(value)
    if str(network[0]) != str(parse_address(value.partition("/")[0])):
        raise ValueError(f"has host bits set: the network is {network}")
    return network


def _subnet(value: str) -> None:
    network = _exact_network(value)
    if network.version != 4 or network.prefixlen > 30:
        raise ValueError("expected an IPv4 network with room for the hub and a client (prefix up to 30)")
    _usable(network)


def _subnet6(value: str) -> None:
    network = _exact_network(value)
    if network.version != 6 or network.prefixlen > 126:
        raise ValueError("expected an IPv6 network with room for the hub and a client (prefix up to 126)")
    _usable(network)


def _usable(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    first = network[0]
    if first.is_loopback or first.is_link_local or first.is_multicast:
        raise ValueError("is loopback, link-local or multicast, which no client may reach")


key = _of_text(decode_key)
public_key = _of_text(decode_public_key)
cert_hash = _of_text(_cert_hash)
address = _of_text(parse_address)
ipv4 = _of_text(_ipv4)
ipv6 = _of_text(_ipv6)
network = _of_text(parse_network)
interface = _of_text(parse_interface)
pattern = _of_text(parse_pattern)
endpoint = _of_text(parse_endpoint)
listen = _of_text(parse_listen)
public_host = _of_text(parse_public_host)
server_url = _of_text(parse_server_url)
subnet = _of_text(_subnet)
subnet6 = _of_text(_subnet6)


def address_or_network(value: object) -> None:
    """An address or a CIDR."""
    text(value)
    parse_network(str(value)) if "/" in str(value) else parse_address(str(value))
