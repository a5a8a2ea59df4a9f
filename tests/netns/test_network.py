"""What smartvpn.network changes on a machine, and that nothing of it stays.

Every test compares the whole state of the machine before and after.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smartvpn.errors import (
    ConfigError,
    ConflictError,
    InvalidStateError,
    NotFoundError,
    PermissionDeniedError,
)
from tests.conftest import require_namespaces
from tests.netns.state import state
from tests.netns.topology import CLIENT_OUTER, HUB_OUTER, HUB_OUTER6, INTERNET, INTERNET6, Topology
from tests.netns.worker import Worker, WorkerError
from tests.raw import AS_NOBODY

HUB = {
    "address": "10.8.0.1/24",
    "address6": "fd08::1/64",
    "mtu": 1420,
    "nat": True,
    "subnet": "10.8.0.0/24",
    "subnet6": "fd08::/64",
    "allow_host_access": True,
}
CLIENT = {
    "address": "10.8.0.2/24",
    "address6": "fd08::2/64",
    "mtu": 1400,
    "routes": ["0.0.0.0/0", "::/0"],
    "dns": ["10.8.0.1", "fd08::1"],
    "server_addresses": [INTERNET],
}
SPLIT = CLIENT | {"routes": ["10.8.0.0/24", "10.20.0.0/16", "fd20::/32"], "dns": []}
IP_FORWARD = "/proc/sys/net/ipv4/ip_forward"


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    """One for all, since every test leaves it as it was: two TUN devices on the hub and the client."""
    require_namespaces()
    with Topology() as made:
        for role in ("hub", "client"):
            for name in ("sv0", "sv1"):
                made.run(role, "ip", "tuntap", "add", "dev", name, "mode", "tun")
        yield made


@contextmanager
def beforehand(topology: Topology, role: str, change: str, back: str) -> Iterator[None]:
    """Something that somebody else set on the machine."""
    topology.run(role, "sh", "-c", change)
    yield
    topology.run(role, "sh", "-c", back)


@contextmanager
def unchanged(topology: Topology, role: str) -> Iterator[dict[str, Any]]:
    """The machine is at the end what it was at the beginning."""
    before = state(topology, role)
    yield before
    assert state(topology, role) == before


@contextmanager
def refused(kind: type[Exception], message: str) -> Iterator[None]:
    """The worker's call fails with this class and these words."""
    with pytest.raises(WorkerError) as caught:
        yield
    assert (caught.value.kind, caught.value.message) == (kind, message)


def new_routes(now: dict[str, Any], before: dict[str, Any]) -> set[str]:
    """Routes of the main table that came to be, without what the kernel adds with an address."""
    routes = set(now["routes"]) - set(before["routes"])
    return {route.partition(" metric 1024")[0] for route in routes if "proto 83" in route}


def link(now: dict[str, Any], name: str) -> dict[str, Any]:
    """One of the links of a state."""
    (found,) = [item for item in now["links"] if item["name"] == name]
    return found


def is_set(now: dict[str, Any], setting: str, value: str) -> bool:
    """Whether a kernel setting has this value."""
    return f"/proc/sys/net/{setting}:{value}" in now["settings"]


# a hub


def test_a_hub_has_its_addresses(topology: Topology, tmp_path: Path) -> None:
    """Address, prefix and MTU of both families; forwarding; without NAT no table of nftables."""
    with unchanged(topology, "hub"):
        hub = Worker(topology, "hub", tmp_path)
        hub("configure_hub", **HUB | {"nat": False})
        now = state(topology, "hub")
        assert link(now, "sv0") == {
            "name": "sv0",
            "mtu": 1420,
            "up": True,
            "addresses": ["10.8.0.1/24", "fd08::1/64"],
        }
        assert is_set(now, "ipv4/ip_forward", "1")
        assert is_set(now, "ipv6/conf/all/forwarding", "1")
        assert now["nftables"] == ""
        hub("restore")


def test_a_hub_of_ipv4_leaves_ipv6_alone(topology: Topology, tmp_path: Path) -> None:
    """No IPv6 address, no IPv6 forwarding."""
    with unchanged(topology, "hub") as before:
        hub = Worker(topology, "hub", tmp_path)
        hub("configure_hub", **HUB | {"address6": None, "subnet6": None})
        now = state(topology, "hub")
        assert link(now, "sv0")["addresses"] == ["10.8.0.1/24"]
        assert [line for line in now["settings"] if "ipv6/conf/all/" in line] == [
            line for line in before["settings"] if "ipv6/conf/all/" in line
        ]
        hub("restore")


def test_nat_is_one_table(topology: Topology, tmp_path: Path) -> None:
    """It masquerades both subnets, clamps TCP both ways, and stands beside what others have."""
    theirs = beforehand(topology, "hub", "nft add table inet theirs", "nft delete table inet theirs")
    with theirs, unchanged(topology, "hub"):
        hub = Worker(topology, "hub", tmp_path)
        hub("configure_hub", **HUB)
        tables = topology.run("hub", "nft", "list", "tables").stdout.splitlines()
        assert sorted(tables) == ["table inet smartvpn_sv0", "table inet theirs"]
        rules = topology.run("hub", "nft", "list", "table", "inet", "smartvpn_sv0").stdout
        lines = [line.strip() for line in rules.splitlines()]
        assert 'ip saddr 10.8.0.0/24 oifname != "sv0" masquerade' in lines
        assert 'ip6 saddr fd08::/64 oifname != "sv0" masquerade' in lines
        clamped = [line for line in lines if "maxseg size set rt mtu" in line]
        assert [line.split()[0] for line in clamped] == ["iifname", "oifname"]
        hub("restore")


def test_host_access_is_a_chain_of_the_same_table(topology: Topology, tmp_path: Path) -> None:
    """Without NAT the table holds the input chain only; with both it is still one table."""
    with unchanged(topology, "hub"):
        hub = Worker(topology, "hub", tmp_path)
        for nat, chains in (
            (False, ["input"]),
            (True, ["postrouting", "forward", "forward_accept", "input"]),
        ):
            hub("configure_hub", **HUB | {"allow_host_access": False, "nat": nat})
            rules = topology.run("hub", "nft", "list", "ruleset").stdout
            assert [line.split()[1] for line in rules.splitlines() if "chain" in line] == chains
        hub("restore")


def test_forwarding_that_was_on_stays_on(topology: Topology, tmp_path: Path) -> None:
    """What somebody else set before is not taken away."""
    on = beforehand(topology, "hub", f"echo 1 > {IP_FORWARD}", f"echo 0 > {IP_FORWARD}")
    with on, unchanged(topology, "hub"):
        hub = Worker(topology, "hub", tmp_path)
        hub("configure_hub", **HUB)
        hub("restore")
        assert topology.run("hub", "cat", IP_FORWARD).stdout == "1\n"


# a client


def test_a_full_tunnel_is_two_halves(topology: Topology, tmp_path: Path) -> None:
    """They win over the default routes without replacing them; the hub's address keeps its way."""
    with unchanged(topology, "client") as before:
        client = Worker(topology, "client", tmp_path)
        client("configure_client", **CLIENT)
        now = state(topology, "client")
        assert link(now, "sv0")["addresses"] == ["10.8.0.2/24", "fd08::2/64"]
        assert link(now, "sv0")["mtu"] == 1400
        assert set(before["routes"]) < set(now["routes"])
        assert new_routes(now, before) == {
            "0.0.0.0/1 dev sv0 proto 83",
            "128.0.0.0/1 dev sv0 proto 83",
            "::/1 dev sv0 proto 83",
            "8000::/1 dev sv0 proto 83",
            f"{INTERNET} via {HUB_OUTER} dev outer proto 83",
            f"unreachable {INTERNET} proto 83 metric 4294967295",
        }
        client("restore")


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (INTERNET, f"via {HUB_OUTER} dev outer"),
        (INTERNET6, f"via {HUB_OUTER6} dev outer"),
        (HUB_OUTER, "dev outer"),
    ],
)
def test_the_hub_is_reached_around_the_tunnel(
    topology: Topology, tmp_path: Path, server: str, expected: str
) -> None:
    """By its old way, a gateway or the link itself, while everything else goes into the tunnel."""
    with unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path)
        client("configure_client", **CLIENT | {"server_addresses": [server]})
        assert expected in topology.run("client", "ip", "route", "get", server).stdout
        for elsewhere in ("192.0.2.1", "2001:db8::1"):
            assert "dev sv0" in topology.run("client", "ip", "route", "get", elsewhere).stdout
        client("restore")


def test_a_split_tunnel_leaves_the_rest_alone(topology: Topology, tmp_path: Path) -> None:
    """Only what is named goes in; the address's own network has its route already; no DNS, no change."""
    with unchanged(topology, "client") as before:
        client = Worker(topology, "client", tmp_path)
        client("configure_client", **SPLIT)
        now = state(topology, "client")
        assert new_routes(now, before) == {
            "10.20.0.0/16 dev sv0 proto 83",
            "fd20::/32 dev sv0 proto 83",
        }
        assert now["resolv.conf"] == before["resolv.conf"]
        client("restore")


def test_settings_that_change_replace_the_old_ones(topology: Topology, tmp_path: Path) -> None:
    """Configured again with other values only the new ones stand; with the same nothing changes."""
    with unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path)
        client("configure_client", **CLIENT)
        full = state(topology, "client")
        client("configure_client", **SPLIT | {"address": "10.8.0.3/24", "address6": None, "mtu": 1300})
        split = state(topology, "client")
        assert link(split, "sv0")["addresses"] == ["10.8.0.3/24"]
        assert link(split, "sv0")["mtu"] == 1300
        for _ in range(2):
            client("configure_client", **CLIENT)
            assert state(topology, "client") == full
        client("restore")


def test_what_somebody_removed_comes_back(topology: Topology, tmp_path: Path) -> None:
    """Configured again, a lost route and a lost address are there again."""
    with unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path)
        client("configure_client", **SPLIT)
        configured = state(topology, "client")
        topology.run("client", "ip", "route", "del", "10.20.0.0/16")
        topology.run("client", "ip", "address", "del", "10.8.0.2/24", "dev", "sv0")
        client("configure_client", **SPLIT)
        assert state(topology, "client") == configured
        client("restore")


def test_the_way_to_the_hub_follows_the_network(topology: Topology, tmp_path: Path) -> None:
    """After a new default gateway `refresh` takes it; without any the hub is unreachable."""
    way = partial(topology.run, "client", "ip", "route", "get", INTERNET, check=False)
    change = partial(topology.run, "client", "ip", "route")
    with unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path)
        client("configure_client", **CLIENT)
        change("replace", "default", "via", "10.99.0.77")
        client("refresh", server_addresses=[INTERNET])
        assert "via 10.99.0.77 dev outer" in way().stdout
        change("del", "default")
        client("refresh", server_addresses=[INTERNET])
        assert "No route to host" in way().stderr
        change("add", "default", "via", HUB_OUTER)
        client("refresh", server_addresses=[INTERNET])
        assert f"via {HUB_OUTER} dev outer" in way().stdout
        client("restore")


# name servers


def test_name_servers_are_the_tunnels(topology: Topology, tmp_path: Path) -> None:
    """They replace the old ones; the search list stays."""
    with unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path)
        client("configure_client", **CLIENT)
        assert topology.run("client", "cat", "/etc/resolv.conf").stdout.splitlines()[1:] == [
            "search client.example",
            "nameserver 10.8.0.1",
            "nameserver fd08::1",
        ]
        client("restore")


def test_somebody_elses_edit_is_respected(topology: Topology, tmp_path: Path) -> None:
    """A resolv.conf that was changed meanwhile is left as it is, and that is told."""
    with unchanged(topology, "client") as before:
        client = Worker(topology, "client", tmp_path)
        client("configure_client", **CLIENT)
        topology.resolv_conf("client").write_text("nameserver 203.0.113.1\n")
        client("restore")
        assert topology.resolv_conf("client").read_text() == "nameserver 203.0.113.1\n"
        assert "/etc/resolv.conf is not restored: somebody else changed it since" in client.log
        topology.resolv_conf("client").write_text(before["resolv.conf"])


def test_each_machine_has_name_servers_of_its_own(topology: Topology, tmp_path: Path) -> None:
    """Two network namespaces have two files under one path; each gets its own text back."""
    with unchanged(topology, "client"), unchanged(topology, "hub"):
        workers = [Worker(topology, role, tmp_path) for role in ("client", "hub")]
        for worker in workers:
            worker("configure_client", **SPLIT | {"dns": ["10.8.0.1"]})
        for role in ("client", "hub"):
            assert f"search {role}.example\n" in topology.resolv_conf(role).read_text()
        for worker in workers:
            worker("restore")


# two tunnels


@pytest.mark.parametrize("first_to_go", [0, 1])
def test_two_tunnels_on_one_machine(topology: Topology, tmp_path: Path, first_to_go: int) -> None:
    """In whichever order they go: the one that stays keeps all of its own, the last leaves nothing."""
    settings = [
        SPLIT | {"dns": ["10.8.0.1"]},
        SPLIT | {"address": "10.9.0.2/24", "address6": "fd09::2/64", "routes": [], "dns": ["10.9.0.1"]},
    ]
    with unchanged(topology, "client"):
        workers = [Worker(topology, "client", tmp_path, interface=name) for name in ("sv0", "sv1")]
        stays = 1 - first_to_go
        workers[stays]("configure_client", **settings[stays])
        alone = state(topology, "client")
        workers[stays]("restore")
        for worker, arguments in zip(workers, settings, strict=True):
            worker("configure_client", **arguments)
        assert "nameserver 10.9.0.1" in topology.resolv_conf("client").read_text()
        workers[first_to_go]("restore")
        assert state(topology, "client") == alone
        workers[stays]("restore")


@pytest.mark.parametrize("first_to_go", [0, 1])
def test_two_hubs_share_forwarding(topology: Topology, tmp_path: Path, first_to_go: int) -> None:
    """Forwarding is on while either lives, and what it was after the last."""
    other = {
        "address": "10.9.0.1/24",
        "address6": "fd09::1/64",
        "subnet": "10.9.0.0/24",
        "subnet6": "fd09::/64",
    }
    with unchanged(topology, "hub"):
        workers = [Worker(topology, "hub", tmp_path, interface=name) for name in ("sv0", "sv1")]
        workers[0]("configure_hub", **HUB)
        workers[1]("configure_hub", **HUB | other)
        workers[first_to_go]("restore")
        assert is_set(state(topology, "hub"), "ipv4/ip_forward", "1")
        workers[1 - first_to_go]("restore")


@pytest.mark.parametrize("first_to_go", [0, 1])
def test_two_tunnels_to_one_hub(topology: Topology, tmp_path: Path, first_to_go: int) -> None:
    """The way around both stays until the last of them goes."""
    settings = [
        SPLIT | {"routes": ["10.99.1.0/24"], "server_addresses": [INTERNET]},
        SPLIT | {"routes": ["10.99.0.0/16"], "server_addresses": [INTERNET], "address": "10.9.0.2/24"},
    ]
    settings[1] |= {"address6": None}
    with unchanged(topology, "client"):
        workers = [Worker(topology, "client", tmp_path, interface=name) for name in ("sv0", "sv1")]
        for worker, arguments in zip(workers, settings, strict=True):
            worker("configure_client", **arguments)
        workers[first_to_go]("restore")
        way = topology.run("client", "ip", "route", "get", INTERNET).stdout
        assert f"via {HUB_OUTER} dev outer" in way
        workers[1 - first_to_go]("restore")


# errors


def test_restore_without_changes(topology: Topology, tmp_path: Path) -> None:
    """Nothing to do, as often as one likes; after a restore too."""
    with unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path)
        client("restore")
        client("configure_client", **CLIENT)
        for _ in range(2):
            client("restore")
        assert client("restore_leftovers") == []


def test_an_interface_that_is_not_there(topology: Topology, tmp_path: Path) -> None:
    """It is named."""
    with unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path, interface="sv9")
        with refused(NotFoundError, "interface sv9 does not exist"):
            client("configure_client", **CLIENT)
        with refused(NotFoundError, "interface sv9 does not exist"):
            client("configure_hub", **HUB)


def test_a_wrong_value(topology: Topology, tmp_path: Path) -> None:
    """ConfigError names it before anything is changed."""
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("configure_client", CLIENT | {"address": "10.8.0.2/33"}, "address: "),
        ("configure_client", CLIENT | {"address6": "fd08::x/64"}, "address6: "),
        ("configure_client", CLIENT | {"routes": ["10.0.0.0/8", "all"]}, "routes[1]: "),
        ("configure_client", CLIENT | {"dns": ["one.example"]}, "dns[0]: "),
        ("configure_client", CLIENT | {"server_addresses": ["hub.example"]}, "serverAddresses[0]: "),
        ("configure_hub", HUB | {"subnet": "10.8.0"}, "subnet: "),
        ("configure_hub", HUB | {"subnet6": "fd08::/129"}, "subnet6: "),
    ]
    with unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path)
        for call, arguments, message in wrong:
            with pytest.raises(WorkerError) as caught:
                client(call, **arguments)
            assert (caught.value.kind, caught.value.message[: len(message)]) == (ConfigError, message)


def test_a_route_that_somebody_else_has(topology: Topology, tmp_path: Path) -> None:
    """It is not taken from them: ConflictError, and `restore` takes back what was done before."""
    route = f"10.20.0.0/16 via {HUB_OUTER}"
    theirs = beforehand(topology, "client", f"ip route add {route}", f"ip route del {route}")
    with theirs, unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path)
        with refused(ConflictError, "a route to 10.20.0.0/16 exists already, not through the tunnel"):
            client("configure_client", **SPLIT)
        client("restore")


def test_an_address_that_was_there_stays(topology: Topology, tmp_path: Path) -> None:
    """What the device had before, it has after."""
    address = "10.8.0.2/24 dev sv0"
    there = beforehand(topology, "client", f"ip address add {address}", f"ip address del {address}")
    with there, unchanged(topology, "client"):
        client = Worker(topology, "client", tmp_path)
        client("configure_client", **SPLIT)
        client("restore")


def test_another_process_manages_the_interface(topology: Topology, tmp_path: Path) -> None:
    """InvalidStateError names it, and neither `restore` nor a search for leftovers disturbs it."""
    with unchanged(topology, "client"):
        first, second = Worker(topology, "client", tmp_path), Worker(topology, "client", tmp_path)
        first("configure_client", **CLIENT)
        configured = state(topology, "client")
        with refused(InvalidStateError, f"interface sv0 is managed by the process {first.process.pid}"):
            second("configure_client", **SPLIT)
        second("restore")
        assert second("restore_leftovers") == []
        assert state(topology, "client") == configured
        first("restore")


def test_without_rights(topology: Topology, tmp_path: Path) -> None:
    """An ordinary user is told what is needed, and nothing is changed."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    with unchanged(topology, "client"), unchanged(topology, "hub"):
        client = Worker(topology, "client", tmp_path / "client", *AS_NOBODY)
        for call, arguments in (("configure_client", SPLIT), ("configure_hub", HUB)):
            with pytest.raises(WorkerError, match=r"not permitted|denied") as caught:
                client(call, **arguments)
            assert caught.value.kind is PermissionDeniedError
        forbidden = Worker(topology, "client", Path("/run/svtest/deep"), *AS_NOBODY)
        with refused(PermissionDeniedError, "cannot write to /run/svtest/deep: Permission denied"):
            forbidden("configure_client", **SPLIT)


def test_the_client_machine_is_what_the_tests_take_it_for(topology: Topology) -> None:
    """The comparison sees links, routes, rules, settings and name servers: it can fail."""
    before = state(topology, "client")
    assert link(before, "outer")["addresses"] == [f"{CLIENT_OUTER}/24", "fd99::2/64"]
    changes = {
        "links": ("ip link set sv0 mtu 1000", "ip link set sv0 mtu 1500"),
        "routes": ("ip route add 192.0.2.0/24 dev outer", "ip route del 192.0.2.0/24"),
        "nftables": ("nft add table inet x", "nft delete table inet x"),
        "settings": (f"echo 1 > {IP_FORWARD}", f"echo 0 > {IP_FORWARD}"),
        "resolv.conf": (
            "echo >> /etc/resolv.conf",
            f"printf %s '{before['resolv.conf']}' > /etc/resolv.conf",
        ),
    }
    for part, (change, back) in changes.items():
        with beforehand(topology, "client", change, back):
            after = state(topology, "client")
            assert after[part] != before[part], part
