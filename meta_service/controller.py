"""What the leading meta node does by itself: pure functions of the view, giving commands to propose.

Every command names the epoch and version it was planned for, so a plan that is out of date changes nothing, and two leaders
that plan at once cannot both succeed. The commands' order is their urgency.

- A slot without replicas gets its first ones as soon as there are as many brokers as it should have replicas.
- A move whose new replicas are in sync is finished; one whose new replica is gone is called off.
- A primary that is drained, or that the end of a move would remove, hands over to that member of the in-sync set which
  placement ranks first: so whoever came leads its share of what changes hands anyway. Nothing changes hands for that alone:
  it would cost the slot's memory mailboxes and leases (`mq9 cluster rebalance` does, when an operator says so).
- Slots move, a few at a time, to where placement wants them; not while any slot has too few in-sync replicas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from meta_service.placement import Place, Targets, places_of, target
from meta_service.rules import View
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb

MOVES_PER_BROKER_MAX = 2  # in, and as many out, at a time: catching up takes disk and network from what is served
ASSIGNMENTS_PER_COMMAND_MAX = 512


def plan(view: View, targets: Targets) -> list[pb.MetaCommand]:
    """What to propose now; empty when all is as it should be. `targets` remembers placement from call to call."""
    if not view.founded:
        return []
    where = targets.of(*placement(view))
    return [*_assign(view), *_end_moves(view), *_hand_over(view, where), *_start_moves(view, where)]


def placement(view: View) -> tuple[int, dict[str, Place], int]:
    """What `Targets` asks for: slots, brokers, replicas of each slot."""
    return view.config.slots, places_of(view.brokers.values()), view.config.replication_factor


def _serving(view: View, name: str) -> bool:
    broker = view.brokers.get(name)
    return broker is not None and broker.state != meta.FENCED


def _assign(view: View) -> Iterator[pb.MetaCommand]:
    wanted = view.config.replication_factor
    serving = places_of(broker for broker in view.brokers.values() if broker.state != meta.FENCED)
    assign = pb.Assign()
    for slot in view.slots.values():
        if slot.replicas or len(assign.assignments) == ASSIGNMENTS_PER_COMMAND_MAX:
            continue
        replicas = target(slot.slot, serving, wanted)
        if len(replicas) == wanted:
            assign.assignments.add(slot=slot.slot, epoch=slot.epoch, ver=slot.ver, replicas=replicas)
    if assign.assignments:
        yield pb.MetaCommand(assign=assign)


def _end_moves(view: View) -> Iterator[pb.MetaCommand]:
    for slot in view.slots.values():
        place = {"slot": slot.slot, "epoch": slot.epoch, "ver": slot.ver}
        if not (slot.adding or slot.removing):
            continue
        if all(name in slot.isr for name in slot.adding):
            if _may_finish(view, slot) and not (slot.primary in slot.removing and _staying_heirs(view, slot)):
                yield pb.MetaCommand(finish_move=meta.FinishMove(**place))
        elif not all(_serving(view, name) for name in slot.adding) and slot.primary not in slot.adding:
            yield pb.MetaCommand(cancel_move=meta.CancelMove(**place))


def _may_finish(view: View, slot: meta.Slot) -> bool:
    """Whether the rules would let the move end now: the same reasons as in rules.finish_move."""
    staying = [name for name in slot.isr if name not in slot.removing]
    replicas = [name for name in (*slot.replicas, *slot.adding) if name not in slot.removing]
    enough = len(staying) >= min(view.config.min_in_sync, len(replicas))
    return enough and (slot.primary in staying or any(_serving(view, name) for name in staying))


def _heirs(view: View, slot: meta.Slot) -> list[str]:
    """Who may lead in place of the primary: members of the in-sync set that are there and not drained."""
    return [name for name in slot.isr if name != slot.primary and _serving(view, name) and not view.brokers[name].drain]


def _staying_heirs(view: View, slot: meta.Slot) -> list[str]:
    return [name for name in _heirs(view, slot) if name not in slot.removing]


def _hand_over(view: View, where: list[list[str]]) -> Iterator[pb.MetaCommand]:
    for slot in view.slots.values():
        primary = view.brokers.get(slot.primary)
        if primary is None or not (primary.drain or _is_removed_next(view, slot)):
            continue
        # To one that the move removes, too, only from one that is drained: else two of them would take turns.
        heirs = _staying_heirs(view, slot) or (_heirs(view, slot) if primary.drain else [])
        heir = next((name for name in where[slot.slot] if name in heirs), heirs[0] if heirs else "")
        if heir:
            yield pb.MetaCommand(transfer=meta.TransferPrimary(slot=slot.slot, epoch=slot.epoch, ver=slot.ver, to=heir))


def _is_removed_next(view: View, slot: meta.Slot) -> bool:
    """Whether the move of the slot may end, and takes its primary away."""
    return slot.primary in slot.removing and all(name in slot.isr for name in slot.adding) and _may_finish(view, slot)


def _start_moves(view: View, where: list[list[str]]) -> Iterator[pb.MetaCommand]:
    assigned = [slot for slot in view.slots.values() if slot.replicas]
    if not view.config.rebalance or any(len(slot.isr) < _isr_wanted(view, slot) for slot in assigned):
        return
    coming: Counter[str] = Counter()
    going: Counter[str] = Counter()
    for slot in assigned:
        coming.update(slot.adding)
        going.update(slot.removing)
    # A broker that is only fenced keeps its place: it may be back in a moment with nearly everything. Draining it is how an
    # operator says that it will not be.
    for slot in assigned:
        if slot.adding or slot.removing or not slot.primary:
            continue
        wanted = where[slot.slot]
        add = [name for name in wanted if name not in slot.replicas]
        spare = len(slot.replicas) + len(add) - view.config.replication_factor
        remove = [name for name in slot.replicas if name not in wanted][: max(0, spare)]
        if not (add or remove) or not all(_serving(view, name) for name in add):
            continue
        if any(count >= MOVES_PER_BROKER_MAX for count in [*(coming[name] for name in add), *(going[name] for name in remove)]):
            continue
        coming.update(add)
        going.update(remove)
        yield pb.MetaCommand(start_move=meta.StartMove(slot=slot.slot, epoch=slot.epoch, ver=slot.ver, add=add, remove=remove))


def _isr_wanted(view: View, slot: meta.Slot) -> int:
    return min(view.config.min_in_sync, len(slot.replicas))
