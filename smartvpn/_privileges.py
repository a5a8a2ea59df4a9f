"""What the daemon gives up once it has what only root can get: the place of its socket, the config, keys.

Kept is what carries a tunnel: CAP_NET_ADMIN (device, addresses, routes, nftables) and
CAP_NET_BIND_SERVICE (ports below 1024). Root without a user to become keeps its way with files too,
since its modules and registry may lie in another user's folders.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from attrs import frozen

from smartvpn._native import Capability, drop_privileges
from smartvpn.errors import ConfigError

_NEEDED = (Capability.NET_ADMIN, Capability.NET_BIND_SERVICE)


@frozen
class Account:
    """Who the daemon is to be."""

    user: int
    group: int

    @classmethod
    def named(cls, name: str) -> Account:
        """The user of that name.

        A dynamic user of systemd may have no entry where nss-systemd is missing; the state
        directory was given to it before we were started. Raises ConfigError.
        """
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return cls._owner_of_state(name)
        return cls(entry.pw_uid, entry.pw_gid)

    @classmethod
    def _owner_of_state(cls, name: str) -> Account:
        directory = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        try:
            owner = Path(directory).stat() if directory else None
        except OSError:
            owner = None
        if owner is None or owner.st_uid == 0:
            raise ConfigError("user", f"there is no user '{name}'")
        return cls(owner.st_uid, owner.st_gid)


def give_up(account: Account | None) -> None:
    """Keep only what is needed, as `account` where there is one. Before any thread is started.

    Raises PermissionDeniedError when this process may not become another user.
    """
    if account is None:
        drop_privileges(0, 0, [*_NEEDED, Capability.DAC_OVERRIDE])
    elif account.user in (0, os.geteuid()):
        drop_privileges(0, 0, _NEEDED)
    else:
        drop_privileges(account.user, account.group, _NEEDED)
