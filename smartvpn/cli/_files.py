"""Files that hold secrets: mode 0600 from their first moment, whole or not there."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smartvpn._files import sync_directory
from smartvpn.cli._errors import ExitCode, Failure

_ROOM = 64 * 1024


def file_name(client_id: str) -> str:
    """The client's name as one of files: a path in it leads nowhere."""
    safe = "".join(letter if letter.isalnum() or letter in "-_.@+" else "_" for letter in client_id)
    return safe.lstrip(".")[:100] or "client"


def refuse_config(path: Path, *, force: bool) -> None:
    """Raise Failure where a config is there already, which holds keys."""
    if force:
        refuse_unwritable([path])
    else:
        refuse_existing([path], "use it, or --force to replace it and lose its keys")


def refuse_existing(paths: list[Path], fix: str = "use --force to replace it") -> None:
    """Raise Failure where one of them is there, or where its folder cannot be written."""
    for path in paths:
        if path.exists() or path.is_symlink():
            raise Failure(f"{path} exists", fix, ExitCode.CONFLICT)
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
    """All of the files or none. Raises Failure for one that exists or has no room, OSError."""
    size = max(len(text.encode()) for text in texts.values())
    with room_for(texts, size=size) as room:
        room.write(texts, replace=replace)


class Room:
    """Files of the moment beside where texts belong, their blocks taken: a full disk is known beforehand."""

    def __init__(self, temporaries: dict[Path, Path]) -> None:
        self._temporaries = temporaries

    def write(self, texts: Mapping[Path, str], *, replace: bool = False) -> None:
        """All of the files or none. Raises Failure for one that exists, OSError."""
        for path, text in texts.items():
            _fill(self._temporaries[path], text)
        placed: list[Path] = []
        try:
            for path in texts:
                if replace:
                    self._temporaries[path].replace(path)
                else:
                    _place(self._temporaries[path], path)
                    placed.append(path)
        except BaseException:
            for path in placed:
                path.unlink()
            raise
        for folder in {path.parent for path in texts}:
            sync_directory(folder)


@contextmanager
def room_for(paths: Iterable[Path], *, size: int = _ROOM) -> Iterator[Room]:
    """Room for files of up to `size` bytes each; what is not used is given back. Raises Failure."""
    temporaries: dict[Path, Path] = {}
    try:
        for path in paths:
            with _told(path):
                handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
                temporaries[path] = Path(name)
                with os.fdopen(handle, "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
        yield Room(temporaries)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        cause = f"{path} cannot be written: {error.strerror}"
        raise Failure(cause, "make room there, or choose another folder; nothing was changed") from None


def rescue(texts: Mapping[Path, str]) -> list[Path]:
    """Files of the same names where there is room: at home, or in a temporary folder. Empty: nowhere."""
    for base in (Path.home, tempfile.gettempdir, lambda: "/dev/shm"):
        folder: Path | None = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="smartvpn-", dir=base()))  # mode 0700
            saved = {folder / path.name: text for path, text in texts.items()}
            write_all(saved)
        except (OSError, RuntimeError, Failure):  # RuntimeError: a user without a home
            if folder is not None:
                folder.rmdir()
            continue
        return list(saved)
    return []


def _fill(temporary: Path, text: str) -> None:
    """Written over the blocks that it has; the rest of them is given back."""
    with temporary.open("r+b") as file:
        file.write(text.encode())
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _place(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise Failure(f"{path} exists", "use --force to replace it", ExitCode.CONFLICT) from None
