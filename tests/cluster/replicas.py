"""The disks of a cluster, compared: replicas of a slot that are in sync have the same rows."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from zlib import crc32

import lmdb

from broker_node.cluster.slot_log import SLOT_TABLES
from mq9.storage.interface import TABLE_COUNT
from tests.cluster.processes import Cluster
from tests.meta.cluster import until

State = dict[int, tuple[int, int]]  # slot -> (rows, checksum over them)


def state(directory: Path) -> State:
    """What a broker has of each slot, by one consistent read; it may run."""
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    with lmdb.open(str(directory), readonly=True, max_dbs=TABLE_COUNT + 8) as env:
        tables = [env.open_db(table.name.encode(), create=False) for table in SLOT_TABLES]
        with env.begin() as txn:
            for table in tables:
                for key, value in txn.cursor(db=table):
                    row = found[int.from_bytes(key[:2])]
                    row[0] += 1
                    row[1] = crc32(value, crc32(key, row[1]))
    return {slot: (count, checksum) for slot, (count, checksum) in found.items()}


async def agree(cluster: Cluster) -> None:
    """Wait until all replicas in sync are the same: they are when nothing is written, and nobody writes now."""
    seen: list[str] = []

    async def same() -> bool:
        view = await cluster.view()
        states = {name: state(cluster.brokers[name].data_dir) for name in cluster.names if cluster.brokers[name].running}
        seen[:] = [
            f"slot {slot.slot}: {there}"
            for slot in view.slots
            if len(set((there := {name: states[name].get(slot.slot, (0, 0)) for name in slot.isr}).values())) != 1
        ]
        return not seen

    try:
        await until("replicas to be the same", same)
    except AssertionError as failure:
        raise AssertionError(f"{failure}: {'; '.join(seen)}") from None
