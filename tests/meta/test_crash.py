"""kill -9, stops and wiped disks under load: nothing that was acknowledged is lost, and the service goes on."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.meta.cluster import STORE, Load, MetaCluster, Report, found, until

pytestmark = pytest.mark.anyio


def judge(report: Report) -> None:
    print(report)  # noqa: T201  # the figures are the point of a run with -s
    assert (report.lost, report.wrong) == (0, 0), report


async def kill_all(directory: Path, rounds: int, writes: int) -> None:
    async with MetaCluster(directory, **STORE) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            for _ in range(rounds):
                await load.acknowledged(writes)
                cluster.kill()
                cluster.start()
            await load.acknowledged(10)
        judge(await load.check())


async def test_killing_all_nodes_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """The journal is compacted every 2,000 entries, so some of the kills are in the middle of that."""
    await kill_all(tmp_path, rounds=3, writes=800)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_killing_all_nodes_many_times_loses_nothing_acknowledged(tmp_path: Path) -> None:
    await kill_all(tmp_path, rounds=40, writes=2500)


async def kill_leaders(directory: Path, rounds: int) -> list[float]:
    """Kill the leader while another node is catching up; times from kill to the next acknowledged write."""
    gaps: list[float] = []
    async with MetaCluster(directory, **STORE) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            for _ in range(rounds):
                leader = await cluster.leader()
                behind = next(name for name in cluster.names if name != leader)
                cluster.kill(behind)
                await load.acknowledged(700)
                cluster.start(behind)  # it listens, and has 700 entries to catch up with
                killed_s = time.monotonic()
                cluster.kill(leader)
                await load.acknowledged(20)
                gaps.append(load.silence_after(killed_s))
                cluster.start(leader)
                await load.acknowledged(20)
        judge(await load.check())
    return gaps


async def test_killing_a_leader_while_a_follower_catches_up_loses_nothing(tmp_path: Path) -> None:
    await kill_leaders(tmp_path, rounds=2)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_killing_many_leaders_while_followers_catch_up_loses_nothing(tmp_path: Path) -> None:
    gaps = sorted(await kill_leaders(tmp_path, rounds=20))
    print(f"kill of the leader to the next write: median {gaps[len(gaps) // 2]:.3f} s, max {gaps[-1]:.3f} s")  # noqa: T201


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_how_long_a_killed_leader_is_missed(tmp_path: Path) -> None:
    """Prints figures: from kill -9 of the leader to the next acknowledged write of sixteen writers."""
    gaps: list[float] = []
    async with MetaCluster(tmp_path, **STORE) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            for _ in range(20):
                leader = await cluster.leader()
                await load.acknowledged(50)
                killed_s = time.monotonic()
                cluster.kill(leader)
                await load.acknowledged(20)
                gaps.append(load.silence_after(killed_s))
                cluster.start(leader)
        judge(await load.check())
    gaps.sort()
    print(f"kill of the leader to the next write: median {gaps[10]:.3f} s, max {gaps[-1]:.3f} s")  # noqa: T201


async def test_a_stopped_leader_is_replaced_and_comes_back_as_a_follower(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, **STORE) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            await load.acknowledged(300)
            leader = await cluster.leader()
            cluster.processes[leader].signal(signal.SIGSTOP)
            successor = await cluster.leader(other_than=leader)
            await load.acknowledged(300)
            cluster.processes[leader].signal(signal.SIGCONT)

            async def follows() -> bool:
                status = await cluster.status(leader)
                return status is not None and status.role == "follower" and status.leader != leader

            await until(f"{leader} to follow", follows)
            await load.acknowledged(300)
        assert successor != leader
        judge(await load.check())


async def test_a_full_disk_stops_its_node_alone(tmp_path: Path, small_disk: Path) -> None:
    """Where stock PySyncObj dies of SIGBUS and takes what is in the page cache with it."""
    async with MetaCluster(tmp_path, **{**STORE, "log_entries_max": 1_000_000}) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            code = await asyncio.to_thread(cluster.processes[small_disk.name].wait, 60.0)
            await load.acknowledged(100)
        assert code == 1
        assert "this meta node stops: storage failed" in cluster.processes[small_disk.name].log
        judge(await load.check())


async def test_a_node_that_stops_hands_its_leadership_on(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, **STORE) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            await load.acknowledged(100)
            leader = await cluster.leader()
            assert cluster.processes[leader].stop() == 0
            await load.acknowledged(100)
            cluster.start(leader)
        judge(await load.check())


async def test_a_node_with_an_empty_disk_is_filled_and_then_counts(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, **STORE) as cluster:
        await found(cluster)
        async with Load(cluster) as load:
            await load.acknowledged(3000)  # more than the journal keeps: the empty node needs a snapshot
            wiped = next(name for name in cluster.names if name != "n0")
            cluster.kill(wiped)
            shutil.rmtree(cluster.data(wiped))
            cluster.start(wiped)
            await until(f"{wiped} to be a member again", lambda: _is_member(cluster, wiped))
            await load.acknowledged(100)
            others = [name for name in cluster.names if name != wiped]
            cluster.kill(others[0])  # from here on the refilled node is needed for every commit
            await load.acknowledged(100)
            cluster.start(others[0])
        judge(await load.check())
        assert "taking the snapshot" in cluster.log()


async def _is_member(cluster: MetaCluster, name: str) -> bool:
    status = await cluster.status(name)
    return status is not None and status.role in {"follower", "leader"}


async def test_two_wiped_disks_stop_the_service_and_never_found_a_new_cluster(tmp_path: Path) -> None:
    """Two of three have forgotten everything: a majority of the forgetful must not agree on an empty state."""
    async with MetaCluster(tmp_path, **STORE) as cluster:
        view = await found(cluster)
        cluster.kill()
        for name in ("n1", "n2"):
            shutil.rmtree(cluster.data(name))
        cluster.start()

        async def joining() -> bool:
            statuses = [await cluster.status(name) for name in ("n1", "n2")]
            return all(status is not None and status.role == "joining" and status.connected for status in statuses)

        await until("the empty nodes to wait", joining)
        for name in cluster.names:
            status = await cluster.status(name)
            assert status is not None
            assert status.role != "leader"
            assert status.cluster_id in {b"", view.config.cluster_id}
