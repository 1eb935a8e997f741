"""Networks that are cut: nodes in network namespaces of their own, links taken down, ways blocked in one direction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.namespaces import Network, unavailable
from tests.meta.cluster import STORE, Load, MetaCluster, Place, found, until
from tests.meta.test_crash import judge

# Elections must come from the cuts, not from a machine that is busy for half a second.
CALM = {**STORE, "election_min_s": 1.0, "election_max_s": 2.0, "token": "for the API"}


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(["n0", "n1", "n2"]) as made:
        yield made


def cluster_on(network: Network, directory: Path) -> MetaCluster:
    places = {name: Place(host, 9423, 9323) for name, host in network.hosts.items()}
    return MetaCluster(directory, places=places, wrap=network.wrap, **CALM)


async def term(cluster: MetaCluster, name: str) -> int:
    status = await cluster.status(name)
    assert status is not None
    return status.term


async def caught_up(cluster: MetaCluster, name: str) -> None:
    async def level() -> bool:
        statuses = [await cluster.status(each) for each in cluster.names]
        found = {each.node: each for each in statuses if each is not None}
        return (
            len(found) == 3
            and found[name].leader != ""
            and found[name].applied_index + 50 > max(each.applied_index for each in found.values())
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
