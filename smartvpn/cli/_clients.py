"""`smartvpn client …`: the hub's registry."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import asdict, frozen
from rich.console import RenderableType

from smartvpn._fields import camel_case
from smartvpn._json import dump, to_json
from smartvpn.blocking import VpnServer
from smartvpn.cli._app import App, AppGroup, add_row, facts, listing, pass_app
from smartvpn.cli._errors import ExitCode, Failure, explain
from smartvpn.cli._files import (
    Room,
    file_name,
    refuse_existing,
    refuse_unwritable,
    rescue,
    room_for,
    write_all,
)
from smartvpn.cli._qr import qr_text
from smartvpn.cli._values import FILE, FOLDER, MOMENT, SIZE, bytes_text, rate_text, since_text, time_text
from smartvpn.config import ClientConfig, ClientEntry, RateLimit, TransportMode
from smartvpn.errors import AlreadyExistsError, ConfigError, ConflictError, NotFoundError
from smartvpn.types import (
    ClientInfo,
    ClientTelemetry,
    ClientUpdate,
    ConfigBundle,
    DropCounters,
    SecurityUpdate,
)

F = TypeVar("F", bound=Callable[..., Any])

_LISTS = {
    "allow_from": ("ip_allow_list", "May connect from there only (address, CIDR, 10.1.*, range)."),
    "block_from": ("ip_block_list", "May not connect from there."),
    "allow_to": ("destination_allow_list", "Its packets may go there only."),
    "block_to": ("destination_block_list", "Its packets may not go there."),
}
_RESETS = {
    "tags": "tags",
    "description": "description",
    "expires": "expires_at",
    "priority": "priority",
    "allow-from": "ip_allow_list",
    "block-from": "ip_block_list",
    "allow-to": "destination_allow_list",
    "block-to": "destination_block_list",
    "max-connections": "max_connections",
    "rate": "rate_limit",
}
_OPTIONS = {
    "clientId": "NAME",
    "tags": "--tag",
    "description": "--description",
    "expiresAt": "--expires",
    "priority": "--priority",
    "assignedIp": "--ip",
    "maxConnections": "--max-connections",
    "bytesPerSec": "--rate",
    "burstBytes": "--burst",
    "publicKey": "--public-key",
    "wgPublicKey": "--wg-public-key",
    **{camel_case(field): "--" + name.replace("_", "-") for name, (field, _) in _LISTS.items()},
}
_OF_SECURITY = {"max_connections", "rate_limit", *(field for field, _ in _LISTS.values())}


@click.group(cls=AppGroup, name="client")
def group() -> None:
    """Make and manage the hub's clients."""


# options that several commands share


def _entry_options(command: F) -> F:
    """What an entry of the registry can be given."""
    options = [
        click.option("--tag", "tags", multiple=True, help="A tag; may be given again."),
        click.option("--description", help="A text for people."),
        click.option("--expires", type=MOMENT, help="When it ends: 30d, 12h, 2030-01-31T12:00:00Z."),
        click.option("--priority", type=int, help="Lower means a greater share (100)."),
        click.option("--ip", "assigned_ip", help="Its address in the tunnel."),
        click.option("--max-connections", type=int, help="Sessions at a time (1)."),
        click.option("--rate", type=SIZE, help="Limit in each direction: 10mbit, or bytes a second."),
        click.option("--burst", type=SIZE, help="Bytes at once (a tenth of a second)."),
        *(
            click.option("--" + name.replace("_", "-"), name, multiple=True, help=words)
            for name, (_, words) in _LISTS.items()
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _file_options(command: F) -> F:
    """Where configs go, and how."""
    options = [
        click.option(
            "--out",
            type=FOLDER,
            default=Path(),
            show_default="here",
            help="The folder for the config files.",
        ),
        click.option("--force", is_flag=True, help="Replace files that exist."),
        click.option("--qr", is_flag=True, help="Show the WireGuard config as a QR code."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of an entry that options name, security's among them."""
    fields = {name: options[name] for name in ("description", "priority", "assigned_ip", "max_connections")}
    fields |= {"tags": list(options["tags"]) or None, "expires_at": options["expires"]}
    fields |= {field: list(options[name]) or None for name, (field, _) in _LISTS.items()}
    if options["burst"] is not None and options["rate"] is None:
        raise click.UsageError("--burst needs --rate")
    if options["rate"] is not None:
        fields["rate_limit"] = RateLimit.of(options["rate"], options["burst"])
    return {name: value for name, value in fields.items() if value is not None}


@contextmanager
def _told_by_option() -> Iterator[None]:
    """What is wrong with a field is told by the option that gave it."""
    try:
        yield
    except (ConfigError, ConflictError) as error:
        path, _, reason = str(error).partition(": ")
        option = _OPTIONS.get(path.rpartition(".")[2].partition("[")[0])
        if option is None:
            raise
        if isinstance(error, ConfigError):
            raise click.UsageError(f"{option}: {reason}", click.get_current_context()) from None
        raise Failure(f"{option}: {reason}", "choose another", ExitCode.CONFLICT) from None


def _split(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry's own fields, and those of its security."""
    own = {name: value for name, value in fields.items() if name not in _OF_SECURITY}
    return own, {name: value for name, value in fields.items() if name in _OF_SECURITY}


def _camel(fields: dict[str, Any]) -> dict[str, Any]:
    return {camel_case(name): to_json(value) for name, value in fields.items()}


# files


@frozen
class _Output:
    """Where a bundle goes."""

    client_id: str
    folder: Path
    wireguard: bool
    force: bool
    qr: bool

    @classmethod
    def chosen(cls, server: VpnServer, client_id: str, out: Path, *, force: bool, qr: bool) -> _Output:
        """Checked before anything is made, so that nothing half-done is left. Raises Failure."""
        mode = server.get_status().transport
        wireguard = mode is not None and TransportMode(mode).wireguard
        if qr and not wireguard:
            raise Failure(
                "the hub does not serve WireGuard, so there is no QR code",
                'set "transportMode": "all" in its config and restart it',
                ExitCode.CONFLICT,
            )
        output = cls(client_id, out, wireguard, force, qr)
        (refuse_unwritable if force else refuse_existing)(output.paths)
        return output

    @property
    def paths(self) -> list[Path]:
        """The files: the smartvpn config, and WireGuard's where the hub serves it."""
        name = file_name(self.client_id)
        return [self.folder / f"{name}{end}" for end in (".json", ".conf")[: 2 if self.wireguard else 1]]

    def room(self) -> AbstractContextManager[Room]:
        """Taken before keys are made. Raises Failure where the disk is full."""
        return room_for(self.paths)

    def write(self, room: Room, bundle: ConfigBundle) -> None:
        """All files or none."""
        room.write(self._texts(bundle), replace=self.force)

    def write_somewhere(self, room: Room, bundle: ConfigBundle) -> None:
        """Keys that replaced others: where their place fails all the same they are kept elsewhere.

        Raises Failure then too, with where they are.
        """
        try:
            self.write(room, bundle)
        except (OSError, Failure) as error:
            kept = rescue(self._texts(bundle))
            cause = f"fresh keys for {self.client_id} were made, but {explain(error).cause}"
            if kept:
                fix = f"move them from {kept[0].parent}: {', '.join(path.name for path in kept)}"
            else:
                fix = "its old keys have ended and the fresh ones are lost: make room and rotate again"
            raise Failure(cause, fix) from None

    def _texts(self, bundle: ConfigBundle) -> dict[Path, str]:
        texts = [dump(bundle.smartvpn_config, indent=2) + "\n", bundle.wireguard_config]
        return dict(zip(self.paths, texts, strict=False))

    def show(self, app: App, done: str, bundle: ConfigBundle) -> None:
        """What was done and where it lies; secrets lie in the files alone."""
        entry = bundle.entry
        files = [str(path) for path in self.paths]
        address = ", ".join(filter(None, [entry.assigned_ip, entry.assigned_ip6]))
        app.say(
            f"{done} {entry.client_id} ({address}): {', '.join(files)}",
            entry=to_json(entry),
            files=files,
        )
        if self.qr and not app.json:
            code = qr_text(bundle.wireguard_config, colours=sys.stdout.isatty())
            click.echo(code) if code else app.hint("the config is too long for a QR code")


# commands


@group.command()
@click.argument("name")
@_entry_options
@click.option("--disabled", is_flag=True, help="Do not let it in yet.")
@click.option("--public-key", help="Its Noise key, if it has made one itself.")
@click.option("--wg-public-key", help="Its WireGuard key, if it has made one itself.")
@_file_options
@pass_app
def add(
    app: App,
    /,
    name: str,
    disabled: bool,
    public_key: str | None,
    wg_public_key: str | None,
    out: Path,
    force: bool,
    qr: bool,
    **options: Any,
) -> None:
    """Make a client: keys, an address, config files. The files have mode 0600."""
    if qr and app.json:
        raise click.UsageError("--qr and --json exclude each other")
    with _told_by_option():
        own, security = _split(_given(options))
        with app.hub() as server:
            _refuse_taken(server, name)
            output = _Output.chosen(server, name, out, force=force, qr=qr)
            with output.room() as room:
                bundle = server.create_client(
                    name,
                    security=_camel(security),
                    enabled=not disabled,
                    public_key=public_key,
                    wg_public_key=wg_public_key,
                    **own,
                )
                try:
                    output.write(room, bundle)
                except BaseException:
                    server.remove_client(name)
                    raise
    output.show(app, "made", bundle)


def _refuse_taken(server: VpnServer, name: str) -> None:
    """Said before a file of the same name is: --force would not help."""
    try:
        server.get_client(name)
    except NotFoundError:
        return
    raise AlreadyExistsError(f"client '{name}' exists already")


@group.command(name="list")
@click.option("--tag", help="Only those with this tag.")
@click.option("--enabled/--disabled", default=None, help="Only those.")
@pass_app
def list_(app: App, tag: str | None, enabled: bool | None) -> None:
    """List the clients."""
    with app.hub() as server:
        page = server.list_registered_clients(tag, enabled)
        sessions = server.list_clients()
    live = {session.client_id: session for session in reversed(sessions)}
    value = [to_json(entry) | {"connected": entry.client_id in live} for entry in page]

    def picture() -> RenderableType:
        table = listing("CLIENT", "ADDRESS", "STATE", "CONNECTED", "TAGS", "EXPIRES")
        for entry in page:
            session = live.get(entry.client_id)
            since = since_text(session.connected_since) if session else None
            state = "enabled" if entry.enabled else "disabled"
            add_row(
                table,
                entry.client_id,
                entry.assigned_ip,
                state,
                since,
                ",".join(entry.tags) or None,
                time_text(entry.expires_at),
            )
        return table

    app.show(value, picture)


@group.command()
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """Show a client, its sessions and its counters."""
    with app.hub() as server:
        entry = server.get_client(name)
        sessions = [session for session in server.list_clients() if session.client_id == name]
        telemetry = _telemetry(server, name) if sessions else None
    value = {
        "entry": to_json(entry),
        "sessions": [to_json(session) for session in sessions],
        "telemetry": None if telemetry is None else to_json(telemetry),
    }
    app.show(value, lambda: facts(_facts(entry, sessions, telemetry)))


def _telemetry(server: VpnServer, name: str) -> ClientTelemetry | None:
    try:
        return server.get_client_telemetry(name)
    except NotFoundError:
        return None


def _facts(
    entry: ClientEntry, sessions: list[ClientInfo], telemetry: ClientTelemetry | None
) -> dict[str, object]:
    security = entry.security
    limit = security.rate_limit
    rows: dict[str, object] = {
        "client": entry.client_id,
        "description": entry.description,
        "state": "enabled" if entry.enabled else "disabled",
        "address": entry.assigned_ip,
        "address 6": entry.assigned_ip6,
        "tags": ", ".join(entry.tags) or None,
        "expires": time_text(entry.expires_at),
        "priority": entry.priority,
        "connections": f"up to {security.max_connections}",
        "rate": None if limit is None else rate_text(limit.bytes_per_sec),
        "public key": entry.public_key,
        "wg public key": entry.wg_public_key,
    }
    rows |= {
        name.replace("_", " "): ", ".join(getattr(security, field)) or None
        for name, (field, _) in _LISTS.items()
    }
    for session in sessions:
        rows[f"session {session.session_id[:8]}"] = (
            f"{session.transport} from {session.remote_addr} for {since_text(session.connected_since)}, "
            f"{bytes_text(session.bytes_received)} in, {bytes_text(session.bytes_sent)} out"
        )
    if telemetry is not None and telemetry.quality is not None:
        quality = telemetry.quality
        rows["link"] = f"{quality.link_health}, {quality.srtt_ms:.1f} ms, {quality.loss_ratio:.1%} lost"
    if telemetry is not None:
        rows["drops"] = _drops(telemetry.packets_dropped, telemetry.drops)
    return rows


def _drops(total: int, causes: DropCounters) -> str:
    """`7: 5 acl, 2 rate_limit`."""
    named = ", ".join(f"{count} {cause}" for cause, count in asdict(causes).items() if count)
    return f"{total}: {named}" if named else str(total)


@group.command()
@click.argument("name")
@_entry_options
@click.option(
    "--reset", "resets", multiple=True, type=click.Choice(sorted(_RESETS)), help="Back to its default."
)
@pass_app
def edit(app: App, /, name: str, resets: tuple[str, ...], **options: Any) -> None:
    """Change a client; a live session goes on under the new rules."""
    with _told_by_option():
        fields = _given(options)
    for reset in resets:
        if fields.get(_RESETS[reset]) is not None:
            raise click.UsageError(f"--{reset} and --reset {reset} exclude each other")
        fields[_RESETS[reset]] = None
    if not fields:
        raise click.UsageError("nothing to change")
    own, security = _split(fields)
    with _told_by_option():
        update = ClientUpdate(**own) if not security else _update(own, security)
        with app.hub() as server:
            entry = server.update_client(name, update)
    app.say(f"changed {name}", entry=to_json(entry))


def _update(own: dict[str, Any], security: dict[str, Any]) -> ClientUpdate:
    return ClientUpdate(security=SecurityUpdate(**security), **own)


@group.command()
@click.argument("name")
@pass_app
def enable(app: App, name: str) -> None:
    """Let a client in again."""
    with app.hub() as server:
        server.enable_client(name)
    app.say(f"enabled {name}", clientId=name, enabled=True)


@group.command()
@click.argument("name")
@pass_app
def disable(app: App, name: str) -> None:
    """End a client's sessions, and let it in no more."""
    with app.hub() as server:
        server.disable_client(name)
    app.say(f"disabled {name}", clientId=name, enabled=False)


@group.command()
@click.argument("name")
@_file_options
@pass_app
def rotate(app: App, name: str, out: Path, force: bool, qr: bool) -> None:
    """Give a client fresh keys; its old configs and sessions end."""
    if qr and app.json:
        raise click.UsageError("--qr and --json exclude each other")
    with app.hub() as server:
        server.get_client(name)
        output = _Output.chosen(server, name, out, force=force, qr=qr)
        with output.room() as room:
            output.write_somewhere(room, bundle := server.rotate_client_key(name))
    output.show(app, "fresh keys for", bundle)


@group.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_app
def remove(app: App, name: str, yes: bool) -> None:
    """Forget a client and end its sessions."""
    with app.hub() as server:
        server.get_client(name)
        if not yes:
            _confirm(f"Remove {name}? Its configs will never work again.")
        server.remove_client(name)
    app.say(f"removed {name}", clientId=name, removed=True)


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("without a terminal nobody can be asked: use --yes")
    if not click.confirm(question, err=True):
        raise Failure("nothing was changed")


@group.command()
@click.argument("name")
@click.option(
    "--format",
    "form",
    type=click.Choice(["smartvpn", "wireguard"]),
    default="smartvpn",
    help="Which config (smartvpn).",
)
@click.option("--out", type=FILE, help="A file instead of the screen.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@pass_app
def export(app: App, name: str, form: str, out: Path | None, force: bool) -> None:
    """Print a client's config without its private keys. Only the client has those."""
    if out is not None:
        (refuse_unwritable if force else refuse_existing)([out])
    with app.hub() as server:
        config = server.export_client_config(name, "wireguard" if form == "wireguard" else "smartvpn")
    text = dump(config, indent=2) + "\n" if isinstance(config, ClientConfig) else config
    if out is not None:
        write_all({out: text}, replace=force)
        app.say(f"wrote {out}", clientId=name, files=[str(out)])
    elif app.json:
        app.show({"clientId": name, "config": to_json(config)}, lambda: "")
    else:
        click.echo(text, nl=False)
