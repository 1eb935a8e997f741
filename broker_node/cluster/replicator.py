"""The slots of this node: which it leads and follows, its one group commit, and its peers.

Everything runs on the loop's thread. Views come from the meta service, appends and acknowledgements from peers; what goes out
is the links' business. A commit of the node holds what its leaders sealed and what its followers were sent; when it returns,
each leader learns what is on its own disk and each follower acknowledges.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from google.protobuf.message import Message

from broker_node.cluster.follower import Follower
from broker_node.cluster.host import Changes
from broker_node.cluster.leader import Leader
from broker_node.cluster.slot_commit import SlotCommit
from broker_node.cluster.slot_log import SlotLog
from broker_node.mailbox.mailboxes import ignore
from mq9.clock import Clock
from mq9.errors import Mq9Error, StorageError
from mq9.limits import COPIES_PER_PEER_MAX
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Store
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import peer_pb2 as peer

log = logging.getLogger("mq9.cluster")

TICK_S: Final = 0.1
GIVE_UP_AGAIN_S: Final = 30.0  # who cannot be heard tries to lead no more often than this


class Link(Protocol):
    """What is needed of a stream to or from a peer."""

    node: str
    incarnation: int

    @property
    def is_crowded(self) -> bool: ...

    def send(self, kind: str, message: Message) -> None: ...


class View(Protocol):
    """What is needed of the membership."""

    node: str
    incarnation: int
    brokers: dict[str, meta.Broker]
    slots: dict[int, meta.Slot]
    config: meta.ClusterConfig | None
    lease_s: float  # how long a broker serves after its last answered heartbeat

    def lease_holds(self) -> bool: ...


class Partitions(Protocol):
    """Where the slots that may be served are."""

    def open(self, slot: int, commit: SlotCommit) -> object: ...

    def close_slot(self, slot: int) -> None: ...

    def met(self, slot: int, failure: StorageError) -> None: ...


AskIsr = Callable[[Leader, meta.IsrChange], None]


class Replicator:
    """See the module. `ask_isr` sends a change to the meta service and has `leader.isr_answered` called."""

    def __init__(
        self,
        store: Store,
        commit: GroupCommit,
        clock: Clock,
        view: View,
        partitions: Partitions,
        ask_isr: AskIsr,
    ) -> None:
        self.store = store
        self.commit = commit
        self.view = view
        self.partitions = partitions
        self.leaders: dict[int, Leader] = {}
        self.followers: dict[int, Follower] = {}
        self.serving: set[int] = set()
        self.on_given_up: Callable[[], None] = ignore  # what this node led has no leader: it must register anew
        self.on_floors: Callable[[int, Changes], None] = ignore
        self._ask_isr = ask_isr
        self._clock = clock
        self._links: dict[str, Link] = {}  # those we dialed: what is said first goes out on them
        self._answers: dict[str, Link] = {}  # those the peers dialed: what they said first is answered on them
        self._logs: dict[int, SlotLog] = {}
        self._dirty: list[Leader] = []
        self._sealed: list[tuple[Leader, int]] = []
        self._opening: set[int] = set()
        self._leaving: set[int] = set()  # slots to be given up as soon as that is possible: looked at again at each tick
        self._unled: set[int] = set()  # slots of which it was said that what is here cannot be led
        self._seen: dict[int, tuple[int, str]] = {}  # slot -> epoch and primary of the newest view
        self._old: dict[int, dict[str, tuple[int, float]]] = {}  # slot -> who led it, in which incarnation, may serve until
        self._has_lease = False
        self._pending = 0
        self._may_give_up_s = 0.0
        commit.before_seal = self._before_seal
        commit.others_wait = True
        commit.on_failure = self._failed

    @property
    def node(self) -> str:
        """This node."""
        return self.view.node

    # --- What leaders and followers need --------------------------------------------------------------------------

    @property
    def incarnation(self) -> int:
        return self.view.incarnation

    def send(self, node: str, kind: str, message: Message) -> bool:
        link = (self._answers if kind == "acks" else self._links).get(node)
        if link is None or link.is_crowded:
            return False
        link.send(kind, message)
        return True

    def linked(self, node: str) -> int:
        link = self._links.get(node)
        return link.incarnation if link is not None and not link.is_crowded else 0

    def known(self, node: str) -> int:
        broker = self.view.brokers.get(node)
        return broker.incarnation if broker is not None and broker.state != meta.FENCED else 0

    def now_s(self) -> float:
        return self._clock.monotonic_s()

    def min_in_sync(self) -> int:
        return self.view.config.min_in_sync if self.view.config is not None else 1 << 30

    def may_copy(self, node: str) -> bool:
        return sum(leader.copies_to(node) for leader in self.leaders.values()) < COPIES_PER_PEER_MAX

    def ask_isr(self, leader: Leader, change: meta.IsrChange) -> None:
        self._ask_isr(leader, change)

    def dirty(self, leader: Leader) -> None:
        self._dirty.append(leader)
        if len(self._dirty) == 1:  # noted above first: what fills the commit seals it at once
            self._sealed = []
            self.commit.then(self._durable, self._sealed)

    def _before_seal(self) -> None:
        dirty, self._dirty = self._dirty, []
        self.commit.told_replicas = bool(dirty)
        for leader in dirty:
            if not leader.is_ended:
                self._sealed.append((leader, leader.seal(self.commit.batch)))

    def _durable(self, failure: Mq9Error | None, sealed: list[tuple[Leader, int]]) -> None:
        if failure is None:
            for leader, offset in sealed:
                leader.local_durable(offset)

    def _failed(self, failure: Mq9Error) -> None:
        """The node's commit failed, and with it everything staged: this node leads no more, and its logs are what is on disk.

        Replicas may have what our disk refused. Another leads on, or this node in a new epoch.
        """
        log.error("a commit failed (%s): giving up %d slots", failure.text, len(self.leaders))
        self._dirty = []
        for leader in list(self.leaders.values()):
            self._end(leader)
        self.on_given_up()
        for slot, slot_log in self._logs.items():
            slot_log.load()
            self.followers[slot] = Follower(self, slot_log, self.followers[slot].epoch if slot in self.followers else 0)

    # --- Serving --------------------------------------------------------------------------------------------------

    def may_serve(self, leader: Leader) -> bool:
        if not self._has_lease or self.leaders.get(leader.slot) is not leader:
            return False
        if leader.slot not in self.serving:
            if self._others_may_serve(leader):
                return False
            self.serving.add(leader.slot)
            self.partitions.open(leader.slot, leader.commit)
        return True

    def _others_may_serve(self, leader: Leader) -> bool:
        """Whether somebody who led the slot before may not know yet that it is over.

        It does when it is fenced or has another session, when it has put down something of this epoch, and at the latest
        when the lease is over that it had when the epoch began.
        """
        old = self._old.get(leader.slot, {})
        for node, (incarnation, until_s) in list(old.items()):
            replica = leader.replicas.get(node)
            has_heard = replica is not None and replica.incarnation == incarnation and replica.acked >= leader.start
            if self.now_s() >= until_s or has_heard or (incarnation and self.known(node) != incarnation):
                del old[node]
        return bool(old)

    def must_not_serve(self, leader: Leader) -> None:
        self._close(leader.slot)
        leader.stalled()

    def cannot_commit(self, leader: Leader) -> None:
        # The meta service hears them and we do not: it may be us who cannot be heard. Another may get on with them. If that one
        # cannot, it gives up as well, and it is our turn again.
        self._let_others_lead(leader.view, "no word of the others")

    def _let_others_lead(self, slot: meta.Slot, why: str) -> None:
        """Give up all that is led here, if another of the slot's in-sync set is there; not again before GIVE_UP_AGAIN_S."""
        others = [node for node in slot.isr if node != self.node and self.known(node)]
        if self._has_lease and others and self.now_s() >= self._may_give_up_s:
            self._may_give_up_s = self.now_s() + GIVE_UP_AGAIN_S
            log.warning("slot %d: %s; giving up what is led here, for %s", slot.slot, why, " or ".join(others))
            self.on_given_up()

    def deposed(self, leader: Leader) -> None:
        self._end(leader)

    def pending_changed(self, change: int) -> None:
        self._pending += change

    def floors_changed(self, epoch: int, changes: Changes) -> None:
        self.on_floors(epoch, changes)

    def damaged(self, slot: int, failure: StorageError) -> None:
        self.partitions.met(slot, failure)

    def give_up(self, slot: int, failure: StorageError) -> None:
        """What is led here cannot be read, and another has everything: have that one lead, and take a copy from it."""
        log.error("slot %d is damaged here (%s): another leads it, and sends a copy", slot, failure.text)
        self._end(self.leaders[slot])
        self.followers[slot].spoil()
        self.on_given_up()

    def _close(self, slot: int) -> None:
        if slot in self.serving:
            self.serving.discard(slot)
            self.partitions.close_slot(slot)

    def _end(self, leader: Leader) -> None:
        if self.leaders.get(leader.slot) is leader:
            del self.leaders[leader.slot]
            self.followers[leader.slot] = Follower(self, leader.log, leader.epoch)
            self._close(leader.slot)
        leader.end()

    def lease_changed(self, holds: bool) -> None:
        """The session's lease ended, or holds again. Without it nothing is served; entries that are on their way go on."""
        self._has_lease = holds
        for leader in list(self.leaders.values()):
            if not holds and leader.slot in self.serving:
                self._close(leader.slot)
                leader.is_serving = False
                leader.stalled()
            elif holds:
                leader.resume()

    # --- Views ----------------------------------------------------------------------------------------------------

    def view_changed(self, slots: Iterable[meta.Slot]) -> None:
        """These slots are new or have changed."""
        for slot in slots:
            self._slot_changed(slot)

    def _slot_changed(self, slot: meta.Slot) -> None:
        self._note_primaries(slot)
        leader = self.leaders.get(slot.slot)
        if leader is not None and (slot.epoch > leader.epoch or slot.primary != self.node):
            self._end(leader)
            leader = None
        follower = self.followers.get(slot.slot)
        if follower is not None:
            follower.heard(slot.epoch)
        if slot.primary == self.node:
            if leader is not None:
                leader.view_changed(slot)
            else:
                self._lead(slot)
        elif self.node in (*slot.replicas, *slot.adding, *slot.isr):
            self._follower(slot.slot, slot.epoch)
        elif slot.replicas and (follower is not None or not self._log(slot.slot).is_empty):
            self._forget(self._follower(slot.slot, slot.epoch), slot.ver)

    def _note_primaries(self, slot: meta.Slot) -> None:
        """Remember who led before: nobody else may serve before they have stopped."""
        epoch, primary = self._seen.get(slot.slot, (0, ""))
        if slot.epoch <= epoch:
            return
        self._seen[slot.slot] = (slot.epoch, slot.primary)
        until_s = self.now_s() + (slot.hold_ms / 1000 or self.view.lease_s)
        old = self._old.setdefault(slot.slot, {})
        if primary and primary != self.node:
            broker = self.view.brokers.get(primary)
            old[primary] = (broker.incarnation if broker is not None else 0, until_s)
        if slot.epoch > epoch + 1:
            old[""] = (0, until_s)  # somebody we have not heard of

    def _log(self, slot: int) -> SlotLog:
        found = self._logs.get(slot)
        if found is None:
            found = self._logs[slot] = SlotLog(self.store, slot)
        return found

    def _follower(self, slot: int, epoch: int) -> Follower:
        follower = self.followers.get(slot)
        if follower is None:
            follower = self.followers[slot] = Follower(self, self._log(slot), epoch)
        return follower

    def _lead(self, slot: meta.Slot) -> None:
        """Take a slot over, once everything that was put down as a follower is on disk."""
        follower = self._follower(slot.slot, slot.epoch)
        if follower.epoch > slot.epoch or slot.slot in self._opening:
            return
        self._opening.add(slot.slot)
        self.commit.then(self._take_over, slot.slot)

    def _take_over(self, failure: Mq9Error | None, number: int) -> None:
        self._opening.discard(number)
        slot = self.view.slots.get(number)
        if failure is not None or slot is None or slot.primary != self.node or number in self.leaders:
            return
        if self.known(self.node) != self.incarnation:
            return  # that is about a process before this one, or one that came after
        follower = self._follower(number, slot.epoch)
        if follower.epoch > slot.epoch or follower.log.epoch >= slot.epoch:
            return  # a newer epoch is known here than the view's; or it was led here by a process before this one
        if follower.log.copying:
            self._cannot_lead(slot)
            return
        self.followers.pop(number)
        leader = self.leaders[number] = Leader(self, slot, follower.log)
        leader.begin()

    def _cannot_lead(self, slot: meta.Slot) -> None:
        """What is here of it is no whole copy: another in the in-sync set leads. Looked at again until there is one."""
        if slot.slot not in self._unled:
            self._unled.add(slot.slot)
            log.error("slot %d cannot be led: what is here of it is no whole copy", slot.slot)
        self._let_others_lead(slot, "no whole copy here")
        self._leaving.add(slot.slot)

    def _forget(self, follower: Follower, ver: int) -> None:
        """The slot is not ours any more, by this version of the view: give its room back. A leader who sees more may have made
        us a replica again, and counts what we said we have: then the view will say so as well."""
        if ver < follower.ver:
            return
        if follower.is_wiping:  # for a copy that was on its way
            self._leaving.add(follower.slot)
            return
        log.info("giving up the data of slot %d, which has moved", follower.slot)
        follower.wipe(lambda: self._forgotten(follower), forget=True)

    def _forgotten(self, follower: Follower) -> None:
        if self.followers.get(follower.slot) is follower and follower.log.is_empty:
            del self.followers[follower.slot]
            del self._logs[follower.slot]

    # --- Peers ----------------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """A link that we dialed."""
        self._links[link.node] = link
        for leader in self.leaders.values():
            leader.link_up(link.node)

    def link_down(self, link: Link) -> None:
        if self._links.get(link.node) is link:
            del self._links[link.node]
            for leader in self.leaders.values():
                leader.link_down(link.node)

    def accepted(self, link: Link) -> None:
        """A link that a peer dialed."""
        self._answers[link.node] = link

    def accepted_down(self, link: Link) -> None:
        if self._answers.get(link.node) is link:
            del self._answers[link.node]

    def on_appends(self, link: Link, messages: Iterable[peer.Append]) -> None:
        """Entries for slots we follow."""
        self._answers[link.node] = link
        for message in messages:
            follower = self._addressed(message.slot, message.epoch)
            if follower is not None:
                follower.append(link.node, message)
            elif message.slot in self.leaders:
                self._refuse(link, message.slot)

    def on_copies(self, link: Link, messages: Iterable[peer.CopyRows]) -> None:
        """Parts of copies."""
        self._answers[link.node] = link
        for message in messages:
            follower = self._addressed(message.slot, message.epoch)
            if follower is not None:
                follower.copy(link.node, message)

    def on_acks(self, link: Link, messages: Iterable[peer.AppendAck]) -> None:
        """What followers say."""
        for message in messages:
            leader = self.leaders.get(message.slot)
            if leader is not None:
                leader.answered(link.node, message)

    def _addressed(self, slot: int, epoch: int) -> Follower | None:
        """Who takes what a leader of `epoch` says; None when we lead in a newer or the same epoch, or have no part in it."""
        leader = self.leaders.get(slot)
        if leader is not None:
            if epoch <= leader.epoch:
                return None
            self._end(leader)
        known = self.view.slots.get(slot)
        if known is not None and known.epoch <= epoch and self.node not in (*known.replicas, *known.adding):
            return None  # it moved away, or has not been said to come here yet: then the leader asks again
        return self._follower(slot, epoch)

    def _refuse(self, link: Link, slot: int) -> None:
        ack = peer.AppendAck(slot=slot, epoch=self.leaders[slot].epoch, incarnation=self.incarnation)
        ack.result = peer.AppendAck.STALE_EPOCH
        link.send("acks", ack)

    # --- Time -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Every TICK_S."""
        for leader in list(self.leaders.values()):
            leader.tick()
            leader.resume()
        leaving, self._leaving = self._leaving, set()
        for slot in leaving:
            self._slot_changed(self.view.slots[slot])

    def pending_bytes(self) -> int:
        """Bytes that are sealed and not committed, or staged: above a limit clients are not read."""
        return self.commit.staged_bytes + self._pending + sum(leader.commit.batch.bytes_staged for leader in self._dirty)

    def close(self) -> None:
        """End everything: before the commit is closed."""
        for leader in list(self.leaders.values()):
            self._end(leader)
