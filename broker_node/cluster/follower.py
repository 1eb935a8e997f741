"""Following in one slot: put down what its leader says, in order, and say when it is on disk.

The rule that everything rests on: an entry is put down only by a replica that is exactly where the entry goes on, or as a
repair made for the position that this replica named in its latest answer to a probe. Whoever leads in an older epoch than is
known here is refused. Nothing is acknowledged before the node's commit has returned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from broker_node.cluster.host import Host
from broker_node.cluster.slot_log import (
    SLOT_TABLES,
    SlotLog,
    common_point,
    decode_rows,
    encode,
    read_history,
    sequence_key,
    slot_range,
)
from mq9.errors import Mq9Error, StorageError
from mq9.storage.interface import Table
from mq9.v1 import peer_pb2 as peer

log = logging.getLogger("mq9.cluster")

_WIPE_ROWS: Final = 5000  # deleted in one commit


class Follower:
    """See the module. `epoch` is the newest that this node has heard of."""

    __slots__ = ("_answers_to", "_copy", "_part", "epoch", "host", "is_wiping", "log", "slot", "ver")

    def __init__(self, host: Host, slot_log: SlotLog, epoch: int) -> None:
        self.host = host
        self.log = slot_log
        self.slot = slot_log.slot
        self.epoch = max(epoch, slot_log.epoch)
        self.ver = 0  # of the newest view of the slot by which a leader gave this node something
        self._answers_to = 0  # the probe that was answered last: a repair made for it may come
        self._copy = 0  # the copy that is being put down
        self._part = 0
        self.is_wiping = False

    def heard(self, epoch: int) -> None:
        """Somebody leads in `epoch`, or did."""
        if epoch > self.epoch:
            self.epoch = epoch
            self._answers_to = self._copy = 0

    # --- Entries --------------------------------------------------------------------------------------------------

    def append(self, node: str, message: peer.Append) -> None:
        """An entry, a repair or a probe from `node`."""
        if message.epoch < self.epoch:
            self._answer(node, peer.AppendAck.STALE_EPOCH, 0)
            return
        self.heard(message.epoch)
        self.ver = max(self.ver, message.ver)
        if message.repair:
            self._repair(node, message)
        elif message.probe:
            self._answers_to = 0  # until the answer has gone, nothing can be made for it
            self.host.commit.then(self._answer_probe, node, message)
        elif message.previous != self.log.last or self.log.copying or self.is_wiping:
            self._answer(node, peer.AppendAck.MISMATCH, self.log.last)
        else:
            self._answers_to = 0
            if self.log.epoch < message.epoch:
                self.log.begin_epoch(message.epoch)
            self._put(node, message)

    def _put(self, node: str, message: peer.Append) -> None:
        self.log.append(self.host.commit.batch, message.offset, decode_rows(message.rows))
        self.host.commit.then(self._durable, node, message.epoch, message.offset)

    def _durable(self, failure: Mq9Error | None, node: str, epoch: int, offset: int) -> None:
        if epoch != self.epoch:
            return  # another leads by now; it asks for the position
        if failure is not None:
            self._answer(node, peer.AppendAck.FAILED, 0)
        else:
            self._answer(node, peer.AppendAck.ACCEPTED, offset)

    def _answer_probe(self, failure: Mq9Error | None, node: str, probe: peer.Append) -> None:
        """Everything put down before is on disk: say where this replica is, and what it has beyond the common point."""
        if failure is not None or probe.epoch != self.epoch:
            return
        position = peer.Position(offset=self.log.last, log_start=self.log.log_start, copying=self.log.copying or self.is_wiping)
        position.history.extend(peer.EpochStart(epoch=epoch, start=start) for epoch, start in self.log.history)
        common = common_point(self.log.history, self.log.last, read_history(probe.history), probe.offset)
        keys = b""
        if common < self.log.last and not position.copying:
            if common + 1 < self.log.log_start:
                position.copying = True  # what it has beyond is not known any more
            else:
                try:
                    keys = encode(self.log.keys_after(common))
                except StorageError:
                    position.copying = True
        self._answers_to = probe.probe
        self._answer(node, peer.AppendAck.PROBED, common, probe.probe, position, keys)

    def _repair(self, node: str, message: peer.Append) -> None:
        if not message.probe or message.probe not in (self._answers_to, self._copy) or self.is_wiping:
            self._answer(node, peer.AppendAck.MISMATCH, self.log.last)
            return
        is_copy = message.probe == self._copy
        self._answers_to = self._copy = 0
        batch = self.host.commit.batch
        if is_copy:
            self.log.restart(batch, message.previous, copying=False)
        else:
            self.log.cut(batch, message.previous)
        self.log.history = read_history(message.history)
        self._put(node, message)

    def _answer(
        self, node: str, result: int, offset: int, probe: int = 0, position: peer.Position | None = None, keys: bytes = b""
    ) -> None:
        ack = peer.AppendAck(
            slot=self.slot,
            epoch=self.epoch,
            offset=offset,
            result=result,  # type: ignore[arg-type]  # an enum's values are ints to everybody but mypy
            position=position,
            probe=probe,
            keys=keys,
            incarnation=self.host.incarnation,
        )
        self.host.send(node, "acks", ack)

    # --- Copies ---------------------------------------------------------------------------------------------------

    def copy(self, node: str, message: peer.CopyRows) -> None:
        """A part of a copy of the whole slot."""
        if message.epoch < self.epoch:
            self._answer(node, peer.AppendAck.STALE_EPOCH, 0)
            return
        self.heard(message.epoch)
        if message.first:
            if self.is_wiping:
                return  # the leader asks again
            self._copy, self._part = message.copy, 0
            self._answers_to = 0
            self.wipe(lambda: self._put_part(node, message))
        elif message.copy == self._copy and message.part == self._part and not self.is_wiping:
            self._put_part(node, message)

    def _put_part(self, node: str, message: peer.CopyRows) -> None:
        if message.copy != self._copy:
            return
        self._part = message.part + 1
        self.host.commit.batch.update(decode_rows(message.rows))
        self.host.commit.then(self._part_durable, node, message.copy, message.part)

    def _part_durable(self, failure: Mq9Error | None, node: str, copy: int, part: int) -> None:
        if failure is None and copy == self._copy:
            self._answer(node, peer.AppendAck.PROBED, part, copy)

    def spoil(self) -> None:
        """What is here is not to be relied on: durably so, and a copy is needed before it counts again."""
        self._answers_to = self._copy = 0
        self.log.restart(self.host.commit.batch, 0, copying=True)
        self.host.commit.then(_nobody_waits)

    def wipe(self, then: Callable[[], None], *, forget: bool = False) -> None:
        """Delete everything of the slot, in bounded steps, and call `then`. From the first step on the node counts as having
        nothing of it; with `forget` not even the row that says so stays."""
        self.is_wiping = True
        self.log.restart(self.host.commit.batch, 0, copying=True)
        self.host.commit.then(self._wipe_step, then, forget)  # only when that is durable, and all that was staged before

    def _wipe_step(self, failure: Mq9Error | None, then: Callable[[], None], forget: bool) -> None:
        if failure is not None:
            self.is_wiping = False
            return
        batch = self.host.commit.batch
        room = _WIPE_ROWS
        for table in (*SLOT_TABLES, Table.SLOT_LOG):
            if room <= 0:
                break
            rows = self.host.store.scan(table, *slot_range(self.slot), room)
            for key, _ in rows:
                batch.delete(table, key)
            room -= len(rows)
        if room < _WIPE_ROWS:
            self.host.commit.then(self._wipe_step, then, forget)
            return
        batch.delete(Table.META, sequence_key(self.slot))
        if forget:
            self.log.erase(batch)
        self.is_wiping = False
        self.host.commit.then(lambda failure: None if failure else then())


def _nobody_waits(failure: Mq9Error | None) -> None:
    """A disk that refuses this refuses everything else too."""
