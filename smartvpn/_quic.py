"""A hub's side of QUIC in Python: what it is known by, kept sealed, and what its clients are told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import ssl
from typing import Protocol

from smartvpn._address import join_host_port
from smartvpn._native import QuicIdentity, make_certificate, pem_text
from smartvpn.config import ServerConfig
from smartvpn.errors import ConfigError

_CERTIFICATE = "quic-certificate"
_KEY = "quic-key"
_SECRET = "quic-secret"
_SECRET_BYTES = 32
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class SecretStore(Protocol):
    """Where a hub keeps its secrets."""

    async def get_secret(self, name: str) -> bytes | None:
        """A secret, unsealed."""

    async def put_secret(self, name: str, value: bytes) -> None:
        """Keep a secret, sealed."""


async def quic_identity(config: ServerConfig, store: SecretStore) -> QuicIdentity:
    """The config's certificate and key, else self-signed ones that are made once and kept; and the secret."""
    secret = await store.get_secret(_SECRET)
    if secret is None:
        secret = secrets.token_bytes(_SECRET_BYTES)
        await store.put_secret(_SECRET, secret)
    if config.tls_cert is not None and config.tls_key is not None:
        certificate, key = pem_text("tlsCert", config.tls_cert), pem_text("tlsKey", config.tls_key)
        return QuicIdentity(certificate=certificate, key=key, secret=secret)
    kept, kept_key = await store.get_secret(_CERTIFICATE), await store.get_secret(_KEY)
    if kept is not None and kept_key is not None:
        return QuicIdentity(certificate=kept.decode(), key=kept_key.decode(), secret=secret)
    certificate, key = await asyncio.to_thread(make_certificate)
    await store.put_secret(_KEY, key.encode())
    await store.put_secret(_CERTIFICATE, certificate.encode())
    return QuicIdentity(certificate=certificate, key=key, secret=secret)


def certificate_hash(pem: str) -> str:
    """SHA-256 of the first certificate's DER, base64. Raises ConfigError where there is none."""
    _, begin, rest = pem.partition(_BEGIN)
    text, end, _ = rest.partition(_END)
    try:
        der = ssl.PEM_cert_to_DER_cert(begin + text + end)
    except ValueError:
        raise ConfigError("tlsCert", "holds no certificate in PEM") from None
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def public_quic_endpoint(
    config: ServerConfig, public: tuple[str, int | None], websocket_port: int, quic_port: int
) -> str:
    """`host:port` by which clients reach QUIC.

    A public port that the config names stands for the listener's, QUIC's as well where both have one number.
    """
    host, port = public
    listen = config.quic_listen_endpoint()
    if config.server_endpoint is None and listen is not None and listen[0] not in ("0.0.0.0", "::"):
        host = listen[0]
    same = not websocket_port or websocket_port == quic_port
    return join_host_port(host, port if port is not None and same else quic_port)
