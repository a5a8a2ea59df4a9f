"""Secrets at rest: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) under a key file."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError
from nacl.utils import random as random_bytes

from smartvpn._files import sync_directory
from smartvpn.errors import RegistryError

_KEY_BYTES = 32
_NONCE_BYTES = 24


class SealingKey:
    """Seals and opens secrets as `nonce:24 ciphertext tag:16`, bound to their names."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @classmethod
    def in_memory(cls) -> SealingKey:
        """A key that ends with the process."""
        return cls(random_bytes(_KEY_BYTES))

    @classmethod
    def from_file(cls, path: Path, *, create: bool) -> SealingKey:
        """The key in a file of mode 0600; `create` makes the file when there is none.

        Raises RegistryError when it is missing, damaged or open to others, OSError when unreadable.
        """
        if create and not path.exists():
            _create_key_file(path)
        return cls(_read_key_file(path))

    def seal(self, name: str, secret: bytes) -> bytes:
        """`secret` sealed under the name."""
        nonce = random_bytes(_NONCE_BYTES)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(secret, name.encode(), nonce, self._raw)
        return nonce + sealed

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """The secret. Raises RegistryError when key, name or bytes are not those it was sealed with."""
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, name.encode(), nonce, self._raw)
        except (CryptoError, ValueError):
            raise RegistryError(f"the secret '{name}' does not open with the key file") from None


def _create_key_file(path: Path) -> None:
    """Written aside and linked, so that the name never shows half a key and the first writer wins."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{random_bytes(4).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(random_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        _link_first(temporary, path)
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def _link_first(source: Path, target: Path) -> None:
    with suppress(FileExistsError):
        os.link(source, target)


def _read_key_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(_KEY_BYTES + 1)
    except FileNotFoundError:
        raise RegistryError(f"the key file {path} is missing: the registry's secrets need it") from None
    if mode & 0o077:
        raise RegistryError(f"the key file {path} is open to others (mode {mode:04o}): make it 0600")
    if len(raw) != _KEY_BYTES:
        raise RegistryError(f"the key file {path} is damaged: expected {_KEY_BYTES} bytes")
    return raw
