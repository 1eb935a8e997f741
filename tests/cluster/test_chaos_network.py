"""Brokers and meta nodes on hosts of their own, whose links are cut, cut one way, and flap; clients still reach everybody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.checker import Load, pause
from tests.cluster.faults import SOME
from tests.cluster.namespaces import Network, unavailable
from tests.cluster.processes import Cluster
from tests.cluster.replicas import agree

pytestmark = pytest.mark.anyio

DAY_S: Final = 86_400
# Elections and ends of leases must come from the cuts, not from a machine that is busy for half a second.
CALM: Final = {"lease_s": 1.5, "session_s": 2.4}
LONGER_S: Final = 1.5 * CALM["session_s"]

Cut = Callable[[Cluster, Load, Network], Awaitable[None]]


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(["n0", "n1", "n2", "b0", "b1", "b2"]) as made:
        yield made


async def isolate_owner(cluster: Cluster, load: Load, network: Network) -> None:
    """Nothing gets to or from the owner of a mailbox for longer than its session, clients neither."""
    name = await cluster.owner(load.mailboxes[0])
    network.isolate(name)
    await pause(LONGER_S)
    await load.acknowledged(SOME)
    assert await cluster.owner(load.mailboxes[0]) != name
    network.rejoin(name)
    await cluster.settled()


async def cut_owner_off(cluster: Cluster, load: Load, network: Network) -> None:
    """Clients reach the owner of a mailbox, and nobody else in the cluster does."""
    name = await cluster.owner(load.mailboxes[0])
    others = [each for each in (*cluster.metas.names, *cluster.names) if each != name]
    for other in others:
        network.block(name, other)
        network.block(other, name)
    await pause(LONGER_S)
    await load.acknowledged(SOME)
    assert await cluster.owner(load.mailboxes[0]) != name
    for other in others:
        network.unblock(name, other)
        network.unblock(other, name)
    await cluster.settled()


async def cut_owner_from_meta(cluster: Cluster, load: Load, network: Network) -> None:
    """The owner of a mailbox cannot reach the meta service; its clients and replicas it can."""
    name = await cluster.owner(load.mailboxes[0])
    for meta in cluster.metas.names:
        network.block(name, meta)
    await pause(LONGER_S)
    await load.acknowledged(SOME)
    assert await cluster.owner(load.mailboxes[0]) != name
    for meta in cluster.metas.names:
        network.unblock(name, meta)
    await cluster.settled()


async def owner_is_deaf(cluster: Cluster, load: Load, network: Network) -> None:
    """What the owner's replicas say does not reach it; what it says reaches them, and the meta service hears it. It gives up
    what it cannot write."""
    name = await cluster.owner(load.mailboxes[0])
    others = [each for each in cluster.names if each != name]
    for other in others:
        network.block(other, name)
    await pause(LONGER_S)
    await load.acknowledged(SOME)
    for other in others:
        network.unblock(other, name)
    await cluster.settled()


async def one_way_between_two(cluster: Cluster, load: Load, network: Network) -> None:
    """One replica is not heard by the owner, who is heard by it; with everybody else both can talk. What a client of the one
    asks of the other waits."""
    name = await cluster.owner(load.mailboxes[0])
    other = next(each for each in cluster.names if each != name)
    network.block(other, name)
    await pause(LONGER_S)
    network.unblock(other, name)
    await cluster.settled()


async def flapping(cluster: Cluster, load: Load, network: Network) -> None:
    """Links go and come back before and after sessions end."""
    for number in range(6):
        name = cluster.names[number % 3]
        network.isolate(name)
        await pause(0.3 if number % 2 else LONGER_S / 2)
        network.rejoin(name)
        await load.acknowledged(SOME // 4)
    await cluster.settled()


async def isolate_meta_leader(cluster: Cluster, load: Load, network: Network) -> None:
    """The leader of the meta service is alone; data does not wait for it."""
    leader = await cluster.metas.leader()
    network.isolate(leader)
    await load.acknowledged(SOME)
    await cluster.metas.leader(other_than=leader)
    network.rejoin(leader)
    await cluster.settled()


async def storm(directory: Path, network: Network, cuts: tuple[Cut, ...]) -> None:
    async with Cluster(directory, network=network, meta_settings=CALM, dedup_window_s=DAY_S) as cluster:
        load = Load(cluster)
        await load.begin()
        try:
            await load.acknowledged(SOME)
            for cut in cuts:
                await cut(cluster, load, network)
                await load.acknowledged(SOME)
            await load.finish()
        finally:
            await load.disconnect()
        tally = await load.check(", ".join(cut.__name__ for cut in cuts))
        tally.check()
        assert tally.acknowledged > SOME * len(cuts), str(tally)
        await agree(cluster)


async def test_nothing_is_lost_between_those_who_cannot_hear_each_other(tmp_path: Path, network: Network) -> None:
    await storm(tmp_path, network, (cut_owner_off, owner_is_deaf))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "cut",
    [
        isolate_owner, cut_owner_off, cut_owner_from_meta, owner_is_deaf, one_way_between_two, flapping, isolate_meta_leader,
    ],
    ids=lambda cut: cut.__name__,
)  # fmt: skip
async def test_a_cut_again_and_again(tmp_path: Path, network: Network, cut: Cut) -> None:
    await storm(tmp_path, network, (cut,) * 4)
