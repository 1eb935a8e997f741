"""Hosts made of network namespaces on one bridge: processes that reach each other over links that a test can cut.

    with Network(["n0", "b0"]) as network:
        Process([*network.wrap("n0"), ...])       # runs at network.hosts["n0"]
        network.isolate("n0"); network.rejoin("n0")
        network.block("n0", "b0"); network.unblock("n0", "b0")     # that one direction

The test itself is on the bridge too, and reaches all of them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable
from typing import Self


def ip(*arguments: str, check: bool = True) -> bool:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True).returncode == 0


def unavailable() -> str:
    """Why this machine cannot do it; empty when it can."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = f"mq9p{os.getpid()}"
    if not ip("netns", "add", probe, check=False):
        return "network namespaces cannot be made here"
    bridged = ip("link", "add", probe, "type", "bridge", check=False)
    if bridged:
        ip("link", "del", probe)
    ip("netns", "del", probe)
    return "" if bridged else "bridges cannot be made here"


class Network:
    """A bridge, and one namespace for each host on it."""

    def __init__(self, names: Iterable[str]) -> None:
        tag = secrets.token_hex(3)  # names of links are short, and those of the last test may not be gone yet
        self._bridge = f"mq9b{tag}"
        self._prefix = f"10.{200 + int(tag[:2], 16) % 50}.{int(tag[2:4], 16)}"
        names = list(names)
        self._spaces = {name: f"mq9-{tag}-{name}" for name in names}
        self._links = {name: f"mq{tag}{name}" for name in names}
        self.hosts = {name: f"{self._prefix}.{number + 2}" for number, name in enumerate(names)}

    def __enter__(self) -> Self:
        ip("link", "add", self._bridge, "type", "bridge")
        ip("addr", "add", f"{self._prefix}.1/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        for name, space in self._spaces.items():
            ip("netns", "add", space)
            ip("link", "add", self._links[name], "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", self._links[name], "master", self._bridge, "up")
            ip("-n", space, "addr", "add", f"{self.hosts[name]}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for link in (*self._links.values(), self._bridge):
            ip("link", "del", link, check=False)
        for space in self._spaces.values():
            ip("netns", "del", space, check=False)

    def wrap(self, name: str) -> list[str]:
        """What a command is put behind to run on that host."""
        return ["ip", "netns", "exec", self._spaces[name]]

    def isolate(self, name: str) -> None:
        """Nothing gets in or out."""
        ip("link", "set", self._links[name], "down")

    def rejoin(self, name: str) -> None:
        ip("link", "set", self._links[name], "up")

    def block(self, sender: str, receiver: str) -> None:
        """Nothing gets from one to the other; the other way is open."""
        ip("-n", self._spaces[sender], "route", "add", "blackhole", f"{self.hosts[receiver]}/32")

    def unblock(self, sender: str, receiver: str) -> None:
        ip("-n", self._spaces[sender], "route", "del", "blackhole", f"{self.hosts[receiver]}/32")
