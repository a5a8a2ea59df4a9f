"""Questions to name servers, and what is taken for an answer."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from smartvpn import _names
from smartvpn._names import AAAA, A
from smartvpn.network import _dns

NAME = "hub.example"
QUESTION_A = b"\x03hub\x07example\x00\x00\x01\x00\x01"
POINTER = b"\xc0\x0c"


def message(
    *records: bytes, number: int = 7, flags: int = 0x8180, question: bytes = QUESTION_A, questions: int = 1
) -> bytes:
    """An answer with these records."""
    return struct.pack("!HHHHHH", number, flags, questions, len(records), 0, 0) + question + b"".join(records)


def record(data: bytes, kind: int = A, name: bytes = POINTER, family: int = 1) -> bytes:
    """A resource record."""
    return name + struct.pack("!HHIH", kind, family, 60, len(data)) + data


def test_a_question() -> None:
    """RFC 1035, sections 4.1.1 and 4.1.2: recursion is desired, one question of class IN."""
    header = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    assert _names.query(7, NAME, A) == header + QUESTION_A
    assert _names.query(7, NAME + ".", AAAA)[-4:] == b"\x00\x1c\x00\x01"


def test_addresses_are_taken_from_an_answer() -> None:
    """Behind a chain of other names as well, and of the kind that was asked for."""
    alias = record(b"\x05other\x07example\x00", kind=5)
    other = record(bytes([192, 0, 2, 2]), name=b"\x05other\xc0\x10")
    stray = record(bytes(16), kind=AAAA)
    first = record(bytes([192, 0, 2, 1]))
    assert _names.answer(message(first), 7, NAME, A) == ["192.0.2.1"]
    assert _names.answer(message(alias, stray, other, first), 7, NAME, A) == ["192.0.2.2", "192.0.2.1"]
    six = message(record(bytes(15) + b"\x01", kind=AAAA), question=QUESTION_A[:-3] + b"\x1c\x00\x01")
    assert _names.answer(six, 7, NAME, AAAA) == ["::1"]


def test_no_address_is_an_answer() -> None:
    """The name is not there, or has none of that kind; the case of letters says nothing."""
    assert _names.answer(message(flags=0x8183), 7, NAME, A) == []
    assert _names.answer(message(), 7, "HUB.example", A) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        message(number=8),
        message(flags=0x0100),
        message(flags=0x8182),
        message(flags=0x8185),
        message(questions=0),
        message(question=b"\x03hub\x07exampel\x00\x00\x01\x00\x01"),
        message(question=QUESTION_A[:-3] + b"\x1c\x00\x01"),
        message(record(bytes(4)))[:-11],
        message(record(bytes(4), name=b"\x3f")),
    ],
    ids=["empty", "id", "question", "failure", "refused", "none", "name", "kind", "cut", "name past the end"],
)
def test_what_is_no_answer(data: bytes) -> None:
    """Another's answer, an error of the server's, or broken."""
    assert _names.answer(data, 7, NAME, A) is None


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_no_danger(data: bytes, begun_well: bool) -> None:
    """Whatever comes: nothing, or addresses."""
    got = _names.answer(message()[: 12 + len(QUESTION_A)] + data if begun_well else data, 7, NAME, A)
    assert got is None or all(address.count(".") == 3 for address in got)


RESOLVECTL = """\
Global: 192.0.2.1
Link 2 (eth0): 192.0.2.53 2001:db8::53#dns.example fe80::1 192.0.2.54
               fe80::2%2
Link 3 (sv0): 10.8.0.1
Link 4 (wlan (0)):
Link 5 (sv01): 10.9.0.1
"""


def test_what_resolved_lists() -> None:
    """Every link's servers but our own, link-local ones with the link they are on."""
    others = ["192.0.2.1", "192.0.2.53", "2001:db8::53", "fe80::1%2", "192.0.2.54", "fe80::2%2", "10.9.0.1"]
    assert _dns._resolved_servers(RESOLVECTL, "sv0") == others
    assert sorted(_dns._resolved_servers(RESOLVECTL)) == sorted([*others, "10.8.0.1"])
