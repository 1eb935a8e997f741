"""Leading one slot: give every entry to its replicas, and call it committed when the in-sync set has it.

            begin                    everything committed            too few replicas for UNCOMMITTED_S_MAX
    opening -----> first entry of the epoch sealed --> serving --------------------------------> stalled --+
                                                          ^------------- everything committed -------------+
    end(): a newer epoch, or a disk that refuses

A replica is, as its leader sees it:

    ABSENT --link--> PROBING --its position--> STREAMING          every entry as it is sealed
                         |                        ^
                         +--too far behind--> COPYING --done, with what changed meanwhile

The first message of STREAMING is a repair: the present values of what the replica lacks, or has and should not have. An
entry is committed when every member of the in-sync set has it on disk, this node included, and there are enough of them. For
that a member counts from the moment its addition is asked for until its removal is in force. The store is read
here to bring replicas up; streams, clock and the meta service are the host's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from broker_node.cluster.copying import Copy
from broker_node.cluster.host import Changes, Host
from broker_node.cluster.slot_commit import SlotCommit, ended
from broker_node.cluster.slot_log import SlotLog, common_point, decode_keys, encode, read_history
from mq9.errors import Mq9Error, StorageError
from mq9.limits import REPAIR_BYTES_MAX, REPLICA_LAG_S_MAX, UNCOMMITTED_S_MAX
from mq9.storage.commit import Completion, complete
from mq9.storage.interface import Batch, Table
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import peer_pb2 as peer

log = logging.getLogger("mq9.cluster")

PROBE_AGAIN_S: Final = 1.0  # a probe that was not answered
ABSENT_S: Final = 0.3  # a replica without a link keeps nobody waiting for longer
ASK_AGAIN_S: Final = 0.5  # a change of the in-sync set that was refused


class State(Enum):
    """What a replica is doing, as its leader sees it."""

    ABSENT = "absent"
    PROBING = "probing"
    COPYING = "copying"
    STREAMING = "streaming"


class Replica:
    """Another node that has the slot, as the leader sees it."""

    __slots__ = ("acked", "copy", "incarnation", "node", "probe", "since_s", "state", "waiting_s")

    def __init__(self, node: str, now_s: float) -> None:
        self.node = node
        self.state = State.ABSENT
        self.incarnation = 0  # that `acked` is of
        self.acked = 0
        self.probe = 0
        self.copy: Copy | None = None
        self.since_s = now_s  # in this state
        self.waiting_s = now_s  # since when it has not confirmed something it was to confirm

    def enter(self, state: State, now_s: float) -> None:
        self.state, self.since_s = state, now_s
        if state is not State.COPYING:
            self.copy = None


class Pending(NamedTuple):
    """A sealed entry that is not committed."""

    offset: int
    waiting: list[Completion]
    rows: bytes
    sealed_s: float
    floors: Changes | None  # what it changed of groups, and mailboxes it ended


class Leader:
    """See the module. `view` is the slot as the meta service has it."""

    def __init__(self, host: Host, view: meta.Slot, slot_log: SlotLog) -> None:
        self.host = host
        self.view = view
        self.slot = view.slot
        self.epoch = view.epoch
        self.log = slot_log
        self.commit = SlotCommit(self)
        self.start = slot_log.last + 1  # the first offset of the epoch
        self.local = 0  # on this node's disk up to here
        self.high = 0  # the whole in-sync set has it, however small that is
        self.committed = 0
        self.pending: deque[Pending] = deque()
        self.pending_bytes = 0
        self.replicas: dict[str, Replica] = {}
        self.asked: meta.IsrChange | None = None
        self.asked_s = 0.0
        self.is_ended = False
        self.is_serving = False
        self._probes = 0
        self._took_members()

    def begin(self) -> None:
        """Seal the first entry of the epoch, which says that it began, and look for the replicas."""
        self.log.begin_epoch(self.epoch)
        self.commit.then(_nobody_waits)
        for replica in self.replicas.values():
            self._probe(replica)

    def end(self) -> None:
        """Lead no more. Whoever waits is told that the fate of what they asked is not known."""
        if self.is_ended:
            return
        self.is_ended = True
        self.is_serving = False
        self._fail_pending()
        self.pending.clear()
        self._count(-self.pending_bytes)
        self.commit.end()

    def _fail_pending(self) -> None:
        failure = ended()
        for entry in self.pending:
            complete(entry.waiting, failure)
            entry.waiting.clear()

    # --- Entries --------------------------------------------------------------------------------------------------

    def seal(self, batch: Batch) -> int:
        """The node's commit closes: make one entry of what the slot has staged and put it into `batch`. Its offset."""
        staged, waiting = self.commit.take()
        rows = {table: changes for table, changes in enumerate(staged.tables) if changes}
        before = self.log.last
        offset = before + 1
        data = encode(rows)
        self.log.append(batch, offset, rows)
        groups, trash = staged.tables[Table.GROUP], staged.tables[Table.TRASH]
        floors = (groups, trash) if groups or trash else None
        self.pending.append(Pending(offset, waiting, data, self.host.now_s(), floors))
        self._count(len(data))
        message = self._append(before, offset, data)
        for replica in self.replicas.values():
            if replica.state is State.STREAMING:
                self._stream(replica, message)
        return offset

    def _append(self, previous: int, offset: int, rows: bytes) -> peer.Append:
        return peer.Append(
            slot=self.slot,
            epoch=self.epoch,
            ver=self.view.ver,
            previous=previous,
            offset=offset,
            rows=rows,
            committed=self.committed,
        )

    def _stream(self, replica: Replica, message: peer.Append) -> None:
        if not self.host.send(replica.node, "appends", message):
            replica.enter(State.ABSENT, self.host.now_s())  # `tick` finds out where it is once there is room again
        elif replica.acked >= message.previous:
            replica.waiting_s = self.host.now_s()

    def _count(self, change: int) -> None:
        self.pending_bytes += change
        self.host.pending_changed(change)

    def local_durable(self, offset: int) -> None:
        """The node's own commit of the entry returned."""
        self.local = max(self.local, offset)
        self._advance()

    def _advance(self) -> None:
        """Commit what the whole in-sync set has, if the set is large enough."""
        if self.is_ended:
            return
        members = {*self.view.isr, *(self.asked.isr if self.asked is not None else ())}
        reached = self.local
        for node in members:
            if node != self.host.node:
                replica = self.replicas.get(node)
                reached = min(reached, replica.acked if replica is not None else 0)
        self.high = max(self.high, reached)
        if reached <= self.committed or len(self.view.isr) < self.host.min_in_sync():
            return
        self.committed = reached
        pending = self.pending
        while pending and pending[0].offset <= reached:
            entry = pending.popleft()
            self._count(-len(entry.rows))
            if entry.floors is not None:
                self.host.floors_changed(self.epoch, entry.floors)
            complete(entry.waiting, None)
        self.resume()

    # --- Replicas -------------------------------------------------------------------------------------------------

    def _took_members(self) -> None:
        wanted = {*self.view.replicas, *self.view.adding, *self.view.isr} - {self.host.node}
        now_s = self.host.now_s()
        self.replicas = {node: self.replicas.get(node) or Replica(node, now_s) for node in sorted(wanted)}

    def link_up(self, node: str) -> None:
        """There is a (new) link to the node."""
        replica = self.replicas.get(node)
        if replica is not None:
            self._probe(replica)

    def link_down(self, node: str) -> None:
        """It is gone; what was on its way may not have arrived."""
        replica = self.replicas.get(node)
        if replica is not None:
            replica.enter(State.ABSENT, self.host.now_s())

    def _probe(self, replica: Replica) -> None:
        """Ask where it is."""
        now_s = self.host.now_s()
        incarnation = self.host.linked(replica.node)
        if not incarnation:
            replica.enter(State.ABSENT, now_s)
            return
        if incarnation != replica.incarnation:
            replica.incarnation, replica.acked = incarnation, 0  # another process: what it has must be asked anew
        self._probes += 1
        replica.probe = self._probes
        last = self.log.last
        probe = self._append(last, last, b"")
        probe.probe = replica.probe
        probe.incarnation = self.host.incarnation
        probe.history.extend(peer.EpochStart(epoch=epoch, start=start) for epoch, start in self.log.history)
        asked = self.host.send(replica.node, "appends", probe)
        replica.enter(State.PROBING if asked else State.ABSENT, now_s)

    def answered(self, node: str, ack: peer.AppendAck) -> None:
        """What a replica says of an entry, a probe or a part of a copy."""
        replica = self.replicas.get(node)
        if replica is None or self.is_ended or ack.incarnation != replica.incarnation:
            return
        if ack.result == peer.AppendAck.STALE_EPOCH:
            if ack.epoch > self.epoch:
                self.host.deposed(self)
            return
        if ack.epoch != self.epoch:
            return
        if ack.result == peer.AppendAck.ACCEPTED:
            self._accepted(replica, ack.offset)
        elif ack.result == peer.AppendAck.PROBED:
            self._probed(replica, ack)
        elif ack.result == peer.AppendAck.MISMATCH and replica.state is State.STREAMING:
            self._probe(replica)
        elif ack.result == peer.AppendAck.FAILED:
            replica.enter(State.ABSENT, self.host.now_s())

    def _accepted(self, replica: Replica, offset: int) -> None:
        if replica.state is not State.STREAMING or offset <= replica.acked:
            return
        replica.acked = offset
        replica.waiting_s = self.host.now_s()
        self._advance()
        if replica.node not in self.view.isr:
            self._admit(replica)

    def _probed(self, replica: Replica, ack: peer.AppendAck) -> None:
        if replica.state is State.COPYING and replica.copy is not None and ack.probe == replica.copy.number:
            self._copied(replica, ack.offset)
        elif replica.state is State.PROBING and ack.probe == replica.probe:
            position = ack.position
            common = common_point(self.log.history, self.log.last, read_history(position.history), position.offset)
            if position.copying or ack.offset != common or common + 1 < self.log.log_start:
                self._copy(replica)
            else:
                self._repair(replica, common, ack.keys)

    def _repair(self, replica: Replica, common: int, keys: bytes) -> None:
        """Bring a replica that is like us up to `common` to where our disk is, and go on from there."""
        also = decode_keys(keys) if keys else {}
        if common > self.local and also:
            return  # our own disk is behind the replica's for a moment: `tick` probes again
        try:
            stored, rows, size = self.log.values(common, also)
        except StorageError as failure:
            self._damaged(replica, failure)
            return
        if size > REPAIR_BYTES_MAX:
            self._copy(replica)
            return
        offset = max(stored, common)
        message = self._append(common, offset, encode(rows))
        message.repair, message.probe = True, replica.probe
        history = [(epoch, start) for epoch, start in self.log.history if start <= offset]
        message.history.extend(peer.EpochStart(epoch=epoch, start=start) for epoch, start in history)
        replica.enter(State.STREAMING, self.host.now_s())
        self._stream(replica, message)
        for entry in self.pending:
            if entry.offset > offset and replica.state is State.STREAMING:
                self._stream(replica, self._append(entry.offset - 1, entry.offset, entry.rows))
        replica.waiting_s = self.host.now_s()

    def _copy(self, replica: Replica) -> None:
        """Send the whole slot, if not too many copies are on their way to that node: else `tick` tries again. A copy begins with
        taking away what is there: a member of the in-sync set leaves it first, for it may not count meanwhile."""
        replica.enter(State.ABSENT, self.host.now_s())
        if replica.node in self.view.isr:
            self._ask(node for node in self.view.isr if node != replica.node)
            return
        if not self.host.may_copy(replica.node):
            return
        replica.enter(State.COPYING, self.host.now_s())
        self._probes += 1
        replica.copy = Copy(self._probes, self.slot, self.epoch, self.host.store, self.local)
        log.info("copying slot %d to %s, which is too far behind", self.slot, replica.node)
        self._send_part(replica)

    def _copied(self, replica: Replica, part: int) -> None:
        copy = replica.copy
        if copy is None or part != copy.part - 1:
            return
        replica.since_s = self.host.now_s()
        if not copy.is_done:
            self._send_part(replica)
            return
        replica.probe = copy.number
        if copy.begun_at + 1 < self.log.log_start:
            self._copy(replica)  # more was written meanwhile than the log keeps
        else:
            self._repair(replica, copy.begun_at, b"")

    def _send_part(self, replica: Replica) -> None:
        if replica.copy is None:
            return
        try:
            part = replica.copy.next_part()
        except StorageError as failure:
            self._damaged(replica, failure)
            return
        if not self.host.send(replica.node, "copies", part):
            replica.enter(State.ABSENT, self.host.now_s())

    def _damaged(self, replica: Replica, failure: StorageError) -> None:
        """What is here cannot be read: nobody can be brought up from it."""
        replica.enter(State.ABSENT, self.host.now_s())
        self.host.damaged(self.slot, failure)

    # --- The in-sync set ------------------------------------------------------------------------------------------

    def view_changed(self, view: meta.Slot) -> None:
        """The meta service has changed the slot, in the same epoch."""
        if view.ver <= self.view.ver:
            return
        if view.ver > self.view.ver + 1:
            self._doubt(view.adding)
        self.view = view
        if self.asked is not None and self.asked.ver < view.ver:
            self.asked = None
        self._took_members()
        for replica in self.replicas.values():
            if replica.state is State.ABSENT:
                self._probe(replica)
        self._advance()

    def _doubt(self, adding: Iterable[str]) -> None:
        """Changes were not seen: who is to become a replica may have been none meanwhile, and have given up what it had."""
        for node in adding:
            replica = self.replicas.get(node)
            if replica is not None and replica.state in {State.STREAMING, State.PROBING}:
                replica.acked = 0
                replica.enter(State.ABSENT, self.host.now_s())

    def isr_answered(self, change: meta.IsrChange, result: meta.SlotResult | None) -> None:
        """What became of a change that was asked for; None: that is not known, and it is asked for again."""
        if self.is_ended or self.asked is not change:
            return
        if result is None:
            self.asked_s = self.host.now_s() - ASK_AGAIN_S
            return
        if result.outcome != meta.OK:
            log.info("slot %d: in-sync set %s refused: %s", self.slot, list(change.isr), result.text)
        self.asked_s = self.host.now_s()
        if result.slot.epoch == self.epoch and result.slot.ver > self.view.ver:
            self.view_changed(result.slot)
        elif result.outcome != meta.OK and result.slot.ver == change.ver:
            self.asked = None  # it will not happen
        self._advance()

    def _ask(self, isr: Iterable[str]) -> bool:
        """Ask for another in-sync set, one change at a time; whether it was."""
        now_s = self.host.now_s()
        if self.asked is not None or now_s - self.asked_s < ASK_AGAIN_S:
            return False
        members = sorted(isr)
        incarnations = [
            self.host.incarnation if node == self.host.node else self.replicas[node].incarnation or self.host.known(node)
            for node in members
        ]
        self.asked = meta.IsrChange(slot=self.slot, epoch=self.epoch, ver=self.view.ver, isr=members, incarnations=incarnations)
        self.asked_s = now_s
        self.host.ask_isr(self, self.asked)
        return True

    def _admit(self, replica: Replica) -> None:
        """A replica outside the set may be in it once it has this epoch's first entry and all that may be committed. That does
        not wait for the rest of the set: one who is in it and is not heard can only be replaced so."""
        if replica.acked >= max(self.start, self.high) and self.host.known(replica.node) == replica.incarnation:
            self._ask([*self.view.isr, replica.node])

    def _expel(self, now_s: float) -> None:
        """A member that keeps the others waiting leaves, as long as enough stay."""
        isr = list(self.view.isr)
        for node in list(isr):
            replica = self.replicas.get(node)
            if replica is None or len(isr) <= self.host.min_in_sync():
                continue
            limit_s = ABSENT_S if replica.state is State.ABSENT else REPLICA_LAG_S_MAX
            is_behind = replica.acked < self.log.last and now_s - max(replica.waiting_s, self._oldest_s(now_s)) > limit_s
            if is_behind:
                isr.remove(node)
        if len(isr) < len(self.view.isr) and self._ask(isr):
            log.info("slot %d goes on with %s of %s", self.slot, isr, list(self.view.isr))

    def _oldest_s(self, now_s: float) -> float:
        """When the oldest entry that is not committed was sealed."""
        return self.pending[0].sealed_s if self.pending else now_s

    # --- Time -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A few times a second."""
        now_s = self.host.now_s()
        if self.asked is not None and now_s - self.asked_s >= ASK_AGAIN_S:
            self.asked_s = now_s
            self.host.ask_isr(self, self.asked)
        for replica in self.replicas.values():
            age_s = now_s - replica.since_s
            if replica.state is State.ABSENT:
                if self.host.linked(replica.node):
                    self._probe(replica)
            elif replica.state is not State.STREAMING:
                if age_s > (PROBE_AGAIN_S if replica.state is State.PROBING else 10 * PROBE_AGAIN_S):
                    self._probe(replica)
            elif self.host.linked(replica.node) != replica.incarnation:
                self._probe(replica)
            elif replica.node not in self.view.isr:
                self._admit(replica)
        self._expel(now_s)
        if now_s - self._oldest_s(now_s) > UNCOMMITTED_S_MAX:
            if self.is_serving:
                self.is_serving = False
                self.host.must_not_serve(self)
            self.host.cannot_commit(self)

    def resume(self) -> None:
        """The host may serve again: tell it when everything is committed, which may be now."""
        if not self.is_ended and not self.is_serving and not self.pending and self.committed >= self.start:
            self.is_serving = self.host.may_serve(self)

    def stalled(self) -> None:
        """The host closed the partition: nobody waits any more; the entries stay, to be committed when that is possible."""
        self._fail_pending()
        self.commit.end()
        self.commit = SlotCommit(self)

    def copies_to(self, node: str) -> int:
        """1 if a copy is on its way to the node."""
        replica = self.replicas.get(node)
        return int(replica is not None and replica.copy is not None)


def _nobody_waits(failure: Mq9Error | None) -> None:
    """The first entry of an epoch is for the replicas."""
