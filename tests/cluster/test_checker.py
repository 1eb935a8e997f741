"""The load of the chaos tests itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cluster.checker import Load
from tests.cluster.processes import Cluster

pytestmark = pytest.mark.anyio


async def test_a_load_comes_to_rest_whose_last_client_loses_its_broker_while_it_waits(tmp_path: Path) -> None:
    alone = {"replication_factor": 1, "min_in_sync": 1}
    async with Cluster(tmp_path, metas=1, brokers=1, meta_settings=alone) as cluster:
        load = Load(cluster, mailboxes=())  # one client is left, who registers agents
        await load.begin()
        await load.until(lambda: len(load.ledger.answers) > 10)
        cluster.pause("b0")  # it answers nothing more of what is asked
        rest = asyncio.ensure_future(load.finish())
        await asyncio.to_thread(killed_and_started, cluster)
        await rest
        (await load.check("lost its broker")).check()


def killed_and_started(cluster: Cluster) -> None:
    cluster.kill("b0")
    cluster.start("b0")
