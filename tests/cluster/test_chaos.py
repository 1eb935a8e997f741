"""Real processes under load while brokers and meta nodes are killed, stopped, wiped and restarted: nothing acknowledged is lost,
nothing stored twice, and nothing handed out again after its ACK was answered."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.cluster import faults
from tests.cluster.checker import Load
from tests.cluster.processes import Cluster
from tests.cluster.replicas import agree

pytestmark = pytest.mark.anyio

Fault = Callable[[Cluster, Load], Awaitable[None]]
DAY_S = 86_400
LONG_ROUNDS = 40

# What CI has time for; the others are in `make long`.
SOON = (faults.kill_owner, faults.pause_owner, faults.wipe)
LATER = (faults.kill_meta_leader, faults.kill_brokers, faults.rolling_restart)


async def storm(directory: Path, todo: list[Fault], seed: int = 1) -> None:
    """One fault after the other, and a judgement at the end."""
    async with Cluster(directory, dedup_window_s=DAY_S) as cluster:
        load = Load(cluster, seed=seed)
        await load.begin()
        try:
            await load.acknowledged(faults.SOME)
            for fault in todo:
                await fault(cluster, load)
            await load.finish()
        finally:
            await load.disconnect()
        tally = await load.check(", ".join(fault.__name__ for fault in todo))
        tally.check()
        assert tally.acknowledged > faults.SOME * len(todo), str(tally)
        await agree(cluster)


@pytest.mark.parametrize("todo", [SOON, LATER], ids=lambda todo: "+".join(fault.__name__ for fault in todo))
async def test_what_was_acknowledged_outlives_any_broker(tmp_path: Path, todo: tuple[Fault, ...]) -> None:
    await storm(tmp_path, list(todo))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.__name__)
async def test_a_fault_again_and_again(tmp_path: Path, fault: Fault) -> None:
    await storm(tmp_path, [fault] * 5, seed=7)


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_many_faults_in_any_order(tmp_path: Path) -> None:
    rng = random.Random(11)
    await storm(tmp_path, [rng.choice(faults.FAULTS) for _ in range(LONG_ROUNDS)], seed=11)
