"""A small name server on one of the machines: it knows what it was told last, and who asked."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.netns.topology import Topology

# It answers from the address that was asked (IPV6_PKTINFO), and nothing lives longer than its answer.
_SERVER = """
import ipaddress, json, socket, struct, sys
zone, asked = sys.argv[1:]
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
server.bind(("::", 53))
print("ready", flush=True)
while True:
    query, control, _, peer = server.recvmsg(2000, 500)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    name, question = ".".join(labels), query[12 : at + 5]
    [kind] = struct.unpack("!H", query[at + 1 : at + 3])
    known = [ipaddress.ip_address(each) for each in json.load(open(zone)).get(name, [])]
    records = [each.packed for each in known if {4: 1, 6: 28}[each.version] == kind]
    header = struct.pack("!HHHHH", 0x8180 if known else 0x8183, 1, len(records), 0, 0)
    answer = query[:2] + header + question
    for data in records:
        answer += struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(data)) + data
    source = control[0][2][:16] + bytes(4)
    server.sendmsg([answer], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)], 0, peer)
    with open(asked, "a") as log:
        print(peer[0].removeprefix("::ffff:"), name, file=log)
"""


class NameServer:
    """On every address of the machine, until the end of the test."""

    def __init__(self, machine: Topology, role: str) -> None:
        folder = Path(tempfile.mkdtemp(dir=machine.state_dir(role)))
        self._zone, self._asked = folder / "zone", folder / "asked"
        self._asked.touch()
        self.knows("", [])
        command = (sys.executable, "-c", _SERVER, str(self._zone), str(self._asked))
        process = machine.popen(role, *command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

    def knows(self, name: str, addresses: list[str]) -> None:
        """From now on the name has these addresses, and there is no other name."""
        fresh = self._zone.with_suffix(".fresh")
        fresh.write_text(json.dumps({name: addresses}))
        fresh.replace(self._zone)

    def askers(self, name: str) -> list[str]:
        """The addresses from which the name was asked for so far, in order."""
        lines = (line.split() for line in self._asked.read_text().splitlines())
        return [line[0] for line in lines if line[1:] == [name]]
