"""Errors keep their meaning across the JSON protocol."""

import pickle

import pytest

from smartvpn import errors
from smartvpn.errors import ConfigError, ErrorCode, NativeError, SmartVpnError, error_from_code

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SmartVpnError)
]


@pytest.mark.parametrize("code", list(ErrorCode))
def test_code_round_trip(code: ErrorCode) -> None:
    """Every code comes back as an exception that carries the same code and text."""
    error = error_from_code(code, "what happened")
    assert (error.code, str(error)) == (code, "what happened")


def test_every_class_is_in_the_drawn_tree() -> None:
    """The tree at the module's top shows each class with its code."""
    text = errors.__doc__ or ""
    rows = [line.lstrip("│├└─ ").split() for line in text.splitlines()]
    drawn = {row[0]: row[1] for row in rows if row and row[0].endswith("Error")}
    assert drawn == {cls.__name__: cls.code.value for cls in CLASSES}


def test_unknown_code_keeps_its_text() -> None:
    """A code of a later version is not lost."""
    error = error_from_code("FROM_THE_FUTURE", "odd")
    assert (type(error), str(error)) == (SmartVpnError, "odd (FROM_THE_FUTURE)")


@pytest.mark.parametrize(
    ("message", "field", "reason"),
    [
        ("clients[2].tags[0]: is empty", "clients[2].tags[0]", "is empty"),
        ("the file is not JSON: oops", "", "the file is not JSON: oops"),
        ("no colon", "", "no colon"),
    ],
)
def test_config_error_from_message(message: str, field: str, reason: str) -> None:
    """The field is found again in the text of an error answer."""
    error = ConfigError.from_message(message)
    assert (error.field, error.reason, str(error)) == (field, reason, message)


@pytest.mark.parametrize("error", [ConfigError("mtu", "is odd"), NativeError(-6, "authentication failed")])
def test_pickle(error: SmartVpnError) -> None:
    """Errors with arguments of their own cross process borders."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
