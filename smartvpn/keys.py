"""X25519 keys and other 32-byte secrets as values that never print what must stay secret.

Noise and WireGuard use the same keys (RFC 7748); both are written in base64 of 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import NoReturn

from nacl.bindings import crypto_scalarmult_base
from nacl.utils import random as random_bytes

from smartvpn.errors import InvalidKeyError

KEY_BYTES = 32
# u of the points whose order divides 8, on the curve and its twist (RFC 7748 section 4.1).
_FIELD = 2**255 - 19
_LOW_ORDER = {
    0,
    1,
    _FIELD - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
}
_NOT_A_KEY = "is not a key: expected base64 of 32 bytes (44 characters)"


# Stands in for a public key where there is none: nobody knows its private half.
NOBODYS_KEY = base64.b64encode(hashlib.sha256(b"nobody's key").digest()).decode("ascii")


def decode_key(text: str) -> bytes:
    """The 32 bytes of a base64 key.

    Only the canonical form is taken, as `wg` prints it, so that equal keys are equal text.
    Raises InvalidKeyError, which does not repeat the text.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise InvalidKeyError(_NOT_A_KEY) from None
    if len(raw) != KEY_BYTES or encode_key(raw) != text:
        raise InvalidKeyError(_NOT_A_KEY)
    return raw


def decode_public_key(text: str) -> bytes:
    """The 32 bytes of an X25519 public key in base64.

    Raises InvalidKeyError too for a point of low order, all zeros among them: no secret can be agreed with
    it (RFC 7748 section 6.1), so no peer that has it would ever answer.
    """
    raw = decode_key(text)
    if int.from_bytes(raw, "little") % 2**255 % _FIELD in _LOW_ORDER:
        raise InvalidKeyError("is no public key: a point of low order, such as all zeros")
    return raw


def encode_key(raw: bytes) -> str:
    """Base64 of `raw`."""
    return base64.b64encode(raw).decode("ascii")


class _Key:
    """32 bytes, immutable, compared in constant time."""

    __slots__ = ("_raw",)
    _raw: bytes

    def __init__(self, value: str | bytes) -> None:
        raw = decode_key(value) if isinstance(value, str) else bytes(value)
        if len(raw) != KEY_BYTES:
            raise InvalidKeyError(f"is not a key: expected {KEY_BYTES} bytes, got {len(raw)}")
        object.__setattr__(self, "_raw", raw)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("keys are immutable")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return hmac.compare_digest(self._raw, other._raw)

    def __reduce__(self) -> tuple[type[_Key], tuple[bytes]]:
        return type(self), (self._raw,)

    @property
    def raw(self) -> bytes:
        """The 32 bytes."""
        return self._raw

    @property
    def base64(self) -> str:
        """The text form, as configs carry it."""
        return encode_key(self._raw)


class PublicKey(_Key):
    """An X25519 public key; `str()` is its base64 form."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash(self._raw)

    def __str__(self) -> str:
        return self.base64

    def __repr__(self) -> str:
        return f"PublicKey('{self.base64}')"


class _Secret(_Key):
    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # a hash in a dict would outlive and leak

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"

    __str__ = __repr__


class PrivateKey(_Secret):
    """An X25519 private key; read it with `.raw` or `.base64`, it never prints itself."""

    __slots__ = ()

    @classmethod
    def generate(cls) -> PrivateKey:
        """A fresh key, clamped as RFC 7748 section 5 says, so that every tool shows it alike."""
        raw = bytearray(random_bytes(KEY_BYTES))
        raw[0] &= 248
        raw[31] = (raw[31] & 127) | 64
        return cls(bytes(raw))

    @property
    def public_key(self) -> PublicKey:
        """The public key that belongs to it."""
        return PublicKey(crypto_scalarmult_base(self._raw))


class PresharedKey(_Secret):
    """A WireGuard preshared key; read it with `.raw` or `.base64`, it never prints itself."""

    __slots__ = ()

    @classmethod
    def generate(cls) -> PresharedKey:
        """A fresh random key."""
        return cls(random_bytes(KEY_BYTES))
