"""`smartvpn service`, the units, and what systemd's own tools say of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from smartvpn import VpnInstaller
from smartvpn.cli._errors import ExitCode
from tests.cli.tool import COMMAND, Machine, environment, run

WORST_EXPOSURE = 3.0


def test_the_unit_is_printed(hub: Machine) -> None:
    """--print shows what would be installed: config and socket are those that were named."""
    hub.init()
    done = hub("service", "install", hub.config, "--print", "--json").json()
    assert done["path"] == "/etc/systemd/system/smartvpn-server.service"
    assert f"--config {hub.config}" in done["content"]
    assert f"--management-socket {hub.socket}" in done["content"]
    assert hub("service", "install", hub.config, "--print").out == done["content"]


@pytest.mark.parametrize("mode", ["server", "client"])
def test_systemd_verifies_the_unit(mode: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, and the exposure is at most 3.0."""
    assert shutil.which("systemd-analyze"), "run `make deps`"
    unit = tmp_path / f"smartvpn-{mode}.service"
    config = f"/etc/smartvpn/{mode}.json"
    unit.write_text(VpnInstaller.generate_systemd_unit("/bin/true", mode=mode, config_path=config))  # type: ignore[arg-type]
    looked_at_by_systemd(unit)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"listen": "0.0.0.0:443", "tls_cert": "/etc/smartvpn/a b.crt", "tls_key": "/etc/smartvpn/100%.key"},
        {"listen": "[::]:8443", "behind_proxy": True, "public_hosts": ["vpn.example.org", "10.8.0.1"]},
    ],
    ids=["alone", "TLS", "behind a proxy"],
)
def test_systemd_verifies_the_dashboards_unit(options: dict[str, Any], tmp_path: Path) -> None:
    """The same of the dashboard's."""
    unit = tmp_path / "smartvpn-dashboard.service"
    unit.write_text(VpnInstaller.generate_dashboard_unit("/bin/true", **options))
    looked_at_by_systemd(unit)


def looked_at_by_systemd(unit: Path) -> None:
    """It has nothing to say about the unit, whose exposure is small."""
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) <= WORST_EXPOSURE


def test_install_and_remove_without_a_manager(hub: Machine, tmp_path: Path) -> None:
    """Where no systemd runs the unit is put in place and taken away, and said that nothing starts it."""
    hub.init("--registry", "/var/lib/smartvpn/registry.db")
    units = tmp_path / "units"
    units.mkdir()
    tool = " ".join(COMMAND)
    script = f"""
        set -e
        mount --bind {units} /etc/systemd/system
        mount -t tmpfs none /run
        {tool} service install {hub.config}
        {tool} service install {hub.config}
        echo changed >> /etc/systemd/system/smartvpn-server.service
        {tool} service install {hub.config} 2>refused || echo "status $?"
        {tool} service install {hub.config} --force
        cat /etc/systemd/system/smartvpn-server.service > installed
        {tool} service remove
        {tool} service remove 2>missing || echo "status $?"
        {tool} service install {hub.config} --no-start
        {tool} service dashboard --listen 127.0.0.1:8443
        cat /etc/systemd/system/smartvpn-dashboard.service > dashboard
        {tool} service remove 2>both || true
        {tool} service remove --mode dashboard
        {tool} service remove
    """
    shims = tmp_path / "bin"
    shims.mkdir()
    (shims / "smartvpn_daemon").symlink_to("/bin/true")
    (shims / "smartvpn-dashboard").symlink_to("/bin/true")
    env = environment()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=env | {"PATH": f"{shims}:{env['PATH']}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"status {ExitCode.CONFLICT:d}\n" in done.stdout
    assert f"status {ExitCode.NOT_FOUND:d}\n" in done.stdout
    assert "takes effect where one does" in done.stderr
    assert "Type=notify" in (tmp_path / "installed").read_text()
    assert "--listen 127.0.0.1:8443" in (tmp_path / "dashboard").read_text()
    assert "name one with --mode" in (tmp_path / "both").read_text()
    assert "use --force" in (tmp_path / "refused").read_text()
    assert list(units.iterdir()) == []


def test_what_does_not_start_is_not_installed(hub: Machine, tmp_path: Path) -> None:
    """The reason is the daemon's own; no unit is left, nor a service that is tried again at each boot.

    systemctl and journalctl stand in here for a systemd, which tests/kernel/service.py has.
    """
    hub.init("--registry", "/var/lib/smartvpn/registry.db")
    units, shims = tmp_path / "units", tmp_path / "bin"
    for folder in (units, shims):
        folder.mkdir()
    programs = {
        "smartvpn_daemon": "",
        "systemctl": f'echo "$@" >> {tmp_path}/asked; [ "$1" != is-active ] && [ "$1" != start ]',
        "journalctl": "echo smartvpn_daemon: the port is taken; echo it failed",
    }
    for name, text in programs.items():
        (shims / name).write_text(f"#!/bin/sh\n{text}\n")
        (shims / name).chmod(0o755)
    script = f"""
        mount --bind {units} /etc/systemd/system
        mount -t tmpfs none /run
        mkdir -p /run/systemd/system
        {" ".join(COMMAND)} service install {hub.config} --socket {hub.socket}
    """
    hub.up()
    env = {"PATH": f"{shims}:{environment()['PATH']}"}
    done = run("-c", script, command=("unshare", "--mount", "sh"), **env)
    assert (done.status, f"listens on {hub.socket} already" in done.one_line()) == (ExitCode.CONFLICT, True)
    hub.down()
    (tmp_path / "asked").unlink()
    done = run("-c", script, command=("unshare", "--mount", "sh"), **env)
    unit = "smartvpn-server.service"
    assert (done.status, f"{unit} does not start: the port is taken" in done.one_line()) == (1, True)
    assert (tmp_path / "asked").read_text().splitlines() == [
        *(f"is-active --quiet {unit}", "daemon-reload", f"enable {unit}", f"start {unit}"),
        *(f"disable --now {unit}", "daemon-reload"),
    ]
    assert list(units.iterdir()) == []


def test_a_registry_that_the_service_cannot_write(hub: Machine) -> None:
    """It is named before anything is installed."""
    hub.init()
    done = hub("service", "install", hub.config)
    assert (done.status, "registry.db lies outside" in done.one_line()) == (ExitCode.CONFIG, True)


def test_nothing_is_installed_for_a_wrong_config(tmp_path: Path) -> None:
    """The config is read before anything is written."""
    config = tmp_path / "x.json"
    config.write_text("{}")
    assert run("service", "install", config).status == ExitCode.CONFIG
