"""What to type where the libraries of an extra are missing."""

from __future__ import annotations

import sys


def how_to_install(extra: str) -> str:
    """By the Python that lacks them, whatever pip the PATH has."""
    return f"{sys.executable} -m pip install 'smartvpn[{extra}]'"
