"""Which transport worked at which hub, kept between runs: a network without UDP then costs no wait."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from smartvpn._files import write_private

_log = logging.getLogger(__name__)

_MOST = 64


class KnownTransports:
    """A small file of hub → transport, the newest last. What cannot be read or written is only forgotten."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, hub: str) -> str | None:
        """What carried the tunnel to the hub the last time."""
        return self._read().get(hub)

    def put(self, hub: str, transport: str) -> None:
        """Remember it. Blocks for a moment."""
        known = self._read()
        if known.get(hub) == transport:
            return
        known.pop(hub, None)
        known[hub] = transport
        kept = dict(list(known.items())[-_MOST:])
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self._path, json.dumps(kept).encode())
        except OSError as error:
            _log.debug("%s cannot be written: %s", self._path, error.strerror)

    def _read(self) -> dict[str, str]:
        try:
            known: Any = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {hub: text for hub, text in known.items() if isinstance(text, str)}
