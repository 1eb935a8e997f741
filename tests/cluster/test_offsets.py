"""How far consumers have confirmed reaches the meta service, at once or when there is one again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from broker_node.cluster.offsets import Offsets
from broker_node.mailbox.model import GroupRow
from mq9.meta.client import MetaClient
from mq9.storage.layout import group_key, slot_of
from mq9.storage.records import seal
from tests.cluster.processes import Cluster
from tests.meta.cluster import STORE, MetaCluster, found, until
from tests.support.raw import RawClient

pytestmark = pytest.mark.anyio

BOX = b"offsets"
FETCH = {"group_name": "g", "deliver": "earliest", "config": {"num_msgs": 1, "max_wait_ms": 0}}


def confirm_one(client: RawClient) -> int:
    """The id of one more message that the group has sent, fetched and confirmed."""
    assert not client.call(b"$mq9.AI.MSG.SEND." + BOX, b"a")["error"]
    [message] = client.call(b"$mq9.AI.MSG.FETCH." + BOX, FETCH)["messages"]
    ack = {"group_name": "g", "mail_address": BOX.decode(), "msg_id": message["msg_id"]}
    assert not client.call(b"$mq9.AI.MSG.ACK." + BOX, ack)["error"]
    return int(message["msg_id"])


async def heard(meta: MetaClient, slot: int, floor: int) -> None:
    """Wait until the meta service has the group's floor."""

    async def is_there() -> bool:
        return any(each.floor >= floor for each in await meta.offsets(slot))

    await until(f"a floor of {floor}", is_there)


async def test_what_is_confirmed_reaches_the_meta_service(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        with cluster.brokers[cluster.names[0]].dial() as client:
            client.connect()
            assert not client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": BOX.decode()})["error"]
            confirmed = confirm_one(client)
        async with cluster.client() as meta:
            await heard(meta, slot_of(BOX, cluster.slots), confirmed)


async def test_what_the_meta_service_could_not_take_is_said_again(tmp_path: Path) -> None:
    """It was forgotten, and the lag that is shown was too large until the same group confirmed more."""
    async with MetaCluster(tmp_path, size=1, **STORE) as cluster, cluster.client(deadline_s=0.2) as client:
        slot = (await found(cluster)).slots[0]
        offsets = Offsets(client)
        cluster.kill()
        mailbox = slot.slot << 48 | 1
        key = group_key(mailbox, b"g")
        row = seal(key, msgspec.msgpack.encode(GroupRow(1, (0, 7, 0))))
        offsets.changed(slot.epoch, ({key: row}, {}))
        for is_waiting in (False, True):  # it is being said; it could not be said

            async def is_so(is_waiting: bool = is_waiting) -> bool:
                return bool(offsets.waiting) is is_waiting

            await until("the floor to be tried", is_so)
        cluster.start()
        async with cluster.client() as meta:
            await heard(meta, slot.slot, 7)
        offsets.close()
