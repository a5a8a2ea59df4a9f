"""Files that hold secrets: mode 0600 from their first moment, whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smartvpn._files import sync_directory
from smartvpn.cli._errors import ExitCode, Failure


def file_name(client_id: str) -> str:
    """The client's name as one of files: a path in it leads nowhere."""
    safe = "".join(letter if letter.isalnum() or letter in "-_.@+" else "_" for letter in client_id)
    return safe.lstrip(".")[:100] or "client"


def refuse_existing(paths: list[Path]) -> None:
    """Raise Failure where one of them is there, or where its folder cannot be written."""
    for path in paths:
        if path.exists() or path.is_symlink():
            raise Failure(f"{path} exists", "use --force to replace it", ExitCode.CONFLICT)
    refuse_unwritable(paths)


def refuse_unwritable(paths: list[Path]) -> None:
    """Raise Failure where one of them is a folder, or its folder is missing or not ours to write."""
    for path in paths:
        if path.is_dir():
            raise Failure(f"{path} is a folder", "move it away, or choose another place", ExitCode.CONFLICT)
    for folder in {path.parent for path in paths}:
        if not folder.is_dir():
            raise Failure(f"{folder} is no folder", "create it, or choose another", ExitCode.NOT_FOUND)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise Failure(f"{folder} cannot be written", "choose another folder", ExitCode.PERMISSION)


def write_all(texts: Mapping[Path, str], *, replace: bool = False) -> None:
    """All of the files or none. Raises Failure for one that exists, OSError."""
    with _written(texts) as temporaries:
        placed: list[Path] = []
        try:
            for path, temporary in temporaries.items():
                if replace:
                    temporary.replace(path)
                else:
                    _place(temporary, path)
                    placed.append(path)
        except BaseException:
            for path in placed:
                path.unlink()
            raise
    for folder in {path.parent for path in texts}:
        sync_directory(folder)


def _place(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise Failure(f"{path} exists", "use --force to replace it", ExitCode.CONFLICT) from None


@contextmanager
def _written(texts: Mapping[Path, str]) -> Iterator[dict[Path, Path]]:
    """The texts under names of the moment, beside where they belong."""
    temporaries: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
            temporaries[path] = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        yield temporaries
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
