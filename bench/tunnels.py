"""What is measured: the bare path, the baseline, our tunnels, OpenVPN; each set up the way its users do."""

from __future__ import annotations

import base64
import json
import queue
import shutil
import ssl
import statistics
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from hashlib import sha256
from pathlib import Path
from typing import Any

from lab import CLIENT_OUTER, HUB_OUTER, Lab, LabError, Namespace, run, stop, wait_until

INNER_MTU = 1420
BARE = "bare veth"
BASELINE = "TCP, no cipher"
WS = "smartvpn ws"
WSS = "smartvpn wss"
_CONNECTS = 10


class UnavailableError(Exception):
    """It cannot be had on this machine; the text says why."""


class Tunnel(ABC):
    """A path between the two namespaces. Addresses and processes (hub's, client's) are set by `open`."""

    name: str
    hub_address: str
    client_address: str
    port: int | None = None  # of its TCP connection
    handshake_ms: float | None = None  # median of a few connects, as their caller sees them
    processes: tuple[subprocess.Popen[str], subprocess.Popen[str]] | None = None

    @abstractmethod
    def open(self, lab: Lab) -> None:
        """Brings it up. Raises UnavailableError or LabError."""

    def close(self) -> None:
        """Takes it down."""
        for process in self.processes or ():
            stop(process)


class Bare(Tunnel):
    """The veth pair itself."""

    name = BARE
    hub_address = HUB_OUTER
    client_address = CLIENT_OUTER

    def open(self, lab: Lab) -> None:
        """It is there."""


class _Addressed(Tunnel):
    """A tunnel whose device is given its addresses here."""

    def __init__(self, subnet: int) -> None:
        self.hub_address = f"10.{subnet}.0.1"
        self.client_address = f"10.{subnet}.0.2"


class Baseline(_Addressed):
    """TUN super-packets over one TCP connection without cipher."""

    name = BASELINE
    port = 7000

    def __init__(self, tool: Path, subnet: int) -> None:
        super().__init__(subnet)
        self._tool = tool

    def open(self, lab: Lab) -> None:
        """Both ends, then the addresses."""
        self.processes = (
            self._end(lab, lab.hub, "listen", self.hub_address),
            self._end(lab, lab.client, "connect", self.client_address),
        )
        wait_until(lambda: _pings(lab, self), self.name)

    def _end(self, lab: Lab, where: Namespace, role: str, address: str) -> subprocess.Popen[str]:
        argv = (self._tool, role, f"{HUB_OUTER}:{self.port}", "base0", str(INNER_MTU))
        process = lab.spawn(where, *argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise LabError(f"{self.name}: {lab.log_of(process)}")
        where.ip("address", "add", f"{address}/24", "dev", "base0")
        return process


class Management:
    """The JSON lines of a daemon over its stdin and stdout."""

    def __init__(self, lab: Lab, where: Namespace, daemon: list[str], mode: str) -> None:
        argv = (*daemon, "--management", "--mode", mode)
        self.process = lab.spawn(where, *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lab = lab
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._sent = 0
        threading.Thread(target=self._read, daemon=True).start()
        ready = self._next(30)
        if ready.get("event") != "ready":
            raise LabError(f"the daemon began with {ready}")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "id" in message or message.get("event") == "ready":
                self._answers.put(message)
        self._answers.put(None)

    def _next(self, timeout: float) -> dict[str, Any]:
        try:
            message = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise LabError(f"no answer within {timeout:g} s: {self._lab.log_of(self.process)}") from None
        if message is None:
            raise LabError(f"the daemon ended: {self._lab.log_of(self.process)}")
        return message

    def send(self, method: str, params: dict[str, Any] | None = None) -> None:
        """A request whose answer is fetched later."""
        assert self.process.stdin is not None
        self._sent += 1
        request = {"id": str(self._sent), "method": method, "params": params or {}}
        self.process.stdin.write(json.dumps(request) + "\n")

    def result(self, timeout: float = 20) -> Any:
        """The next answer's result. Raises LabError with the daemon's words."""
        answer = self._next(timeout)
        if not answer.get("success"):
            raise LabError(f"{answer.get('code')}: {answer.get('error')}: {self._lab.log_of(self.process)}")
        return answer.get("result")

    def call(self, method: str, params: dict[str, Any] | None = None, timeout: float = 20) -> Any:
        """A request and its result."""
        self.send(method, params)
        return self.result(timeout)


class SmartVpn(Tunnel):
    """Two daemons driven by the commands that users' programs send."""

    hub: Management  # once open

    def __init__(self, name: str, daemon: list[str], subnet: int, port: int, *, tls: bool) -> None:
        self.name = name
        self.port = port
        self._daemon = daemon
        self.subnet = f"10.{subnet}.0.0/24"
        self._tls = tls

    def open(self, lab: Lab) -> None:
        """Hub, client, and a few connects to see how long they take."""
        hub = Management(lab, lab.hub, self._daemon, "server")
        hub.call("start", self._server_config(lab, hub.call("generateKeypair")))
        config = hub.call("createClient", {"clientId": "bench"})["smartvpnConfig"]
        client = Management(lab, lab.client, self._daemon, "client")
        self._client = client
        self.hub = hub
        self.processes = (hub.process, client.process)
        self.handshake_ms = statistics.median(self._connect(config) for _ in range(_CONNECTS))
        self.client_address = client.call("connect", config)["assignedIp"]
        self.hub_address = self.subnet.replace(".0/24", ".1")
        wait_until(lambda: _pings(lab, self), self.name)

    def _connect(self, config: dict[str, Any]) -> float:
        begin = time.perf_counter()
        self._client.call("connect", config)
        took = 1000 * (time.perf_counter() - begin)
        self._client.call("disconnect")
        return took

    def _server_config(self, lab: Lab, keys: dict[str, str]) -> dict[str, Any]:
        config: dict[str, Any] = {
            "listenAddr": f"{HUB_OUTER}:{self.port}",
            "subnet": self.subnet,
            "mtu": INNER_MTU,
            "registry": ":memory:",
            **keys,
        }
        if self._tls:
            certificate = Certificate(lab.folder, "hub")
            config |= {"tlsCert": str(certificate.path), "tlsKey": str(certificate.key)}
        return config


class Certificate:
    """A self-signed P-256 certificate of the openssl command."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.crt"
        self.key = folder / f"{name}.key"
        if not self.path.exists():
            request = f"""openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30
                -subj /CN={name} -keyout {self.key} -out {self.path}"""
            run(*request.split())

    @property
    def digest(self) -> bytes:
        """SHA-256 of the DER form."""
        return sha256(ssl.PEM_cert_to_DER_cert(self.path.read_text())).digest()

    @property
    def pin(self) -> str:
        """As `serverCertHash` has it."""
        return base64.b64encode(self.digest).decode("ascii")

    @property
    def fingerprint(self) -> str:
        """As OpenVPN's --peer-fingerprint has it."""
        return self.digest.hex(":").upper()


class OpenVpn(_Addressed):
    """OpenVPN from the distribution, AES-128-GCM in user space, point to point."""

    def __init__(self, subnet: int, port: int, *, tcp: bool) -> None:
        super().__init__(subnet)
        self.name = f"OpenVPN {'TCP' if tcp else 'UDP'}"
        self._outer_port = port
        self._tcp = tcp
        if tcp:
            self.port = port

    def open(self, lab: Lab) -> None:
        """Both ends, known to each other by fingerprint."""
        if not shutil.which("openvpn"):
            raise UnavailableError("openvpn is not installed")
        hub, client = Certificate(lab.folder, "openvpn-hub"), Certificate(lab.folder, "openvpn-client")
        self.processes = (
            lab.spawn(lab.hub, "openvpn", *self._options(hub, client, server=True)),
            lab.spawn(lab.client, "openvpn", *self._options(client, hub, server=False)),
        )
        wait_until(lambda: _pings(lab, self), self.name, 20)

    def _options(self, own: Certificate, peer: Certificate, *, server: bool) -> list[str]:
        device = f"ovpn{self._outer_port}"
        if server:
            role = f"--tls-server --dh none --local {HUB_OUTER} --lport {self._outer_port}"
            ends = f"{self.hub_address} {self.client_address}"
        else:
            role = f"--tls-client --remote {HUB_OUTER} {self._outer_port} --nobind"
            ends = f"{self.client_address} {self.hub_address}"
        tcp = "tcp-server --tcp-nodelay" if server else "tcp-client --tcp-nodelay"
        text = f"""--dev {device} --dev-type tun --ifconfig {ends} --tun-mtu {INNER_MTU}
            --proto {tcp if self._tcp else "udp"} {role}
            --cert {own.path} --key {own.key} --peer-fingerprint {peer.fingerprint}
            --data-ciphers AES-128-GCM --disable-dco --verb 1 --ping 10"""
        return text.split()


def _pings(lab: Lab, tunnel: Tunnel) -> bool:
    lab.check_alive(tunnel.processes or ())
    argv = lab.client.command("ping", "-n", "-q", "-c", "1", "-W", "1", tunnel.hub_address)
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
