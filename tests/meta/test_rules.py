"""What each command does to brokers and slots, and that no sequence of commands breaks the invariants."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest

from meta_service import rules
from meta_service.controller import MOVES_PER_BROKER_MAX, plan
from meta_service.placement import Targets, places_of, target
from meta_service.rules import Change, Refused, RuleBroken, View
from meta_service.state import RULES
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb
from tests.meta.test_state import BROKERS, random_command, register

T = TypeVar("T")


class World:
    """A view that commands are run on."""

    def __init__(self, brokers: int = 3, slots: int = 1, zones: int = 0) -> None:
        self.view = View()
        self.rev = 0
        self.run(rules.found, pb.Found(cluster_id=b"id", slots=slots, replication_factor=3, min_in_sync=2))
        for number in range(brokers):
            zone = f"z{number % zones}" if zones else ""
            self.run(rules.register, register("abcdefghij"[number], zone=zone))

    def run(self, rule: Callable[[Change, T], pb.CommandResult], op: T) -> pb.CommandResult:
        self.rev += 1
        change = Change(self.view, self.rev)
        result = rule(change, op)
        rules.check(change)
        self.view.config = change.config_after or self.view.config
        self.view.brokers.update(change.brokers)
        self.view.slots.update(change.slots)
        for name in change.forgotten:
            del self.view.brokers[name]
        return result

    def assign(self, *replicas: str, slot: int = 0) -> None:
        each = pb.Assignment(slot=slot, epoch=0, ver=self.slot(slot).ver, replicas=replicas)
        self.run(rules.assign, pb.Assign(assignments=[each]))

    def slot(self, number: int = 0) -> meta.Slot:
        return self.view.slots[number]

    def place(self, number: int = 0) -> dict[str, int]:
        slot = self.slot(number)
        return {"slot": slot.slot, "epoch": slot.epoch, "ver": slot.ver}

    def incarnation(self, name: str) -> int:
        return self.view.brokers[name].incarnation

    def fence(self, name: str) -> None:
        self.run(rules.fence, pb.Fence(node=name, incarnation=self.incarnation(name)))

    def alter(self, node: str, *isr: str, **more: object) -> meta.SlotResult:
        fields = {**self.place(), "isr": isr, "incarnations": [self.incarnation(name) for name in isr], **more}
        change = meta.IsrChange(**fields)  # type: ignore[arg-type]  # any field
        request = meta.AlterIsrRequest(node=node, incarnation=self.incarnation(node), changes=[change])
        return self.run(rules.alter_isr, request).slots[0]


@pytest.fixture
def world() -> World:
    made = World(brokers=4)
    made.assign("a", "b", "c")
    return made


def test_new_slots_are_led_by_their_first_replica(world: World) -> None:
    slot = world.slot()
    assert (slot.primary, slot.epoch, list(slot.isr)) == ("a", 1, ["a", "b", "c"])


def test_a_fenced_primary_is_replaced_from_the_in_sync_set(world: World) -> None:
    world.alter("a", "a", "c")
    world.fence("a")
    assert (world.slot().primary, world.slot().epoch, list(world.slot().isr)) == ("c", 2, ["c"])


def depose(world: World, name: str, hold_ms: int = 1500) -> None:
    world.run(rules.depose, pb.Depose(node=name, incarnation=world.incarnation(name), hold_ms=hold_ms))


def test_a_deposed_primary_is_replaced_by_one_that_holds_deliveries(world: World) -> None:
    depose(world, "a")
    assert (world.slot().primary, world.slot().epoch, list(world.slot().isr), world.slot().hold_ms) == ("b", 2, ["b", "c"], 1500)
    assert world.view.brokers["a"].state == meta.ALIVE, "its session goes on"
    world.alter("b", "a", "b", "c")  # it was alive after all
    world.run(rules.transfer, meta.TransferPrimary(**world.place(), to="a"))
    assert world.slot().hold_ms == 0, "of this one nothing is known but the length of a lease"


def test_who_is_elected_early_twice_holds_for_both(world: World) -> None:
    depose(world, "a", 2000)
    depose(world, "b", 10)
    assert (world.slot().primary, world.slot().hold_ms) == ("c", 2000)


def test_a_deposed_backup_leaves_the_in_sync_set_and_the_last_member_stays(world: World) -> None:
    depose(world, "b")
    assert (world.slot().primary, world.slot().epoch, list(world.slot().isr)) == ("a", 1, ["a", "c"])
    depose(world, "c")
    with pytest.raises(Refused, match="no in-sync set that another is in"):
        depose(world, "a")
    with pytest.raises(Refused, match="has no session"):
        world.run(rules.depose, pb.Depose(node="a", incarnation=99, hold_ms=1))
    with pytest.raises(Refused, match="is fenced"):
        depose(world, "a", 0)


def test_the_last_in_sync_member_stays_though_it_is_fenced(world: World) -> None:
    world.fence("b")
    world.fence("c")
    before = world.place()
    world.fence("a")
    assert (world.place(), list(world.slot().isr), world.slot().primary) == (before, ["a"], "a")
    with pytest.raises(Refused):
        world.run(rules.transfer, meta.TransferPrimary(**world.place(), to="b"))


def test_it_leads_in_a_new_epoch_when_it_is_back(world: World) -> None:
    for name in "bca":
        world.fence(name)
    epoch = world.slot().epoch
    world.run(rules.register, register("b"))
    assert world.slot().epoch == epoch, "b was not in sync: it must wait"
    world.run(rules.register, register("a"))
    assert (world.slot().primary, world.slot().epoch) == ("a", epoch + 1)


def test_a_restarted_primary_does_not_lead_in_its_old_epoch(world: World) -> None:
    world.run(rules.register, register("a"))
    slot = world.slot()
    assert (slot.primary, slot.epoch, sorted(slot.isr)) == ("b", 2, ["a", "b", "c"])


def test_a_restarted_backup_gives_the_slot_a_new_version(world: World) -> None:
    before = world.slot()
    world.run(rules.register, register("b"))
    assert (world.slot().epoch, world.slot().ver, list(world.slot().isr)) == (before.epoch, before.ver + 1, ["a", "b", "c"])


def test_a_new_disk_leaves_the_in_sync_set(world: World) -> None:
    for name in "bca":
        world.fence(name)  # a is the last member
    world.run(rules.register, register("a"))
    world.run(rules.register, register("b"))
    world.alter("a", "a", "b")
    world.view.brokers["b"].state = meta.FENCED  # as if it were fenced in the instant before anything was changed by that
    world.run(rules.register, register("b", disk_id=b"new"))
    assert list(world.slot().isr) == ["a"]


def test_a_slot_whose_last_copy_is_gone_has_no_primary_until_it_is_back(world: World) -> None:
    for name in "bca":
        world.fence(name)
    world.run(rules.register, register("a", disk_id=b"new"))
    slot = world.slot()
    assert (slot.primary, slot.lost_disk, list(slot.isr)) == ("", b"a", ["a"])
    world.run(rules.register, register("b"))
    assert world.slot().primary == ""
    world.fence("a")
    world.run(rules.register, register("a", disk_id=b"a"))  # the old disk was found
    assert (world.slot().primary, world.slot().lost_disk) == ("a", b"")


def test_an_operator_may_give_up_what_was_lost(world: World) -> None:
    with pytest.raises(Refused, match="in-sync members that are there"):
        world.run(rules.unclean_elect, meta.UncleanElect(**world.place(), to="b"))
    for name in "bca":
        world.fence(name)
    world.run(rules.register, register("b"))
    world.run(rules.unclean_elect, meta.UncleanElect(**world.place(), to="b"))
    assert (world.slot().primary, list(world.slot().isr)) == ("b", ["b"])


def test_two_brokers_of_one_name_are_not_both_let_in(world: World) -> None:
    for other in ({"disk_id": b"other"}, {"peer_address": "elsewhere:1"}):
        with pytest.raises(Refused, match="in use"):
            world.run(rules.register, register("a", **other))
    world.fence("a")
    world.run(rules.register, register("a", peer_address="elsewhere:1"))


@pytest.mark.parametrize(
    ("node", "isr", "more", "outcome"),
    [
        ("a", "ab", {}, meta.OK),
        ("a", "abc", {}, meta.OK),
        ("b", "ab", {}, meta.STALE),  # not the primary
        ("a", "bc", {}, meta.REFUSED),  # without itself
        ("a", "abd", {}, meta.REFUSED),  # d is no replica
        ("a", "aab", {}, meta.INVALID),
        ("a", "ab", {"epoch": 7}, meta.STALE),
        ("a", "ab", {"ver": 1}, meta.STALE),
        ("a", "ab", {"incarnations": [1, 77]}, meta.STALE),
        ("a", "ab", {"incarnations": [1]}, meta.INVALID),
        ("a", "a", {"slot": 9}, meta.INVALID),
    ],
)
def test_in_sync_sets_are_compared_and_set(world: World, node: str, isr: str, more: dict[str, object], outcome: int) -> None:
    result = world.alter(node, *isr, **more)
    assert result.outcome == outcome, result.text
    assert (list(world.slot().isr) == list(isr)) == (outcome == meta.OK)


def test_a_fenced_member_is_not_added(world: World) -> None:
    world.alter("a", "a", "b")
    world.fence("c")
    assert world.alter("a", "a", "b", "c").outcome == meta.REFUSED


def test_a_move_adds_waits_and_removes(world: World) -> None:
    world.run(rules.start_move, meta.StartMove(**world.place(), add=["d"], remove=["a"]))
    with pytest.raises(Refused, match="not all new replicas"):
        world.run(rules.finish_move, meta.FinishMove(**world.place()))
    assert world.alter("a", "a", "b", "c", "d").outcome == meta.OK
    world.run(rules.finish_move, meta.FinishMove(**world.place()))
    slot = world.slot()
    assert (list(slot.replicas), sorted(slot.isr), slot.primary, slot.epoch) == (["b", "c", "d"], ["b", "c", "d"], "b", 2)


def test_a_move_that_keeps_the_primary_keeps_the_epoch(world: World) -> None:
    world.run(rules.start_move, meta.StartMove(**world.place(), add=["d"], remove=["b"]))
    world.alter("a", "a", "b", "c", "d")
    world.run(rules.finish_move, meta.FinishMove(**world.place()))
    assert (world.slot().primary, world.slot().epoch) == ("a", 1)


def test_a_move_may_be_called_off(world: World) -> None:
    world.run(rules.start_move, meta.StartMove(**world.place(), add=["d"], remove=["b"]))
    world.alter("a", "a", "b", "c", "d")
    world.run(rules.cancel_move, meta.CancelMove(**world.place()))
    assert (list(world.slot().isr), list(world.slot().adding)) == (["a", "b", "c"], [])


def test_a_move_does_not_leave_too_few_in_sync(world: World) -> None:
    world.run(rules.start_move, meta.StartMove(**world.place(), add=[], remove=["b"]))
    world.alter("a", "a", "b")
    with pytest.raises(Refused, match="too few"):
        world.run(rules.finish_move, meta.FinishMove(**world.place()))


def test_an_early_election_holds_deliveries(world: World) -> None:
    world.run(rules.elect, pb.Elect(**world.place(), hold_ms=1500))
    assert (world.slot().primary, world.slot().hold_ms) == ("b", 1500)
    world.run(rules.transfer, meta.TransferPrimary(**world.place(), to="c"))
    assert world.slot().hold_ms == 0


def test_a_drained_broker_does_not_lead_while_another_can(world: World) -> None:
    world.run(rules.drain, meta.Drain(node="b"))
    world.fence("a")
    assert world.slot().primary == "c"
    world.run(rules.register, register("b"))
    assert world.view.brokers["b"].state == meta.DRAINING
    world.run(rules.drain, meta.Drain(node="b", cancel=True))
    assert world.view.brokers["b"].state == meta.ALIVE


def test_a_broker_with_nothing_may_be_forgotten(world: World) -> None:
    with pytest.raises(Refused, match="is running"):
        world.run(rules.forget, meta.ForgetBroker(node="d"))
    world.fence("d")
    world.run(rules.forget, meta.ForgetBroker(node="d"))
    assert "d" not in world.view.brokers
    assert world.view.config.removed_rev == world.rev


def test_the_check_knows_a_broken_rule(world: World) -> None:
    def break_it(**fields: object) -> None:
        change = Change(world.view, 99)
        slot = change.slot(0)
        for name, value in fields.items():
            if isinstance(value, list):
                rules._set(value, getattr(slot, name))
            else:
                setattr(slot, name, value)
        with pytest.raises(RuleBroken):
            rules.check(change)

    break_it(primary="b")  # in the same epoch
    break_it(primary="d", epoch=2, isr=["d"], replicas=["d"])  # was not in sync
    break_it(isr=[], primary="", epoch=2)
    break_it(isr=["a", "d"])  # not a replica
    break_it(epoch=0)
    break_it(lost_disk=b"x")


@pytest.mark.parametrize("seed", range(20))
def test_no_sequence_of_commands_breaks_an_invariant(seed: int) -> None:
    """`check` runs after each; over the whole history: an epoch has one primary, and only in-sync members lead."""
    rng = random.Random(seed)
    world = World(brokers=4, slots=4)
    primaries: dict[tuple[int, int], str] = {}
    accepted = 0
    for _ in range(1500):
        command = random_command(rng, world.view)
        op = command.WhichOneof("op")
        if op not in RULES:
            continue
        try:
            world.run(RULES[op], getattr(command, op))
        except Refused:
            continue
        accepted += 1
        for slot in world.view.slots.values():
            if slot.primary:
                assert primaries.setdefault((slot.slot, slot.epoch), slot.primary) == slot.primary
    assert accepted > 300


# --- Placement and controller -----------------------------------------------------------------------------------------


def brokers(count: int, zones: int = 0) -> list[meta.Broker]:
    return [meta.Broker(id=f"b{n}", weight=100, state=meta.ALIVE, zone=f"z{n % zones}" if zones else "") for n in range(count)]


def test_slots_spread_evenly_and_few_move_when_a_broker_joins() -> None:
    before = {slot: target(slot, places_of(brokers(5)), 3) for slot in range(1024)}
    counts = [sum(f"b{n}" in names for names in before.values()) for n in range(5)]
    assert all(0.85 < count / (1024 * 3 / 5) < 1.15 for count in counts), counts
    after = {slot: target(slot, places_of(brokers(6)), 3) for slot in range(1024)}
    moved = sum(len({*after[slot]} - {*before[slot]}) for slot in before)
    assert moved == sum("b5" in names for names in after.values()), "only the new broker gets anything"
    assert 0.85 < moved / (1024 * 3 / 6) < 1.15


def test_weights_are_shares() -> None:
    unequal = [*brokers(3), meta.Broker(id="big", weight=300, state=meta.ALIVE)]
    first = [target(slot, places_of(unequal), 1)[0] for slot in range(2048)]
    assert 0.45 < first.count("big") / 2048 < 0.55


def test_replicas_are_in_different_zones_while_there_are_enough() -> None:
    for slot in range(200):
        names = target(slot, places_of(brokers(6, zones=3)), 3)
        assert len({int(name[1:]) % 3 for name in names}) == 3
        assert len(set(target(slot, places_of(brokers(6, zones=2)), 3))) == 3


def test_targets_that_are_kept_are_those_that_are_computed() -> None:
    """Brokers come, go, are drained, get another weight or zone: several at a time."""
    rng = random.Random(9)
    targets = Targets()
    all_of_them = brokers(12, zones=4)
    for round_ in range(150):
        for broker in rng.sample(all_of_them, rng.randrange(3)):
            broker.drain = rng.random() < 0.3
            broker.weight = rng.choice((50, 100, 100, 300))
            broker.zone = rng.choice(("", "z0", "z1", "z2"))
        places = places_of(all_of_them[: rng.randrange(1, 13)])
        replicas = 3 if round_ < 100 else 2
        assert targets.of(64, places, replicas) == [target(slot, places, replicas) for slot in range(64)]


def settle(world: World) -> int:
    """Do what the controller plans, with primaries that bring new replicas in sync, until it plans nothing; moves."""
    moves = 0
    targets = Targets()
    for _ in range(10_000):
        commands = plan(world.view, targets)
        if not commands:
            return moves
        for command in commands:
            op = str(command.WhichOneof("op"))
            moves += op == "start_move"
            try:
                world.run(RULES[op], getattr(command, op))
            except Refused as refused:
                if refused.outcome != meta.STALE:  # overtaken by another command of the same plan
                    raise
        in_flight = [slot for slot in world.view.slots.values() if slot.adding]
        for name in BROKERS:
            assert sum(name in slot.adding for slot in in_flight) <= MOVES_PER_BROKER_MAX
        for slot in in_flight:
            members = [*slot.isr, *(name for name in slot.adding if name not in slot.isr)]
            change = meta.IsrChange(
                slot=slot.slot, epoch=slot.epoch, ver=slot.ver, isr=members,
                incarnations=[world.incarnation(name) for name in members],
            )  # fmt: skip
            request = meta.AlterIsrRequest(node=slot.primary, incarnation=world.incarnation(slot.primary), changes=[change])
            world.run(rules.alter_isr, request)
    raise AssertionError("the controller does not come to rest")


def test_slots_are_assigned_when_there_are_enough_brokers() -> None:
    world = World(brokers=2, slots=64)
    assert plan(world.view, Targets()) == []
    world.run(rules.register, register("c"))
    settle(world)
    assert all(len(slot.replicas) == 3 and slot.primary for slot in world.view.slots.values())


def test_a_joining_broker_gets_its_share_a_few_at_a_time() -> None:
    world = World(brokers=3, slots=64)
    settle(world)
    world.run(rules.register, register("d"))
    moves = settle(world)
    share = sum("d" in slot.replicas for slot in world.view.slots.values())
    assert moves == share
    assert 30 < share < 66  # of 64 slots with 3 replicas on 4 brokers, 48 are due
    assert all(len(slot.replicas) == 3 for slot in world.view.slots.values())


def test_a_drained_broker_gives_everything_up_and_leads_nothing() -> None:
    world = World(brokers=4, slots=64)
    settle(world)
    world.run(rules.drain, meta.Drain(node="b"))
    settle(world)
    assert not any("b" in slot.replicas or slot.primary == "b" for slot in world.view.slots.values())
    world.fence("b")
    world.run(rules.forget, meta.ForgetBroker(node="b"))


def test_when_a_move_takes_the_primary_away_placement_says_who_leads() -> None:
    """Also the one that has just come: else a broker that joins would be a replica of many slots, and lead none."""
    world = World(brokers=4)
    first, second, third, last = target(0, places_of(world.view.brokers.values()), 4)
    world.assign(last, third, second)
    world.run(rules.start_move, meta.StartMove(**world.place(), add=[first], remove=[last]))
    world.alter(last, last, third, second, first)
    settle(world)
    assert world.slot().primary == first
    assert sorted(world.slot().replicas) == sorted([first, second, third])
    assert world.slot().epoch == 2, "one change of leader, no more"


def test_two_that_a_move_removes_do_not_take_turns_to_lead() -> None:
    """All who stay are drained: the move ends, and one of them leads until it is moved as well."""
    world = World(brokers=5)
    world.run(rules.configure, meta.Configure(rebalance=False))
    world.assign("a", "b", "c")
    world.run(rules.start_move, meta.StartMove(**world.place(), add=["d"], remove=["a", "b"]))
    world.alter("a", *"abcd")
    for name in "cd":
        world.run(rules.drain, meta.Drain(node=name))
    assert [command.WhichOneof("op") for command in plan(world.view, Targets())] == ["finish_move"], "and no transfer to b"
    settle(world)
    assert list(world.slot().replicas) == ["c", "d"]
    assert (world.slot().primary, world.slot().epoch) == ("c", 2)


def test_a_drained_primary_hands_over_to_whom_placement_ranks_first() -> None:
    world = World(brokers=4)
    first, second, *rest = target(0, places_of(world.view.brokers.values()), 4)
    world.assign(first, *reversed([second, *rest][:2]))
    world.run(rules.drain, meta.Drain(node=first))
    (transfer,) = [command.transfer for command in plan(world.view, Targets()) if command.WhichOneof("op") == "transfer"]
    assert transfer.to == second


def test_a_broker_that_joins_takes_nothing_from_a_primary_that_stays() -> None:
    """That would cost memory mailboxes and leases; it leads when an operator says so, or when another is drained."""
    world = World(brokers=3, slots=64)
    settle(world)
    before = {slot.slot: slot.primary for slot in world.view.slots.values()}
    world.run(rules.register, register("d"))
    settle(world)
    assert {slot.slot: slot.primary for slot in world.view.slots.values()} == before
    world.run(rules.drain, meta.Drain(node="b"))
    settle(world)
    led = Counter(slot.primary for slot in world.view.slots.values())
    assert led["d"] > 5, led


def test_a_fenced_broker_keeps_its_place() -> None:
    world = World(brokers=4, slots=64)
    settle(world)
    held = sum("b" in slot.replicas for slot in world.view.slots.values())
    world.fence("b")
    settle(world)
    assert sum("b" in slot.replicas for slot in world.view.slots.values()) == held


def test_nothing_moves_while_something_has_too_few_in_sync() -> None:
    world = World(brokers=3, slots=64)
    settle(world)
    world.fence("b")
    world.fence("c")
    world.run(rules.register, register("d"))
    assert plan(world.view, Targets()) == []


def test_nothing_moves_when_an_operator_says_so() -> None:
    world = World(brokers=3, slots=64)
    settle(world)
    world.run(rules.configure, meta.Configure(rebalance=False))
    world.run(rules.register, register("d"))
    assert plan(world.view, Targets()) == []


def test_a_move_to_a_broker_that_died_is_called_off() -> None:
    world = World(brokers=4, slots=1)
    world.assign("a", "b", "c")
    world.run(rules.configure, meta.Configure(rebalance=False))
    world.run(rules.start_move, meta.StartMove(**world.place(), add=["d"], remove=["a"]))
    world.fence("d")
    settle(world)
    assert (list(world.slot().adding), list(world.slot().removing)) == ([], [])
