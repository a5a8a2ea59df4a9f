"""The WireGuard device with the stock tools and against another implementation, over real TUN devices."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.netns.topology import Topology
from tests.netns.tunnel import iperf, serve_iperf
from tests.netns.wg import (
    ADDRESSES,
    FAST,
    INNER,
    OURS,
    OUTER,
    OUTER6,
    PORT,
    STOCK,
    Device,
    device,
    introduce,
    pair,
    pings,
    until,
    wg,
)

BOTH_WAYS = pytest.mark.parametrize(("client", "hub"), [(OURS, STOCK), (STOCK, OURS), (OURS, OURS)])


@BOTH_WAYS
@pytest.mark.parametrize("v6", [False, True])
def test_packets_cross(topology: Topology, client: str, hub: str, v6: bool) -> None:
    """IPv4 and IPv6 inside, over IPv4 and IPv6 outside, with a preshared key; whoever begins."""
    psk = wg("genpsk")
    tries = 3 if STOCK in (client, hub) else 1  # on a machine with much to do it loses some
    with pair(topology, client, hub, "preshared-key", f"key:{psk}", v6=v6) as (one, other):
        for address in INNER["hub"]:
            for size in ("0", "56", "1372", "4000"):
                assert any(pings(topology, "client", address, "-s", size) == 3 for _ in range(tries))
        for address in INNER["client"]:
            assert pings(topology, "hub", address) == 3
        assert abs(one.handshake(other) - time.time()) < 5
        assert abs(other.handshake(one) - time.time()) < 5
        [[received, sent]] = one.show("transfer").values()
        [[far_received, far_sent]] = other.show("transfer").values()
        assert int(received) > 20000
        assert int(far_received) > 20000
        assert abs(int(sent) - int(far_received)) < 2000
        assert abs(int(received) - int(far_sent)) < 2000


@BOTH_WAYS
async def test_flows_cross(topology: Topology, client: str, hub: str) -> None:
    """TCP flows both ways: super-packets are cut, sealed, merged, and nothing comes out wrong."""
    serve_iperf(topology, "hub")
    with pair(topology, client, hub):
        for address in INNER["hub"]:
            for options in (("-R",), ("-P", "4"), ("-M", "600")):
                end = await iperf(topology, address, "-n", "20M", *options)
                assert end["sum_received"]["bytes"] > 1e6


@pytest.mark.parametrize("reverse", [(), ("-R",)])
async def test_workers_keep_the_order_of_flows(topology: Topology, reverse: tuple[str, ...]) -> None:
    """Four threads at either end and eight flows at once: within each the datagrams come in their order."""
    serve_iperf(topology, "hub")
    with pair(topology, env=("WG_THREADS=4",)):
        options = ("-u", "-P", "8", "-b", "15M", "-l", "500", "-t", "3", *reverse)
        end = await iperf(topology, INNER["hub"][0], *options)
        flows = [stream["udp"] for stream in end["streams"]]
        assert len(flows) == 8
        assert sum(flow["packets"] - flow["lost_packets"] for flow in flows) > 20000
        assert [flow["out_of_order"] for flow in flows] == [0] * 8


def test_a_wrong_preshared_key(topology: Topology) -> None:
    """No handshake, no packet."""
    with pair(topology) as (one, other):
        one.set("peer", other.public, "preshared-key", f"key:{wg('genpsk')}")
        assert pings(topology, "client", INNER["hub"][0]) == 0
        assert one.handshake(other) == 0
        assert other.handshake(one) == 0


def test_sources_that_are_not_allowed(topology: Topology) -> None:
    """What a peer sends from another's address does not come out."""
    with pair(topology) as (one, other):
        assert pings(topology, "client", INNER["hub"][0]) == 3
        other.set("peer", one.public, "allowed-ips", "10.77.0.99/32")
        assert pings(topology, "client", INNER["hub"][0]) == 0
        other.set("peer", one.public, "allowed-ips", "10.77.0.0/24")
        assert pings(topology, "client", INNER["hub"][0]) == 3


def test_nobody_to_send_to(topology: Topology) -> None:
    """Without a peer, or without its endpoint, programs are told at once."""
    with pair(topology) as (one, other):
        for address in ("10.77.0.77", "fd77::77"):
            out = topology.run("client", "ping", "-n", "-c", "1", "-W", "2", address, check=False).stdout
            assert "Unreachable" in out or "unreachable" in out or "No route" in out
        one.set("peer", other.public, "remove")
        introduce(one, other, endpoint=False)
        out = topology.run("client", "ping", "-n", "-c", "1", "-W", "2", INNER["hub"][0], check=False).stdout
        assert "Unreachable" in out


def test_packets_wait_for_the_handshake(topology: Topology) -> None:
    """The first packets are not lost, and the handshake is tried again when its first message was."""
    with pair(topology):
        rule = "add table inet t\nadd chain inet t c { type filter hook input priority 0; }\n"
        rule += f"add rule inet t c udp dport {PORT['hub']} numgen inc mod 1000000 0 drop"
        topology.run("hub", "nft", rule)
        assert pings(topology, "client", INNER["hub"][0], "-W", "10", count=1) == 1


@BOTH_WAYS
def test_roaming(topology: Topology, client: str, hub: str) -> None:
    """A peer that comes from another port or address is answered there, without a new handshake."""
    with pair(topology, client, hub) as (one, other):
        assert pings(topology, "client", INNER["hub"][0]) == 3
        before = other.handshake(one)
        one.set("listen-port", "51999")
        assert pings(topology, "client", INNER["hub"][0]) == 3
        [[endpoint]] = other.show("endpoints").values()
        assert endpoint == f"{OUTER['client']}:51999"
        if client == STOCK:
            return  # it does not survive the loss of its own address
        topology.run("client", "sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=1")
        topology.run("client", "ip", "address", "add", "10.99.0.22/24", "dev", "outer")
        topology.run("client", "ip", "address", "del", "10.99.0.2/24", "dev", "outer")
        until(lambda: pings(topology, "client", INNER["hub"][0], count=1) == 1, 10)
        [[endpoint]] = other.show("endpoints").values()
        assert endpoint.startswith("10.99.0.22:")
        assert other.handshake(one) == before


@BOTH_WAYS
def test_roaming_v6(topology: Topology, client: str, hub: str) -> None:
    """The same to another port over IPv6, and to the other family."""
    with pair(topology, client, hub, v6=True) as (one, other):
        assert pings(topology, "client", INNER["hub"][1]) == 3
        before = other.handshake(one)
        one.set("listen-port", "51999")
        assert pings(topology, "client", INNER["hub"][1]) == 3
        [[endpoint]] = other.show("endpoints").values()
        assert endpoint == f"[{OUTER6['client']}]:51999"
        one.set("peer", other.public, "endpoint", f"{OUTER['hub']}:{PORT['hub']}")
        assert pings(topology, "client", INNER["hub"][1]) == 3
        [[endpoint]] = other.show("endpoints").values()
        assert endpoint == f"{OUTER['client']}:51999"
        assert other.handshake(one) == before


def test_the_answer_comes_from_where_it_was_asked(topology: Topology) -> None:
    """A hub with two addresses answers from the one that was spoken to; when that goes, from the other."""
    topology.run("hub", "ip", "address", "add", "10.99.0.77/24", "dev", "outer")
    with pair(topology) as (one, other):
        one.set("peer", other.public, "endpoint", f"10.99.0.77:{PORT['hub']}")
        assert pings(topology, "client", INNER["hub"][0]) == 3
        [[endpoint]] = one.show("endpoints").values()
        assert endpoint == f"10.99.0.77:{PORT['hub']}"
        topology.run("hub", "ip", "address", "del", "10.99.0.77/24", "dev", "outer")
        until(lambda: pings(topology, "hub", INNER["client"][0], count=1) == 1, 10)
        [[endpoint]] = one.show("endpoints").values()
        assert endpoint == f"{OUTER['hub']}:{PORT['hub']}"


@BOTH_WAYS
def test_persistent_keepalive(topology: Topology, client: str, hub: str) -> None:
    """The handshake comes without any packet, and then keepalives at their interval."""
    with pair(topology, client, hub) as (one, other):
        one.set("peer", other.public, "persistent-keepalive", "1")
        until(lambda: one.handshake(other), 5)
        until(lambda: other.handshake(one), 5)
        before = int(other.show("transfer")[one.public][0])
        time.sleep(3.2)
        assert 2 * 32 <= int(other.show("transfer")[one.public][0]) - before <= 5 * 32


MUTE = """add table inet t
add chain inet t c { type filter hook output priority 0; }
add rule inet t c icmp type destination-unreachable drop"""


def test_a_keepalive_answers_data(topology: Topology) -> None:
    """Data that has no answer gets a keepalive after ten seconds: the sender sees that the peer lives."""
    send = f"import socket; socket.socket(2, 2).sendto(b'x', ('{INNER['hub'][0]}', 9))"
    topology.run("hub", "nft", MUTE)
    with pair(topology, OURS, FAST) as (one, other):
        assert pings(topology, "client", INNER["hub"][0]) == 3
        time.sleep(1)
        before = int(one.show("transfer")[other.public][0])
        topology.run("client", "python3", "-c", send)
        until(lambda: int(one.show("transfer")[other.public][0]) == before + 32, 5)


@pytest.mark.parametrize(
    ("hub", "load"),
    [(FAST, ("-b", "50M")), (STOCK, ("-b", "2M", "-l", "1K"))],  # its small socket buffers lose bursts
)
async def test_rekey_under_load(topology: Topology, hub: str, load: tuple[str, ...]) -> None:
    """Keys change, every 120 s by the device's own faster clock: a flow goes on, and no ping is lost."""
    serve_iperf(topology, "hub")
    with pair(topology, FAST, hub) as (one, other):
        assert pings(topology, "client", INNER["hub"][0]) == 3
        process = topology.popen("client", "iperf3", "-c", INNER["hub"][0], "-t", "9", *load, stdout=-1)
        out = topology.run(
            "client", "ping", "-n", "-q", "-i", "0.002", "-c", "4000", INNER["hub"][0], timeout=60
        ).stdout
        seen = {one.handshake(other)}
        assert process.wait(30) == 0
        assert " 0% packet loss" in out
        seen.add(one.handshake(other))
        assert max(seen) > time.time() - 10


@pytest.mark.long(140)
def test_the_other_side_rekeys(topology: Topology) -> None:
    """wireguard-go, by its own clock of 120 s, gives our device new keys while packets flow: none is lost."""
    serve_iperf(topology, "hub")
    with pair(topology, STOCK, OURS) as (one, other):
        assert pings(topology, "client", INNER["hub"][0]) == 3
        first = other.handshake(one)
        flow = ("iperf3", "-c", INNER["hub"][0], "-u", "-b", "1M", "-l", "500", "-t", "125")
        process = topology.popen("client", *flow, stdout=-1)
        ping = ("ping", "-n", "-q", "-i", "0.05", "-c", "2500", INNER["hub"][0])
        out = topology.run("client", *ping, timeout=240).stdout
        assert process.wait(60) == 0
        assert " 0% packet loss" in out
        assert 115 <= other.handshake(one) - first <= 135


@pytest.mark.long(30)
def test_keys_are_forgotten(topology: Topology) -> None:
    """After three times the keys' life nothing of a session is left, and the next packet makes a new one."""
    with pair(topology, FAST, FAST) as (one, other):
        assert pings(topology, "client", INNER["hub"][0]) == 3
        first = one.handshake(other)
        time.sleep(28)  # 560 s of theirs
        assert pings(topology, "client", INNER["hub"][0]) == 3
        assert one.handshake(other) >= first + 25


# the standard configuration


def test_setconf_and_syncconf(topology: Topology, tmp_path: Path) -> None:
    """`wg setconf`, `syncconf`, `addconf` and `showconf` do what they do elsewhere."""
    config = tmp_path / "wg.conf"
    keys = [wg("pubkey", text=wg("genkey")) for _ in range(3)]
    with device(topology, "client") as one:
        config.write_text(
            f"[Interface]\nPrivateKey = {one.private}\nListenPort = 1234\nFwMark = 0x10\n"
            f"[Peer]\nPublicKey = {keys[0]}\nAllowedIPs = 10.0.0.0/8, fd00::/8\nEndpoint = 192.0.2.1:99\n"
            f"PersistentKeepalive = 25\n[Peer]\nPublicKey = {keys[1]}\nAllowedIPs = 0.0.0.0/0, ::/0\n"
        )
        topology.run("client", "wg", "setconf", one.name, str(config))
        assert one.show("allowed-ips") == {
            keys[0]: ["10.0.0.0/8", "fd00::/8"],
            keys[1]: ["0.0.0.0/0", "::/0"],
        }
        shown = topology.run("client", "wg", "showconf", one.name).stdout
        assert f"PrivateKey = {one.private}" in shown
        assert "FwMark = 0x10" in shown
        assert "PersistentKeepalive = 25" in shown
        assert "Endpoint = 192.0.2.1:99" in shown
        config.write_text(
            f"[Interface]\nPrivateKey = {one.private}\n"
            f"[Peer]\nPublicKey = {keys[2]}\nAllowedIPs = 10.1.0.0/16\n"
        )
        topology.run("client", "wg", "addconf", one.name, str(config))
        assert set(one.show("allowed-ips")) == set(keys)
        topology.run("client", "wg", "syncconf", one.name, str(config))
        assert one.show("allowed-ips") == {keys[2]: ["10.1.0.0/16"]}


def test_an_allowed_ip_has_one_owner(topology: Topology) -> None:
    """Given to another peer it leaves the first."""
    with device(topology, "client") as one:
        first, second = (wg("pubkey", text=wg("genkey")) for _ in range(2))
        one.set("peer", first, "allowed-ips", "10.1.0.0/16,10.2.0.0/16")
        one.set("peer", second, "allowed-ips", "10.2.0.0/16")
        assert one.show("allowed-ips") == {first: ["10.1.0.0/16"], second: ["10.2.0.0/16"]}


WRONG = [
    "nonsense",
    "private_key=12",
    "private_key=" + "g" * 64,
    "listen_port=65536",
    "listen_port=-1",
    "listen_port= 5",
    "fwmark=4294967296",
    "replace_peers=yes",
    "unknown=1",
    "public_key=12",
    "allowed_ip=10.0.0.0/8",
    "PEER\nallowed_ip=10.0.0.0/33",
    "PEER\nallowed_ip=hello",
    "PEER\nendpoint=1.2.3.4",
    "PEER\nendpoint=1.2.3.4:0",
    "PEER\nendpoint=host.example:51820",
    "PEER\nendpoint=[::1:51820",
    "PEER\npersistent_keepalive_interval=65536",
    "PEER\nprotocol_version=2",
    "PEER\nremove=false",
    "PEER\nprivate_key=" + "0" * 64,
    "PEER\npreshared_key=x",
    "x" * 5000,
]


def test_wrong_lines_change_nothing(topology: Topology) -> None:
    """Each is answered with EINVAL, and what came before it in the same request has not happened."""
    with device(topology, "client") as one:
        one.set("private-key", f"key:{one.private}", "listen-port", "1234")
        known = wg("pubkey", text=wg("genkey"))
        one.set("peer", known, "allowed-ips", "10.1.0.0/16", "endpoint", "10.99.0.1:7")
        before = one.ask("get=1\n\n")
        change = "".join(
            f"{line}\n"
            for line in (
                f"public_key={base64.b64decode(known).hex()}",
                f"preshared_key={'22' * 32}",
                "endpoint=10.99.0.9:9",
                "persistent_keepalive_interval=9",
                "replace_allowed_ips=true",
                "allowed_ip=10.2.0.0/16",
                f"public_key={'33' * 32}",
            )
        )
        for line in WRONG:
            lines = line.replace("PEER", "public_key=" + "11" * 32)
            assert one.ask(f"set=1\nfwmark=7\n{lines}\n\n") == "errno=-22\n\n", line
            if line.startswith("PEER"):
                assert one.ask(f"set=1\nreplace_peers=true\n{change}{lines}\n\n") == "errno=-22\n\n", line
        assert one.ask("hello=1\n\n") == "errno=-71\n\n"
        assert one.ask("get=1\nlisten_port=1\n\n") == "errno=-71\n\n"
        assert one.ask("get=1\n\n") == before


def test_a_port_that_is_taken(topology: Topology) -> None:
    """EADDRINUSE, nothing of the request has happened, and the device stays on its own port."""
    with pair(topology) as (one, other), device(topology, "client") as rival:
        rival.up()
        before = rival.ask("get=1\n\n")
        taken = f"set=1\nfwmark=7\nlisten_port={PORT['client']}\nprivate_key={'11' * 32}\n\n"
        assert rival.ask(taken) == "errno=-98\n\n"
        assert rival.ask("get=1\n\n") == before
        assert pings(topology, "client", INNER["hub"][0]) == 3
        assert one.handshake(other)


def test_many_requests_on_one_connection(topology: Topology) -> None:
    """Each gets its answer, however the bytes are cut."""
    with device(topology, "client") as one, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(one.socket))
        connection.settimeout(10)
        text = b"set=1\nlisten_port=7\n\nget=1\n\nset=1\nlisten_port=70000\n\n"
        for byte in text:
            connection.sendall(bytes([byte]))
        answer = b""
        while answer.count(b"errno=") < 3 or not answer.endswith(b"\n\n"):
            answer += connection.recv(4096)
        assert answer == b"errno=0\n\nlisten_port=7\nerrno=0\n\nerrno=-22\n\n"


# the program


def test_the_socket_is_private(topology: Topology) -> None:
    """Nobody but root may speak, and the interface and its socket are there when the command returns."""
    with device(topology, "client") as one:
        assert one.socket.stat().st_mode & 0o777 == 0o600
        assert topology.run("client", "ip", "link", "show", one.name).returncode == 0


def test_it_ends_with_its_interface(topology: Topology) -> None:
    """Deleted interface, removed socket, SIGTERM: the process ends and leaves nothing."""
    for how in ("link", "socket", "signal"):
        with device(topology, "client") as one:
            pid = one.pid
            assert pid is not None
            if how == "link":
                topology.run("client", "ip", "link", "delete", one.name)
            elif how == "socket":
                one.socket.unlink()
            else:
                os.kill(pid, 15)
            until(lambda one=one: one.pid is None, 5)
            assert not one.socket.exists()
            assert topology.run("client", "ip", "link", "show", one.name, check=False).returncode != 0


def test_bad_arguments(topology: Topology) -> None:
    """One line that says what is wrong, and no interface."""
    for arguments in ((), ("a", "b"), ("--what", "a")):
        done = topology.run("client", OURS, *arguments, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("usage:")
    done = topology.run("client", OURS, "a-name-that-is-too-long", check=False)
    assert done.returncode == 1
    assert "longer than 15" in done.stderr
    done = topology.run("client", OURS, "lo", check=False)
    assert done.returncode == 1
    assert re.search("smartvpn-wg: lo: .*TUN", done.stderr)


def test_a_name_that_is_taken(topology: Topology) -> None:
    """The device that is there is not disturbed."""
    with device(topology, "client") as one:
        done = topology.run("hub", OURS, one.name, check=False)
        assert done.returncode == 1
        assert "another device" in done.stderr
        assert one.ask("get=1\n\n").endswith("errno=0\n\n")


def test_it_follows_its_interface(topology: Topology) -> None:
    """Moved to another namespace right after the start, it works there; its sockets stay where they were."""
    with device(topology, "client") as one, device(topology, "hub") as other:
        topology.run("client", "ip", "link", "set", one.name, "netns", topology.names["internet"])
        for end in (one, other):
            end.set("private-key", f"key:{end.private}", "listen-port", str(PORT[end.role]))
        introduce(one, other)
        introduce(other, one)
        other.up(*ADDRESSES["hub"])
        one.role = "internet"
        one.up(*ADDRESSES["client"])
        until(lambda: pings(topology, "internet", INNER["hub"][0], count=1) == 1)
        topology.run("internet", "ip", "link", "set", one.name, "down")
        until(lambda: pings(topology, "hub", INNER["client"][0], count=1) == 0)
        one.up()
        until(lambda: pings(topology, "internet", INNER["hub"][0], count=1) == 1, 30)
        assert one.handshake(other)


def test_the_mtu_changes(topology: Topology) -> None:
    """Up and down again while packets flow; a packet of 65,000 bytes crosses whole."""
    with pair(topology) as ends:
        for mtu in (1280, 9000, 65000, 1420):
            for end in ends:
                topology.run(end.role, "ip", "link", "set", end.name, "mtu", str(mtu))
            time.sleep(0.1)
            size = str(mtu - 28)
            assert pings(topology, "client", INNER["hub"][0], "-s", size, "-M", "do") == 3
            assert pings(topology, "client", INNER["hub"][1], "-s", str(mtu - 48), "-M", "do") == 3


@pytest.mark.parametrize("offloads", [True, False])
async def test_a_descriptor_of_a_tun_device(topology: Topology, offloads: bool) -> None:
    """WG_TUN_FD and WG_UAPI_FD: what another program has opened, with offload headers or without."""
    serve_iperf(topology, "hub")
    with device(topology, "hub") as other:
        one = Device(topology, "client", OURS)
        program = (
            "import fcntl, os, socket, struct, sys\n"
            "name, path, program = sys.argv[1:]\n"
            "tun = os.open('/dev/net/tun', os.O_RDWR)\n"
            f"flags = 0x1001 | {0x4000 if offloads else 0}\n"
            "fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH', name.encode(), flags))\n"
            "uapi = socket.socket(socket.AF_UNIX)\n"
            "uapi.bind(path); uapi.listen()\n"
            "os.set_inheritable(tun, True); uapi.set_inheritable(True)\n"
            "os.environ |= {'WG_TUN_FD': str(tun), 'WG_UAPI_FD': str(uapi.fileno())}\n"
            "os.environ['WG_PROCESS_FOREGROUND'] = '1'\n"
            "os.execv(program, [program, name])\n"
        )
        process = topology.popen("client", "python3", "-c", program, one.name, str(one.socket), OURS)
        try:
            until(lambda: one.socket.exists() and one.pid)
            for end in (one, other):
                end.set("private-key", f"key:{end.private}", "listen-port", str(PORT[end.role]))
            introduce(one, other)
            introduce(other, one)
            for end in (one, other):
                end.up(*ADDRESSES[end.role])
            # A handshake that comes before the other end listens is repeated after five seconds.
            until(lambda: pings(topology, "client", INNER["hub"][0], count=1) == 1)
            end = await iperf(topology, INNER["hub"][0], "-n", "20M")
            assert end["sum_received"]["bytes"] > 1e6
        finally:
            one.end()
            process.wait(10)


def test_wg_quick(topology: Topology, tmp_path: Path) -> None:
    """`wg-quick up` with this program as its userspace implementation, and down again."""
    with device(topology, "hub") as other:
        one = Device(topology, "client", OURS)
        config = tmp_path / f"{one.name}.conf"
        config.write_text(
            f"[Interface]\nPrivateKey = {one.private}\nAddress = {', '.join(ADDRESSES['client'])}\n"
            f"MTU = 1400\nListenPort = {PORT['client']}\n"
            f"[Peer]\nPublicKey = {other.public}\nAllowedIPs = 10.77.0.0/24, fd77::/64\n"
            f"Endpoint = {OUTER['hub']}:{PORT['hub']}\nPersistentKeepalive = 25\n"
        )
        config.chmod(0o600)
        other.set("private-key", f"key:{other.private}", "listen-port", str(PORT["hub"]))
        introduce(other, one, endpoint=False)
        other.up(*ADDRESSES["hub"])
        try:
            env = ("env", f"WG_QUICK_USERSPACE_IMPLEMENTATION={OURS}")
            topology.run("client", *env, "wg-quick", "up", str(config))
            for address in INNER["hub"]:
                assert pings(topology, "client", address) == 3
            topology.run("client", *env, "wg-quick", "down", str(config))
            until(lambda: one.pid is None, 5)
        finally:
            one.end()


def test_the_user_may_ask_for_help() -> None:
    """--help and --version need no rights."""
    assert "INTERFACE" in subprocess.run([OURS, "--help"], capture_output=True, text=True, check=True).stdout
    out = subprocess.run([OURS, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"smartvpn-wg \d+\.\d+\.\d+\n", out)
