"""Where the dashboard may listen, and by which names: what others can reach needs https."""

from __future__ import annotations

import re
from pathlib import Path

from smartvpn._address import is_loopback, parse_host, parse_listen
from smartvpn.errors import ConfigError

DASHBOARD_LISTEN = "127.0.0.1:8787"

_OPTION = re.compile(r"^(?:listen|publicHost)\b|\b(?:tlsCert|tlsKey|behindProxy)\b")


def dashboard_address(
    listen: str,
    *,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    behind_proxy: bool = False,
) -> tuple[str, int]:
    """Host and port of `listen`. Raises ConfigError where the four do not go together."""
    if (tls_cert is None) != (tls_key is None):
        alone, missing = ("tlsKey", "tlsCert") if tls_cert is None else ("tlsCert", "tlsKey")
        raise ConfigError(alone, f"needs {missing} beside it")
    try:
        host, port = parse_listen(listen)
    except ValueError as error:
        raise ConfigError("listen", str(error)) from None
    if tls_cert is None and not (behind_proxy or is_loopback(host)):
        reason = "is open to the network without https: give tlsCert and tlsKey, or behindProxy"
        raise ConfigError("listen", f"{listen} {reason}")
    return host, port


def dashboard_host(name: str) -> str:
    """A name that browsers call it by, without brackets. Raises ConfigError."""
    try:
        return parse_host(name)
    except ValueError as error:
        raise ConfigError("publicHost", str(error)) from None


def in_options(error: ConfigError) -> str:
    """The error's text in the words of a command line: `--tls-cert` for `tlsCert`."""
    return _OPTION.sub(lambda field: "--" + re.sub("[A-Z]", r"-\g<0>", field[0]).lower(), str(error))
