"""What a client is given: its configs, and the secrets that are shown once."""

from __future__ import annotations

import socket

from smartvpn._address import join_host_port
from smartvpn._native import NativeServer, QuicIdentity, pem_text
from smartvpn._quic import certificate_hash, public_quic_endpoint
from smartvpn.config import ClientConfig, ClientEntry, ServerConfig, Transport
from smartvpn.errors import ConfigError
from smartvpn.keys import PrivateKey
from smartvpn.types import BundleSecrets, ConfigBundle
from smartvpn.wgconfig import WgConfigGenerator

_WG_KEEPALIVE = 25


class Bundles:
    """Writes configs for the clients of one started hub."""

    def __init__(
        self,
        config: ServerConfig,
        engine: NativeServer,
        public: tuple[str, int | None],
        wg_key: PrivateKey,
        quic: QuicIdentity | None,
    ) -> None:
        host, port = public
        self._config = config
        self._public_host = join_host_port(host, port or engine.port)
        self._wg_endpoint = join_host_port(host, engine.wg_port or config.wg_listen_port)
        self.wg_public_key = wg_key.public_key.base64
        self._cert_hash = _cert_hash(config)
        self.quic_cert_hash: str | None = None
        self._quic_endpoint: str | None = None
        if quic is not None:
            self.quic_cert_hash = certificate_hash(quic.certificate)
            self._quic_endpoint = public_quic_endpoint(config, public, engine.port, engine.quic_port)

    def bundle(
        self, entry: ClientEntry, noise_private_key: str | None, wg_private_key: str | None
    ) -> ConfigBundle:
        """Everything a client needs; None for a private key that the hub never saw."""
        return ConfigBundle(
            entry=entry,
            smartvpn_config=self.client_config(entry, noise_private_key, wg_private_key),
            wireguard_config=self.wireguard_config(entry, wg_private_key),
            secrets=BundleSecrets(noise_private_key=noise_private_key, wg_private_key=wg_private_key),
        )

    def client_config(
        self, entry: ClientEntry, private_key: str | None, wg_private_key: str | None = None
    ) -> ClientConfig:
        """The config that `connect` takes, with the keys that are given."""
        url, transport = self._native_address()
        if url is None:
            return self._wireguard_client_config(entry, wg_private_key)
        elsewhere = transport is Transport.AUTO and self._quic_endpoint not in (None, self._public_host)
        return ClientConfig(
            server_url=url,
            quic_server_url=self._quic_endpoint if elsewhere else None,
            server_public_key=self._config.public_key,
            client_private_key=private_key,
            client_public_key=entry.public_key,
            transport=transport,
            server_cert_hash=self.quic_cert_hash or self._cert_hash,
        )

    def _native_address(self) -> tuple[str | None, Transport]:
        """Where clients connect and by what; None where there is but WireGuard."""
        if not self._config.transport_mode.websocket:
            return self._quic_endpoint, Transport.QUIC
        url = f"{'wss' if self._cert_hash else 'ws'}://{self._public_host}/"
        return url, Transport.AUTO if self._cert_hash or self._quic_endpoint else Transport.WEBSOCKET

    def _wireguard_client_config(self, entry: ClientEntry, private_key: str | None) -> ClientConfig:
        config = self._config
        return ClientConfig(
            server_public_key=self.wg_public_key,
            transport=Transport.WIREGUARD,
            dns=config.dns or None,
            mtu=config.mtu,
            wg_private_key=private_key,
            wg_address=entry.assigned_ip,
            wg_address6=entry.assigned_ip6,
            wg_address_prefix=config.hub_address().network.prefixlen,
            wg_persistent_keepalive=_WG_KEEPALIVE,
            wg_endpoint=self._wg_endpoint,
            wg_allowed_ips=config.client_routes(),
        )

    def wireguard_config(self, entry: ClientEntry, private_key: str | None) -> str:
        """The text that `wg-quick` takes."""
        config = self._config
        prefix6 = config.hub_address6()
        addresses = [f"{entry.assigned_ip}/{config.hub_address().network.prefixlen}"]
        if entry.assigned_ip6 is not None and prefix6 is not None:
            addresses.append(f"{entry.assigned_ip6}/{prefix6.network.prefixlen}")
        return WgConfigGenerator.generate_client_config(
            private_key,
            addresses,
            config.dns or None,
            config.mtu,
            peer={
                "public_key": self.wg_public_key,
                "endpoint": self._wg_endpoint,
                "allowed_ips": config.client_routes(),
                "persistent_keepalive": _WG_KEEPALIVE,
            },
        )


def public_host(config: ServerConfig) -> tuple[str, int | None]:
    """The host that client configs name, and its port where that is not the listener's."""
    public = config.public_endpoint()
    return (_outward_address(), None) if public is None else public


def _outward_address() -> str:
    """The address this machine sends from; nothing is sent to find it (192.0.2.1 is for documentation)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            raise ConfigError(
                "serverEndpoint", "is required: this machine has no route from which to tell its address"
            ) from None
        return str(probe.getsockname()[0])


def _cert_hash(config: ServerConfig) -> str | None:
    """SHA-256 of the certificate's DER, base64; None without TLS."""
    if config.tls_cert is None:
        return None
    return certificate_hash(pem_text("tlsCert", config.tls_cert))
