"""`smartvpn completion`: what the shell completes."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from smartvpn.cli._app import App, AppCommand, pass_app
from smartvpn.cli._errors import Failure

_SHELLS = ("bash", "zsh", "fish")


@click.command(cls=AppCommand)
@click.argument("shell", required=False, type=click.Choice(_SHELLS))
@pass_app
def completion(app: App, shell: str | None) -> None:
    """Print the completions of a shell. For bash: eval "$(smartvpn completion bash)"."""
    name = shell or Path(os.environ.get("SHELL", "bash")).name
    kind = get_completion_class(name) if name in _SHELLS else None
    if kind is None:
        raise Failure(f"no completions for {name}", f"name one of {', '.join(_SHELLS)}")
    root = click.get_current_context().find_root().command
    source = kind(root, {}, "smartvpn", "_SMARTVPN_COMPLETE")
    # source() of bash asks bash for its version first; the template alone needs no shell.
    script = source.source_template % source.source_vars()
    app.show({"shell": name, "script": script}, lambda: script.rstrip("\n"))
