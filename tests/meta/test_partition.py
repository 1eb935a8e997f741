"""Networks that are cut: nodes in network namespaces of their own, links taken down, ways blocked in one direction."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.meta.cluster import STORE, Load, MetaCluster, Place, found, until
from tests.meta.test_crash import judge

# Elections must come from the cuts, not from a machine that is busy for half a second.
CALM = {**STORE, "election_min_s": 1.0, "election_max_s": 2.0, "token": "for the API"}


def ip(*arguments: str, check: bool = True) -> bool:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True).returncode == 0


def unavailable() -> str:
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


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)


class Network:
    """A bridge, and one namespace for each node on it; the test itself is on the bridge too."""

    def __init__(self, names: list[str]) -> None:
        tag = secrets.token_hex(3)  # names of links are short, and those of the last test may not be gone yet
        self._bridge = f"mq9b{tag}"
        self._prefix = f"10.{200 + int(tag[:2], 16) % 50}.{int(tag[2:4], 16)}"
        self._spaces = {name: f"mq9-{tag}-{name}" for name in names}
        self._links = {name: f"mq{tag}{name}" for name in names}
        self.places = {name: Place(f"{self._prefix}.{number + 2}", 9423, 9323) for number, name in enumerate(names)}

    def __enter__(self) -> Self:
        ip("link", "add", self._bridge, "type", "bridge")
        ip("addr", "add", f"{self._prefix}.1/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        for name, space in self._spaces.items():
            ip("netns", "add", space)
            ip("link", "add", self._links[name], "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", self._links[name], "master", self._bridge, "up")
            ip("-n", space, "addr", "add", f"{self.places[name].host}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for link in (*self._links.values(), self._bridge):
            ip("link", "del", link, check=False)
        for space in self._spaces.values():
            ip("netns", "del", space, check=False)

    def wrap(self, name: str) -> list[str]:
        return ["ip", "netns", "exec", self._spaces[name]]

    def isolate(self, name: str) -> None:
        """Nothing gets in or out."""
        ip("link", "set", self._links[name], "down")

    def rejoin(self, name: str) -> None:
        ip("link", "set", self._links[name], "up")

    def block(self, sender: str, receiver: str) -> None:
        """Nothing gets from one to the other; the other way is open."""
        ip("-n", self._spaces[sender], "route", "add", "blackhole", f"{self.places[receiver].host}/32")

    def unblock(self, sender: str, receiver: str) -> None:
        ip("-n", self._spaces[sender], "route", "del", "blackhole", f"{self.places[receiver].host}/32")


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(["n0", "n1", "n2"]) as made:
        yield made


def cluster_on(network: Network, directory: Path) -> MetaCluster:
    return MetaCluster(directory, places=network.places, wrap=network.wrap, **CALM)


async def term(cluster: MetaCluster, name: str) -> int:
    status = await cluster.status(name)
    assert status is not None
    return status.term


async def caught_up(cluster: MetaCluster, name: str) -> None:
    async def level() -> bool:
        statuses = [await cluster.status(each) for each in cluster.names]
        found = {each.node: each for each in statuses if each is not None}
        return len(found) == 3 and found[name].leader != "" and found[name].applied_index + 50 > max(
            each.applied_index for each in found.values()
        )

    await until(f"{name} to catch up", level)


@pytest.mark.anyio
async def test_an_isolated_leader_is_replaced_and_loses_nothing(network: Network, tmp_path: Path) -> None:
    async with cluster_on(network, tmp_path) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            await load.acknowledged(200)
            leader = await cluster.leader()
            cut_s = time.monotonic()
            network.isolate(leader)
            await load.acknowledged(200)
            print(f"isolated leader: {load.silence_after(cut_s):.3f} s without a write")  # noqa: T201
            successor = await cluster.leader(other_than=leader)
            before = await term(cluster, successor)
            network.rejoin(leader)
            await caught_up(cluster, leader)
            assert await term(cluster, successor) == before, "who comes back deposes nobody"
        judge(await load.check())


@pytest.mark.anyio
async def test_an_isolated_follower_disturbs_nobody_when_it_is_back(network: Network, tmp_path: Path) -> None:
    async with cluster_on(network, tmp_path) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            leader = await cluster.leader()
            follower = next(name for name in cluster.names if name != leader)
            before = await term(cluster, leader)
            network.isolate(follower)
            await load.acknowledged(3000)  # several election timeouts
            network.rejoin(follower)
            await caught_up(cluster, follower)
            assert (await cluster.leader(), await term(cluster, leader)) == (leader, before)
        judge(await load.check())


@pytest.mark.long
@pytest.mark.anyio
async def test_a_way_that_is_blocked_in_one_direction(network: Network, tmp_path: Path) -> None:
    """The follower hears no heartbeats; the other follower does, and does not help it to an election."""
    async with cluster_on(network, tmp_path) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            leader = await cluster.leader()
            deaf = next(name for name in cluster.names if name != leader)
            before = await term(cluster, leader)
            network.block(leader, deaf)
            await load.acknowledged(3000)
            assert (await cluster.leader(), await term(cluster, leader)) == (leader, before)
            network.unblock(leader, deaf)
            await caught_up(cluster, deaf)
        judge(await load.check())


@pytest.mark.anyio
async def test_a_leader_that_cannot_be_heard_gives_way(network: Network, tmp_path: Path) -> None:
    async with cluster_on(network, tmp_path) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            await load.acknowledged(100)
            leader = await cluster.leader()
            others = [name for name in cluster.names if name != leader]
            for other in others:
                network.block(leader, other)
            await load.acknowledged(200)
            for other in others:
                network.unblock(leader, other)
            await caught_up(cluster, leader)
        judge(await load.check())


@pytest.mark.long
@pytest.mark.anyio
async def test_links_that_flap(network: Network, tmp_path: Path) -> None:
    async with cluster_on(network, tmp_path) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            for number in range(6):
                name = cluster.names[number % 3]
                network.isolate(name)
                await load.acknowledged(60)
                network.rejoin(name)
                await load.acknowledged(20)
        judge(await load.check())
