"""The commits of a node, in which its leaders' entries are."""

from __future__ import annotations

import pytest

from mq9.errors import Mq9Error, StorageError
from mq9.limits import COMMIT_OPS_MAX
from mq9.storage.interface import Table
from mq9.storage.records import seal
from mq9.v1 import meta_pb2 as meta
from tests.cluster.alone import SLOT, Alone

KEY = SLOT.to_bytes(2) + bytes(15)


@pytest.fixture
def alone() -> Alone:
    made = Alone()
    made.begin()
    made.ticks(50)
    assert SLOT in made.served
    return made


@pytest.mark.parametrize("too_few", [2, 1, 0, -1])
def test_an_entry_is_durable_when_it_is_answered_also_at_the_end_of_a_full_commit(alone: Alone, too_few: int) -> None:
    """As many wait for one commit as may, or nearly: one of them is the leader of a slot that has something new."""
    for _ in range(COMMIT_OPS_MAX // 4 - too_few):
        alone.commit.then(nobody_waits)
    found: list[bytes | None] = []

    def written(failure: Mq9Error | None) -> None:
        assert failure is None
        found.append(alone.store.get(Table.MESSAGE, KEY))

    staged = alone.served[SLOT]
    staged.batch.put(Table.MESSAGE, KEY, seal(KEY, b"x"))
    staged.then(written)
    alone.loop.run()
    assert found == [seal(KEY, b"x")]


def test_whoever_asks_a_slot_that_is_led_no_more_is_told_so(alone: Alone) -> None:
    """Also one who asks because of what it is told, and where something was staged that is now nobody's."""
    staged = alone.served[SLOT]
    told: list[str] = []

    def asks_again(failure: Mq9Error | None) -> None:
        told.append("" if failure is None else failure.code)
        if len(told) < 3:
            staged.then(asks_again)

    staged.then(asks_again)
    alone.changed(meta.Slot(slot=SLOT, epoch=6, ver=6, primary="b", replicas="abc", isr="ab"))
    alone.ticks()
    assert told == ["UNAVAILABLE"] * 3
    staged.then(asks_again)
    assert told == ["UNAVAILABLE"] * 4


def test_what_a_leader_cannot_read_for_a_replica_is_met_like_any_damage(alone: Alone) -> None:
    """Whether the slot is given up for it is decided where it is known who has it whole."""
    damage = StorageError("DATA_DAMAGED", "a row")
    alone.replicator.damaged(SLOT, damage)
    assert alone.damages == [(SLOT, damage)]
    assert SLOT in alone.served
    alone.replicator.give_up(SLOT, damage)
    assert SLOT not in alone.served
    assert alone.given_up == 1
    assert alone.replicator.followers[SLOT].log.copying, "it takes a whole copy from whoever leads now"


def nobody_waits(failure: Mq9Error | None) -> None:
    assert failure is None
