"""What the package exports."""

import ast
import inspect
from pathlib import Path

import smartvpn
from smartvpn import events, types


def test_all_is_what_is_imported() -> None:
    """`__all__` names exactly what `__init__` imports, each once, and all of it is there."""
    tree = ast.parse(Path(smartvpn.__file__).read_text(encoding="utf-8"))
    imported = [
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(imported) == sorted(smartvpn.__all__)
    assert all(hasattr(smartvpn, name) for name in smartvpn.__all__)


def test_all_is_sorted() -> None:
    """Constants, classes, the rest: each in order, as the linter sorts them."""

    def rank(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert smartvpn.__all__ == sorted(smartvpn.__all__, key=rank)


def test_what_is_public_is_explained() -> None:
    """Every exported class, and every method and property that users call, says what it does."""
    for name in smartvpn.__all__:
        value = getattr(smartvpn, name)
        if not inspect.isclass(value):
            continue
        assert inspect.getdoc(value), name
        for member, what in vars(value).items():
            if not member.startswith("_") and (inspect.isroutine(what) or isinstance(what, property)):
                assert inspect.getdoc(what), f"{name}.{member}"


def test_typed() -> None:
    """Type checkers are told that the package is typed."""
    assert (Path(smartvpn.__file__).parent / "py.typed").is_file()


def test_event_names_are_unique() -> None:
    """Each event class is found by its name on the wire."""
    classes = [
        value
        for value in vars(events).values()
        if isinstance(value, type) and issubclass(value, events.Event) and value is not events.Event
    ]
    assert sorted(events.EVENTS.values(), key=repr) == sorted(classes, key=repr)
    assert types.UNSET is types.Unset.UNSET
