"""`smartvpn init`: a hub's config, complete."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from smartvpn._address import join_host_port, parse_public_host
from smartvpn._json import dump
from smartvpn.cli import _host
from smartvpn.cli._app import App, AppCommand, pass_app
from smartvpn.cli._errors import ExitCode, Failure
from smartvpn.cli._files import refuse_config, write_all
from smartvpn.cli._lifecycle import up_words
from smartvpn.cli._values import FILE
from smartvpn.config import DEFAULT_REGISTRY, ServerConfig, TransportMode
from smartvpn.configfile import SERVER_PATH
from smartvpn.errors import ConfigError
from smartvpn.keys import PrivateKey
from smartvpn.types import Keypair

_PORT, _TLS_PORT = 8080, 443


@click.command(cls=AppCommand)
@click.option("--endpoint", metavar="HOST[:PORT]", help="What clients connect to: a name or address.")
@click.option("--subnet", metavar="CIDR", help="The tunnel's network (the first free 10.x.0.0/24).")
@click.option("--subnet6", metavar="CIDR", help="The same for IPv6 (none).")
@click.option("--listen", metavar="HOST:PORT", help="Where to listen (0.0.0.0:8080; with TLS 443).")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in TransportMode]),
    default="all",
    help="The transports (all: WebSocket, QUIC, WireGuard).",
)
@click.option("--wg-port", type=click.IntRange(0, 65535), default=51820, help="WireGuard's port (51820).")
@click.option("--dns", multiple=True, help="Name servers for clients (this machine's).")
@click.option("--tls-cert", help="PEM file of a certificate; WebSocket is wss:// then.")
@click.option("--tls-key", help="PEM file of its key.")
@click.option("--nat/--no-nat", default=True, help="Let clients reach the internet through the hub.")
@click.option("--registry", default=DEFAULT_REGISTRY, help=f"The registry's file ({DEFAULT_REGISTRY}).")
@click.option(
    "--config",
    type=FILE,
    default=SERVER_PATH,
    help=f"The file to write ({SERVER_PATH}).",
)
@click.option("--force", is_flag=True, help="Replace a config that exists; its keys are lost.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@pass_app
def init(
    app: App,
    endpoint: str | None,
    subnet: str | None,
    subnet6: str | None,
    listen: str | None,
    mode: str,
    wg_port: int,
    dns: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    nat: bool,
    registry: str,
    config: Path,
    force: bool,
    yes: bool,
) -> None:
    """Make a hub's config: keys, subnet, endpoint. Asks only what this machine cannot tell."""
    made_folder = _folder(config)
    try:
        refuse_config(config, force=force)
        pair = Keypair.generate()
        hub = _checked(
            lambda: ServerConfig(
                listen_addr=listen or join_host_port("0.0.0.0", _TLS_PORT if tls_cert else _PORT),
                server_endpoint=endpoint or _endpoint(app, ask=not yes and not app.json),
                private_key=pair.private_key,
                public_key=pair.public_key,
                subnet=subnet or _host.free_subnet(),
                subnet6=subnet6,
                dns=dns or (_host.name_servers() if nat else ()),
                enable_nat=nat,
                transport_mode=TransportMode(mode),
                wg_listen_port=wg_port,
                wg_private_key=PrivateKey.generate().base64 if TransportMode(mode).wireguard else None,
                tls_cert=_existing("--tls-cert", tls_cert),
                tls_key=_existing("--tls-key", tls_key),
                registry=registry,
            )
        )
        write_all({config: dump(hub, indent=2) + "\n"}, replace=force)
    except BaseException:
        if made_folder is not None:
            made_folder.rmdir()
        raise
    app.say(
        f"wrote {config}: {hub.subnet} behind {hub.server_endpoint}; start it with `{up_words(config)}`",
        path=str(config),
        subnet=hub.subnet,
        serverEndpoint=hub.server_endpoint,
        publicKey=hub.public_key,
    )


def _folder(config: Path) -> Path | None:
    """Make /etc/smartvpn where the config is to lie there; what was made, for undoing."""
    if config.parent != SERVER_PATH.parent or config.parent.exists():
        return None
    config.parent.mkdir(mode=0o755)
    return config.parent


def _checked(make: Callable[[], ServerConfig]) -> ServerConfig:
    try:
        return make()
    except ConfigError as error:
        raise Failure(str(error), "see `smartvpn init --help`", ExitCode.USAGE) from None


def _existing(option: str, path: str | None) -> str | None:
    """The file's absolute path: the daemon's working directory is another."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise Failure(f"{option}: there is no file {path}", "check the path", ExitCode.NOT_FOUND)
    return str(Path(path).absolute())


def _endpoint(app: App, *, ask: bool) -> str:
    """This machine's address where the internet can reach it; else somebody has to say."""
    address = _host.outward_address()
    if address is not None and address.is_global:
        return str(address)
    if ask and sys.stdin.isatty():
        return _asked(str(address) if address else None)
    if address is None:
        raise Failure(
            "this machine has no route that would tell its address", "use --endpoint", ExitCode.USAGE
        )
    app.hint(f"{address} is a private address: clients elsewhere need --endpoint with a public one")
    return str(address)


def _asked(default: str | None) -> str:
    while True:
        answer: str = click.prompt("Name or address that clients reach this machine by", default, err=True)
        try:
            parse_public_host(answer)
        except ValueError as error:
            click.echo(str(error), err=True)
        else:
            return answer
