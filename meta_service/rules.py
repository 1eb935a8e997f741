"""What each command does to brokers and slots: pure functions of the state and the command, the same on every node.

A rule changes copies that a `Change` hands out; the state takes them over when the rule has returned and the invariants
hold (`check`), so a refused or broken command changes nothing. No clock, no randomness, no iteration over sets.

The rules are those of primary-backup replication with an in-sync set:

- a slot's `isr` holds every record that was acknowledged in it, on every member; who leads is chosen from it alone;
- every change of primary has a new `epoch`, every change at all a new `ver`, and whoever asks for one names both;
- the last member of an in-sync set is never removed: nobody leads until it is back, or until an operator gives up its data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mq9 import limits
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb

WEIGHT_DEFAULT = 100


@dataclass(slots=True)
class View:
    """Brokers, slots and configuration. The messages in it are never changed, only replaced."""

    config: meta.ClusterConfig = field(default_factory=meta.ClusterConfig)
    brokers: dict[str, meta.Broker] = field(default_factory=dict)
    slots: dict[int, meta.Slot] = field(default_factory=dict)

    @property
    def founded(self) -> bool:
        return bool(self.config.cluster_id)


class RuleBroken(Exception):
    """A command would break an invariant. It is refused, and the log says that a rule is wrong."""


class Refused(Exception):
    """The command cannot be carried out as things are."""

    def __init__(self, outcome: meta.Outcome, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


class Change:
    """The copies one command works on."""

    def __init__(self, view: View, rev: int) -> None:
        self.before = view
        self.rev = rev
        self.config_after: meta.ClusterConfig | None = None
        self.brokers: dict[str, meta.Broker] = {}
        self.slots: dict[int, meta.Slot] = {}
        self.forgotten: list[str] = []
        self.unclean = False  # an operator gave up data, or a slot began

    def config(self) -> meta.ClusterConfig:
        if self.config_after is None:
            self.config_after = meta.ClusterConfig()
            self.config_after.CopyFrom(self.before.config)
            self.config_after.mod_rev = self.rev
        return self.config_after

    def peek_broker(self, name: str) -> meta.Broker | None:
        """The broker as it is by now, not to be changed."""
        return self.brokers.get(name) or self.before.brokers.get(name)

    def broker(self, name: str) -> meta.Broker:
        """A broker to be changed. Raises Refused when there is none."""
        if name not in self.brokers:
            known = self.before.brokers.get(name)
            if known is None:
                raise Refused(meta.INVALID, f"there is no broker {name}")
            self.brokers[name] = meta.Broker()
            self.brokers[name].CopyFrom(known)
            self.brokers[name].mod_rev = self.rev
        return self.brokers[name]

    def peek_slot(self, number: int) -> meta.Slot:
        """The slot as it is by now, not to be changed. Raises Refused when there is none."""
        found = self.slots.get(number) or self.before.slots.get(number)
        if found is None:
            raise Refused(meta.INVALID, f"there is no slot {number}")
        return found

    def slot(self, number: int) -> meta.Slot:
        """A slot to be changed; it has a new `ver` by that."""
        if number not in self.slots:
            known = self.peek_slot(number)
            self.slots[number] = meta.Slot()
            self.slots[number].CopyFrom(known)
            self.slots[number].mod_rev = self.rev
            self.slots[number].ver += 1
        return self.slots[number]

    def slot_at(self, number: int, epoch: int, ver: int) -> meta.Slot:
        """The slot to be changed, if it is still as the asker knows it. Raises Refused STALE."""
        known = self.peek_slot(number)
        if (known.epoch, known.ver) != (epoch, ver):
            raise Refused(meta.STALE, f"slot {number} is at epoch {known.epoch}, version {known.ver}")
        return self.slot(number)

    def is_serving(self, name: str) -> bool:
        """Whether the broker is there and not fenced."""
        broker = self.peek_broker(name)
        return broker is not None and broker.state != meta.FENCED


def _set(names: Iterable[str], field_: object) -> None:
    """Assign to a repeated field."""
    field_[:] = list(names)  # type: ignore[index]  # a repeated field; the stubs have no common type for it


def _lead(slot: meta.Slot, primary: str, hold_ms: int = 0) -> None:
    """A new epoch with this primary; empty: with none."""
    slot.primary = primary
    slot.epoch += 1
    # Whoever was elected early before may not have waited long enough yet for the one before that.
    slot.hold_ms = max(hold_ms, slot.hold_ms) if hold_ms else 0


def _candidates(change: Change, slot: meta.Slot, avoid: str = "") -> list[str]:
    """Who may lead: serving members of the in-sync set, those that are not being drained or removed first."""
    if slot.lost_disk:
        return []
    serving = [name for name in slot.isr if name != avoid and change.is_serving(name)]
    order = {name: place for place, name in enumerate(slot.replicas)}
    leaving = {name for name in serving if name in slot.removing or _is_draining(change, name)}
    return sorted(serving, key=lambda name: (name in leaving, order.get(name, len(order)), name))


def _is_draining(change: Change, name: str) -> bool:
    broker = change.peek_broker(name)
    return broker is not None and broker.drain


def _elect_without(change: Change, number: int, gone: str, hold_ms: int = 0) -> bool:
    """Let another member lead in place of `gone`, which leaves the in-sync set. False: nobody can, nothing changed."""
    found = _candidates(change, change.peek_slot(number), avoid=gone)
    if not found:
        return False
    slot = change.slot(number)
    # Others that are fenced go too: the new primary could not get their acknowledgements, and would wait for them.
    _set([name for name in slot.isr if name != gone and change.is_serving(name)], slot.isr)
    _lead(slot, found[0], hold_ms)
    return True


# --- The cluster and its brokers --------------------------------------------------------------------------------------


def found(change: Change, op: pb.Found) -> pb.CommandResult:
    """The first command of a cluster. A second one changes nothing."""
    if change.before.founded:
        return pb.CommandResult(outcome=meta.OK)
    if not (op.cluster_id and 0 < op.slots <= limits.META_SLOTS_MAX and 0 < op.min_in_sync <= op.replication_factor):
        raise Refused(meta.INVALID, "a cluster needs an id, slots and 0 < min_in_sync <= replication_factor")
    config = change.config()
    config.cluster_id = op.cluster_id
    config.slots = op.slots
    config.replication_factor = op.replication_factor
    config.min_in_sync = op.min_in_sync
    config.rebalance = True
    for number in range(op.slots):
        change.slots[number] = meta.Slot(slot=number, ver=1, mod_rev=change.rev)
    change.unclean = True
    return pb.CommandResult(outcome=meta.OK)


def register(change: Change, op: meta.RegisterRequest) -> pb.CommandResult:
    """A broker's process started. It gets an incarnation; what it led, somebody leads in a new epoch."""
    _check_names(op.node, op.peer_address, op.client_address)
    if not change.before.founded:
        raise Refused(meta.REFUSED, "the cluster is being founded")
    known = change.before.brokers.get(op.node)
    if known is None and len(change.before.brokers) >= limits.META_BROKERS_MAX:
        raise Refused(meta.REFUSED, f"there are {limits.META_BROKERS_MAX} brokers")
    if known is not None and known.state != meta.FENCED and (known.disk_id, known.peer_address) != (op.disk_id, op.peer_address):
        raise Refused(meta.REFUSED, f"{op.node} is in use by the broker at {known.peer_address}; its session must end first")
    config = change.config()
    config.last_incarnation += 1
    change.brokers[op.node] = meta.Broker(
        id=op.node, incarnation=config.last_incarnation, disk_id=op.disk_id, peer_address=op.peer_address,
        client_address=op.client_address, zone=op.zone, weight=op.weight or WEIGHT_DEFAULT, mod_rev=change.rev,
        drain=known is not None and known.drain, state=meta.DRAINING if known is not None and known.drain else meta.ALIVE,
    )  # fmt: skip
    if known is not None:
        for number in sorted(change.before.slots):
            slot = change.peek_slot(number)
            if op.node not in slot.isr:
                continue
            if slot.lost_disk:
                _return_to_lost_slot(change, number, op)
            elif known.disk_id != op.disk_id:
                _return_without_data(change, number, op.node, known.disk_id)
            else:
                _return_with_data(change, number, op.node)
    return pb.CommandResult(outcome=meta.OK, incarnation=config.last_incarnation)


def _return_with_data(change: Change, number: int, node: str) -> None:
    """It restarted with its disk: it stays in sync, but the epoch it may have led is over."""
    slot = change.peek_slot(number)
    if slot.primary and slot.primary != node and change.is_serving(slot.primary):
        change.slot(number)  # a new version: the primary forgets what the old process had acknowledged
        return
    others = _candidates(change, slot, avoid=node)
    primary = others[0] if others else node
    after = change.slot(number)
    _set([name for name in after.isr if name == node or change.is_serving(name)], after.isr)
    _lead(after, primary)


def _return_without_data(change: Change, number: int, node: str, old_disk: bytes) -> None:
    """It came back with another disk: what it had is gone, so it may not lead or be counted on."""
    slot = change.peek_slot(number)
    if list(slot.isr) == [node]:
        after = change.slot(number)
        after.lost_disk = old_disk
        _lead(after, "")
    elif slot.primary and slot.primary != node:
        after = change.slot(number)
        _set([name for name in after.isr if name != node], after.isr)
    elif not _elect_without(change, number, node):
        after = change.slot(number)
        _set([name for name in after.isr if name != node], after.isr)
        _lead(after, "")


def _return_to_lost_slot(change: Change, number: int, op: meta.RegisterRequest) -> None:
    """The last copy of a slot was given up for lost: is this its disk?"""
    if change.peek_slot(number).lost_disk == op.disk_id:
        slot = change.slot(number)
        slot.lost_disk = b""
        _lead(slot, op.node)


def fence(change: Change, op: pb.Fence) -> pb.CommandResult:
    """A broker's session is over: it leaves every in-sync set that has somebody else."""
    known = change.before.brokers.get(op.node)
    if known is None or known.incarnation != op.incarnation or known.state == meta.FENCED:
        raise Refused(meta.STALE, f"{op.node} has no session {op.incarnation}")
    change.broker(op.node).state = meta.FENCED
    for number in sorted(change.before.slots):
        slot = change.peek_slot(number)
        if op.node not in slot.isr:
            continue
        if slot.primary in {op.node, ""}:
            _elect_without(change, number, op.node)
        elif any(change.is_serving(name) for name in slot.isr):
            after = change.slot(number)
            _set([name for name in after.isr if name != op.node], after.isr)
    return pb.CommandResult(outcome=meta.OK)


def depose(change: Change, op: pb.Depose) -> pb.CommandResult:
    """A broker is suspected: it leaves every in-sync set that another is in, and others lead what it led.

    Its session goes on. If it is alive after all, it learns of this before its lease is renewed again.
    """
    known = change.before.brokers.get(op.node)
    if known is None or known.incarnation != op.incarnation or known.state == meta.FENCED:
        raise Refused(meta.STALE, f"{op.node} has no session {op.incarnation}")
    if not op.hold_ms:
        raise Refused(meta.INVALID, "a broker whose lease is over is fenced")
    for number in sorted(change.before.slots):
        slot = change.peek_slot(number)
        if slot.primary == op.node:
            _elect_without(change, number, op.node, op.hold_ms)
        elif op.node in slot.isr and slot.primary and change.is_serving(slot.primary):
            after = change.slot(number)
            _set([name for name in after.isr if name != op.node], after.isr)
    if not change.slots:
        raise Refused(meta.STALE, f"{op.node} is in no in-sync set that another is in")
    return pb.CommandResult(outcome=meta.OK)


def drain(change: Change, op: meta.Drain) -> pb.CommandResult:
    """Mark a broker as leaving, or not leaving after all. What it has is moved by commands that follow."""
    broker = change.broker(op.node)
    broker.drain = not op.cancel
    if broker.state != meta.FENCED:
        broker.state = meta.ALIVE if op.cancel else meta.DRAINING
    return pb.CommandResult(outcome=meta.OK)


def forget(change: Change, op: meta.ForgetBroker) -> pb.CommandResult:
    """Remove a broker that is gone for good and has nothing."""
    broker = change.broker(op.node)
    held = [slot.slot for slot in change.before.slots.values() if op.node in (*slot.replicas, *slot.adding, *slot.isr)]
    if held:
        raise Refused(meta.REFUSED, f"{op.node} is a replica of {len(held)} slots, {min(held)} among them")
    if broker.state != meta.FENCED:
        raise Refused(meta.REFUSED, f"{op.node} is running")
    del change.brokers[op.node]
    change.forgotten.append(op.node)
    change.config().removed_rev = change.rev
    return pb.CommandResult(outcome=meta.OK)


def configure(change: Change, op: meta.Configure) -> pb.CommandResult:
    """Change numbers of the cluster. Slots follow by moves."""
    config = change.config()
    config.replication_factor = op.replication_factor or config.replication_factor
    config.min_in_sync = op.min_in_sync or config.min_in_sync
    if op.HasField("rebalance"):
        config.rebalance = op.rebalance
    if config.min_in_sync > config.replication_factor:
        raise Refused(meta.INVALID, f"min_in_sync {config.min_in_sync} of {config.replication_factor} replicas")
    return pb.CommandResult(outcome=meta.OK)


# --- Slots ------------------------------------------------------------------------------------------------------------


def assign(change: Change, op: pb.Assign) -> pb.CommandResult:
    """Give slots that have no replicas their first ones. Nothing was written to them, so all of them are in sync."""
    for each in op.assignments:
        slot = change.slot_at(each.slot, each.epoch, each.ver)
        if slot.replicas or not each.replicas or len(set(each.replicas)) != len(each.replicas):
            raise Refused(meta.REFUSED, f"slot {each.slot} has replicas, or is to get none, or one twice")
        if not all(change.is_serving(name) for name in each.replicas):
            raise Refused(meta.STALE, f"a replica for slot {each.slot} is not there")
        _set(each.replicas, slot.replicas)
        _set(each.replicas, slot.isr)
        _lead(slot, each.replicas[0])
    change.unclean = True
    return pb.CommandResult(outcome=meta.OK)


def alter_isr(change: Change, op: meta.AlterIsrRequest) -> pb.CommandResult:
    """A primary changes in-sync sets. Each slot is decided for itself."""
    result = pb.CommandResult(outcome=meta.OK)
    for each in op.changes:
        try:
            _alter_one(change, op, each)
        except Refused as refused:
            answer = meta.SlotResult(outcome=refused.outcome, text=str(refused))
        else:
            answer = meta.SlotResult(outcome=meta.OK)
        known = change.slots.get(each.slot) or change.before.slots.get(each.slot)
        if known is not None:
            answer.slot.CopyFrom(known)
        result.slots.append(answer)
    return result


def _alter_one(change: Change, op: meta.AlterIsrRequest, each: meta.IsrChange) -> None:
    broker = change.peek_broker(op.node)
    if broker is None or broker.incarnation != op.incarnation or broker.state == meta.FENCED:
        raise Refused(meta.STALE, f"{op.node} has no session {op.incarnation}")
    known = change.peek_slot(each.slot)
    if (known.epoch, known.ver) != (each.epoch, each.ver) or known.primary != op.node:
        raise Refused(meta.STALE, f"slot {each.slot} is led by {known.primary!r} in epoch {known.epoch}, version {known.ver}")
    wanted = list(each.isr)
    if len(set(wanted)) != len(wanted) or len(wanted) != len(each.incarnations):
        raise Refused(meta.INVALID, "an in-sync set names each member once, with its incarnation")
    if op.node not in wanted:
        raise Refused(meta.REFUSED, "a primary is in its own in-sync set")
    for name, incarnation in zip(wanted, each.incarnations, strict=True):
        member = change.peek_broker(name)
        if member is None or member.incarnation != incarnation:
            raise Refused(meta.STALE, f"{name} is not in incarnation {incarnation}")
        if name not in known.isr and member.state == meta.FENCED:
            raise Refused(meta.REFUSED, f"{name} is fenced")
        if name not in known.replicas and name not in known.adding:
            raise Refused(meta.REFUSED, f"{name} is no replica of slot {each.slot}")
    _set(wanted, change.slot(each.slot).isr)


def elect(change: Change, op: pb.Elect) -> pb.CommandResult:
    """Another member leads, though the old primary's session may still hold: it holds deliveries that long."""
    slot = change.slot_at(op.slot, op.epoch, op.ver)
    candidates = _candidates(change, slot, avoid=slot.primary)
    if not candidates:
        raise Refused(meta.REFUSED, f"nobody else can lead slot {op.slot}")
    _lead(slot, candidates[0], op.hold_ms)
    return _one(slot)


def transfer(change: Change, op: meta.TransferPrimary) -> pb.CommandResult:
    """A given member leads."""
    slot = change.slot_at(op.slot, op.epoch, op.ver)
    if op.to == slot.primary or op.to not in _candidates(change, slot):
        raise Refused(meta.REFUSED, f"{op.to} leads slot {op.slot} already, or is not in sync, or is not there")
    _lead(slot, op.to)
    return _one(slot)


def unclean_elect(change: Change, op: meta.UncleanElect) -> pb.CommandResult:
    """An operator gives up what the in-sync set had, because none of it will come back."""
    slot = change.slot_at(op.slot, op.epoch, op.ver)
    if _candidates(change, slot):
        raise Refused(meta.REFUSED, f"slot {op.slot} has in-sync members that are there")
    if op.to not in slot.replicas or not change.is_serving(op.to):
        raise Refused(meta.REFUSED, f"{op.to} is no replica of slot {op.slot}, or not there")
    _set([op.to], slot.isr)
    slot.lost_disk = b""
    _lead(slot, op.to)
    change.unclean = True
    return _one(slot)


def start_move(change: Change, op: meta.StartMove) -> pb.CommandResult:
    """Name the replicas to come and to go. They come by AlterIsr of the primary, and go by FinishMove."""
    slot = change.slot_at(op.slot, op.epoch, op.ver)
    if slot.adding or slot.removing:
        raise Refused(meta.REFUSED, f"slot {op.slot} is being moved")
    adding, removing = list(op.add), list(op.remove)
    if not (adding or removing) or len({*adding, *removing}) != len(adding) + len(removing):
        raise Refused(meta.INVALID, "a move names each broker once")
    if any(name in slot.replicas or not change.is_serving(name) for name in adding):
        raise Refused(meta.REFUSED, "a broker to be added is a replica already, or not there")
    if any(name not in slot.replicas for name in removing) or len(slot.replicas) + len(adding) == len(removing):
        raise Refused(meta.REFUSED, "a broker to be removed is no replica, or nothing would be left")
    _set(adding, slot.adding)
    _set(removing, slot.removing)
    return _one(slot)


def finish_move(change: Change, op: meta.FinishMove) -> pb.CommandResult:
    """All that were to come are in sync: the others go. The epoch changes only when the primary does."""
    slot = change.slot_at(op.slot, op.epoch, op.ver)
    if not (slot.adding or slot.removing):
        raise Refused(meta.REFUSED, f"slot {op.slot} is not being moved")
    if any(name not in slot.isr for name in slot.adding):
        raise Refused(meta.REFUSED, f"slot {op.slot}: not all new replicas are in sync")
    staying = [name for name in slot.isr if name not in slot.removing]
    replicas = [name for name in (*slot.replicas, *slot.adding) if name not in slot.removing]
    if len(staying) < min(change.before.config.min_in_sync, len(replicas)):
        raise Refused(meta.REFUSED, f"slot {op.slot}: too few in-sync replicas would be left")
    primary = slot.primary
    if primary not in staying:
        candidates = [name for name in _candidates(change, slot) if name in staying]
        if not candidates:
            raise Refused(meta.REFUSED, f"slot {op.slot}: none of the staying replicas can lead")
        primary = candidates[0]
    _set(replicas, slot.replicas)
    _set(staying, slot.isr)
    _set([], slot.adding)
    _set([], slot.removing)
    if primary != slot.primary:
        _lead(slot, primary)
    return _one(slot)


def cancel_move(change: Change, op: meta.CancelMove) -> pb.CommandResult:
    """Leave everything where it was before StartMove."""
    slot = change.slot_at(op.slot, op.epoch, op.ver)
    staying = [name for name in slot.isr if name not in slot.adding]
    if slot.primary in slot.adding or not staying:
        raise Refused(meta.REFUSED, f"slot {op.slot} is held by the replicas that were to come")
    _set(staying, slot.isr)
    _set([], slot.adding)
    _set([], slot.removing)
    return _one(slot)


def _one(slot: meta.Slot) -> pb.CommandResult:
    return pb.CommandResult(outcome=meta.OK, slots=[meta.SlotResult(outcome=meta.OK, slot=slot)])


def _check_names(*names: str) -> None:
    if any(not name or len(name.encode()) > limits.META_NAME_BYTES_MAX for name in names):
        raise Refused(meta.INVALID, f"names and addresses have 1 to {limits.META_NAME_BYTES_MAX} bytes")


# --- What must hold after every command -------------------------------------------------------------------------------


def check(change: Change) -> None:
    """The invariants of the slots a command changed. Raises RuleBroken; numbers are those of docs/meta.md."""
    for number, after in sorted(change.slots.items()):
        before = change.before.slots.get(number) or meta.Slot()
        for rule, holds in _slot_rules(before, after, clean=not change.unclean).items():
            if not holds:
                raise RuleBroken(f"{rule}; slot {number} before: {before}; after: {after}")


def _slot_rules(before: meta.Slot, after: meta.Slot, *, clean: bool) -> Mapping[str, bool]:
    same_primary = before.primary == after.primary
    replicas = {*after.replicas, *after.adding}
    return {
        "I2: another primary in the same epoch": same_primary or after.epoch > before.epoch,
        "I2: an epoch or version went back": after.epoch >= before.epoch and after.ver > before.ver,
        "I2: a primary outside its in-sync set": not after.primary or after.primary in after.isr,
        "I4: a primary that was not in sync": same_primary or not after.primary or not clean or after.primary in before.isr,
        "I4: nothing is left of an in-sync set": not before.isr or not clean or bool({*before.isr} & {*after.isr}),
        "I4: a primary without data": not after.primary or not after.lost_disk,
        "replicas without an in-sync set, or one outside of them": {*after.isr} <= replicas and bool(after.isr) == bool(replicas),
    }
