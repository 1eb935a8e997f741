"""The state machine: the same commands give the same bytes, repeated commands happen once, broken ones change nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from meta_service import rules
from meta_service.disk import Disk
from meta_service.frames import LENGTH
from meta_service.journal import LmdbJournal
from meta_service.offsets import floors
from meta_service.snapshot import Snapshots, checksum, state_rows
from meta_service.state import COMMAND_VERSION, Changed, State
from mq9 import limits
from mq9.errors import Mq9Error
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb

BROKERS = ("a", "b", "c", "d")


class Bench:
    """A state of its own that is told commands."""

    def __init__(self, directory: Path) -> None:
        self.disk = Disk(directory, sync=False)
        self.changes: list[Changed] = []
        self.state = State(self.disk, self.changes.append)
        self.journal = LmdbJournal(self.disk)
        self.journal.before_flush = self.state.save

    def do(self, **fields: object) -> pb.CommandResult:
        return self.raw(pb.MetaCommand(version=COMMAND_VERSION, **fields).SerializeToString())  # type: ignore[arg-type]  # any field

    def raw(self, command: bytes) -> pb.CommandResult:
        index = self.journal.last_index + 1
        self.journal.add(b"\0" + command, index, 1)
        return self.state.apply(index, command)

    def slot(self, number: int) -> meta.Slot:
        return self.state.view.slots[number]

    def flush(self) -> None:
        self.journal.flush(force=True)

    def dump(self) -> list[tuple[int, bytes, bytes]]:
        """Every row of the state, byte for byte."""
        self.flush()
        with self.disk.snapshot() as snapshot:
            return list(state_rows(snapshot))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "one")


def register(name: str, **more: object) -> meta.RegisterRequest:
    fields = {"node": name, "disk_id": name.encode(), "peer_address": f"{name}:1", "client_address": f"{name}:2", **more}
    return meta.RegisterRequest(**fields)  # type: ignore[arg-type]  # any field


def found(bench: Bench) -> None:
    bench.do(found=pb.Found(cluster_id=b"id", slots=4, replication_factor=3, min_in_sync=2))
    for name in BROKERS:
        bench.do(register=register(name))
    replicas = [["a", "b", "c"], ["b", "c", "d"], ["c", "d", "a"], ["d", "a", "b"]]
    each = [pb.Assignment(slot=n, epoch=0, ver=1, replicas=replicas[n]) for n in range(4)]
    assert bench.do(assign=pb.Assign(assignments=each)).outcome == meta.OK


def fill(bench: Bench) -> None:
    """So many floors that a snapshot is several chunks."""
    found(bench)
    for consumer in range(3):
        slot = meta.SlotFloors(slot=0, epoch=1)
        for mailbox in range(limits.META_FLOORS_PER_COMMAND_MAX):
            slot.floors.add(mailbox=mailbox, consumer=consumer, tier=0, floor=1)
        bench.do(offsets=meta.CommitOffsetsRequest(slots=[slot]))


def random_command(rng: random.Random, view: rules.View) -> pb.MetaCommand:
    """Anything a broker, an operator or a leader may propose, sensible or not."""
    name = rng.choice(BROKERS)
    slot = view.slots.get(rng.randrange(5)) or meta.Slot(slot=rng.randrange(5))
    place = {"slot": slot.slot, "epoch": slot.epoch - (rng.random() < 0.1 and slot.epoch > 0), "ver": slot.ver}
    broker = view.brokers.get(name) or meta.Broker(id=name)
    members = rng.sample(BROKERS, rng.randint(1, 3))
    incarnations = [view.brokers[each].incarnation if each in view.brokers else 0 for each in members]
    isr = meta.IsrChange(**place, isr=members, incarnations=incarnations)
    primary = view.brokers.get(slot.primary, broker)
    floors = meta.SlotFloors(slot=slot.slot, epoch=slot.epoch, forget=[rng.randrange(9)] if rng.random() < 0.1 else [])
    for _ in range(rng.randint(0, 4)):
        floors.floors.add(mailbox=rng.randrange(9), consumer=rng.randrange(3), tier=rng.randrange(3), floor=rng.randrange(1000))
    disk = name.encode() + (b"new%d" % rng.randrange(3) if rng.random() < 0.2 else b"")
    choices: list[dict[str, object]] = [
        {"register": register(name, disk_id=disk)},
        {"fence": pb.Fence(node=name, incarnation=broker.incarnation)},
        {"depose": pb.Depose(node=name, incarnation=broker.incarnation, hold_ms=rng.randrange(3) * 1000)},
        {"alter_isr": meta.AlterIsrRequest(node=primary.id, incarnation=primary.incarnation, changes=[isr])},
        {"elect": pb.Elect(**place, hold_ms=rng.randrange(100))},
        {"transfer": meta.TransferPrimary(**place, to=name)},
        {"start_move": meta.StartMove(**place, add=rng.sample(BROKERS, rng.randint(0, 1)), remove=rng.sample(BROKERS, 1))},
        {"finish_move": meta.FinishMove(**place)},
        {"cancel_move": meta.CancelMove(**place)},
        {"unclean_elect": meta.UncleanElect(**place, to=name)},
        {"drain": meta.Drain(node=name, cancel=rng.random() < 0.6)},
        {"configure": meta.Configure(min_in_sync=rng.randint(0, 3))},
        {"offsets": meta.CommitOffsetsRequest(slots=[floors])},
        {"assign": pb.Assign(assignments=[pb.Assignment(**place, replicas=members)])},
        {"forget": meta.ForgetBroker(node=name)},
        {"barrier": pb.Barrier()},
    ]
    command = pb.MetaCommand(version=COMMAND_VERSION, now_ms=rng.getrandbits(40), **rng.choice(choices))  # type: ignore[arg-type]
    if rng.random() < 0.3:
        command.client, command.seq = rng.choice("xyz"), rng.randrange(40)
    return command


@pytest.mark.parametrize("seed", range(12))
def test_the_same_commands_give_the_same_bytes(tmp_path: Path, seed: int) -> None:
    """Also over restarts, repetitions of what was not committed, and a snapshot in the middle."""
    rng = random.Random(seed)
    one, other = Bench(tmp_path / "one"), Bench(tmp_path / "other")
    found(one)
    found(other)
    accepted = 0
    for number in range(400):
        command = random_command(rng, one.state.view).SerializeToString()
        result = one.raw(command)
        accepted += result.outcome == meta.OK
        assert other.raw(command) == result
        if number % 97 == 0:
            other = restarted(other, tmp_path / "other", crash=number % 2 == 0, one=one)
    assert accepted > 100
    assert one.dump() == other.dump()
    third = installed(one, tmp_path / "third")
    assert third.dump() == one.dump()
    assert third.state.view == one.state.view


def restarted(bench: Bench, directory: Path, *, crash: bool, one: Bench) -> Bench:
    """The bench after a stop, or a crash that forgot what was applied since the last flush and replays it."""
    if not crash:
        bench.flush()
    bench.disk.close()
    again = Bench(directory)
    for command, index, term in one.journal[again.journal.last_index :]:
        again.journal.add(command, index, term)
    for command, index, _ in again.journal[:]:
        if index > max(again.state.applied, 1):
            again.state.apply(index, command[1:])
    return again


def installed(bench: Bench, directory: Path, fresh: Bench | None = None) -> Bench:
    """A new node, or one that is behind, that was sent a snapshot."""
    bench.flush()
    sender, fresh = Snapshots(bench.disk, bench.flush), fresh or Bench(directory)
    receiver = Snapshots(fresh.disk, fresh.flush)
    whole = None
    while whole is None:
        whole = receiver.take(sender.next_chunk("peer"))
    fresh.state.install(whole)
    fresh.flush()
    return fresh


def test_a_repeated_request_happens_once(bench: Bench) -> None:
    found(bench)
    first = bench.do(client="x", seq=5, register=register("a"))
    again = bench.do(client="x", seq=5, register=register("a"))
    assert first == again
    assert bench.do(client="x", seq=4, register=register("a")).outcome == meta.STALE
    assert bench.do(client="x", seq=6, register=register("a")).incarnation == first.incarnation + 1
    assert bench.do(client="y", seq=6, register=register("a")).incarnation == first.incarnation + 2


def test_a_refusal_is_not_remembered(bench: Bench) -> None:
    """A broker that registers while the cluster is being founded repeats the same request until it is let in."""
    assert bench.do(client="x", seq=1, register=register("a")).outcome == meta.REFUSED
    bench.do(found=pb.Found(cluster_id=b"id", slots=4, replication_factor=3, min_in_sync=2))
    assert bench.do(client="x", seq=1, register=register("a")).outcome == meta.OK


def test_the_oldest_remembered_request_goes_first(bench: Bench) -> None:
    found(bench)
    kept = limits.META_CLIENTS_REMEMBERED_MAX
    for number in range(kept):
        bench.do(client=f"c{number}", seq=1, barrier=pb.Barrier())
    bench.do(client="c0", seq=2, barrier=pb.Barrier())  # used again: now c1 is the oldest
    bench.do(client="new", seq=1, barrier=pb.Barrier())
    assert bench.do(client="c0", seq=1, barrier=pb.Barrier()).outcome == meta.STALE
    before = bench.state.view.config.last_incarnation
    assert bench.do(client="c1", seq=1, register=register("a")).incarnation == before + 1


@pytest.mark.parametrize("command", [b"", b"\xff\xff\xff", b"\x08\x01"])
def test_nonsense_is_an_answer(bench: Bench, command: bytes) -> None:
    if command == b"":
        with pytest.raises(Mq9Error, match="version 0"):
            bench.raw(command)
        return
    assert bench.raw(command).outcome == meta.INVALID
    assert bench.state.view.config.cluster_id == b""


def test_a_command_of_a_later_version_stops_the_node(bench: Bench) -> None:
    with pytest.raises(Mq9Error, match="needs a newer release"):
        bench.raw(pb.MetaCommand(version=COMMAND_VERSION + 1, barrier=pb.Barrier()).SerializeToString())


@pytest.mark.parametrize("client", ["", "x"])
def test_a_command_that_would_break_an_invariant_changes_no_row(
    bench: Bench, caplog: pytest.LogCaptureFixture, client: str
) -> None:
    """As a mistake in a rule would: the command is refused, the log says why, and the node goes on."""
    found(bench)
    before, told = bench.dump(), len(bench.changes)
    sound, spoiled = bench.slot(0), meta.Slot()
    spoiled.CopyFrom(sound)
    spoiled.isr.append("d")  # which is no replica
    bench.state.view.slots[0] = spoiled
    result = bench.do(client=client, seq=1, transfer=meta.TransferPrimary(slot=0, epoch=1, ver=2, to="d"))
    assert (result.outcome, result.text) == (meta.REFUSED, "transfer failed; the log of the meta service has the reason")
    assert "replicas without an in-sync set, or one outside of them; slot 0" in caplog.text
    assert bench.slot(0) is spoiled
    assert bench.dump() == before
    assert len(bench.changes) == told
    bench.state.view.slots[0] = sound
    again = bench.do(client=client, seq=1, transfer=meta.TransferPrimary(slot=0, epoch=1, ver=2, to="b"))
    assert again.outcome == meta.OK, "what changed nothing is not remembered either"


def test_a_refused_command_changes_no_row(bench: Bench) -> None:
    found(bench)
    before, told = bench.dump(), len(bench.changes)
    assert bench.do(transfer=meta.TransferPrimary(slot=0, epoch=1, ver=2, to="d")).outcome == meta.REFUSED
    assert bench.do(transfer=meta.TransferPrimary(slot=0, epoch=9, ver=2, to="b")).outcome == meta.STALE
    assert bench.do(forget=meta.ForgetBroker(node="a")).outcome == meta.REFUSED
    assert bench.do(drain=meta.Drain(node="nobody")).outcome == meta.INVALID
    assert bench.do(configure=meta.Configure(min_in_sync=9)).outcome == meta.INVALID
    assert bench.dump() == before
    assert len(bench.changes) == told


def test_a_founded_cluster_is_founded_once(bench: Bench) -> None:
    found(bench)
    bench.do(found=pb.Found(cluster_id=b"other", slots=9, replication_factor=1, min_in_sync=1))
    assert (bench.state.view.config.cluster_id, len(bench.state.view.slots)) == (b"id", 4)


def test_floors_only_grow_and_go_with_their_mailbox(bench: Bench) -> None:
    found(bench)

    def floor(mailbox: int, value: int, epoch: int = 1) -> pb.CommandResult:
        slot = meta.SlotFloors(slot=1, epoch=epoch, floors=[meta.Floor(mailbox=mailbox, consumer=1, tier=2, floor=value)])
        return bench.do(offsets=meta.CommitOffsetsRequest(slots=[slot]))

    floor(7, 10)
    floor(7, 5)
    floor(8, 1)
    assert list(floor(7, 99, epoch=2).stale_slots) == [1]
    bench.flush()
    with bench.disk.snapshot() as snapshot:
        assert [(each.mailbox, each.floor) for each in floors(snapshot, 1)] == [(7, 10), (8, 1)]
        assert list(floors(snapshot, 0)) == []
    bench.do(offsets=meta.CommitOffsetsRequest(slots=[meta.SlotFloors(slot=1, epoch=1, forget=[7])]))
    bench.flush()
    with bench.disk.snapshot() as snapshot:
        assert [each.mailbox for each in floors(snapshot, 1)] == [8]


# --- Snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_with_a_hole_or_a_flipped_bit_is_not_taken(bench: Bench, tmp_path: Path) -> None:
    fill(bench)
    sender = Snapshots(bench.disk, bench.flush)
    chunks = [sender.next_chunk("peer")]
    while not chunks[-1].last:
        chunks.append(sender.next_chunk("peer"))
    assert len(chunks) > 2
    fresh = Bench(tmp_path / "fresh")
    receiver = Snapshots(fresh.disk, fresh.flush)
    assert [receiver.take(chunk) for chunk in (chunks[0], *chunks[2:])][-1] is None
    damaged = pb.SnapshotChunk()
    damaged.CopyFrom(chunks[0])
    damaged.rows[3].value = damaged.rows[3].value[:-1] + b"?"
    assert [receiver.take(chunk) for chunk in (damaged, *chunks[1:])][-1] is None
    assert [receiver.take(chunk) for chunk in chunks][-1] is not None


def test_a_snapshot_is_of_the_moment_it_began(bench: Bench, tmp_path: Path) -> None:
    fill(bench)
    sender = Snapshots(bench.disk, bench.flush)
    chunks = [sender.next_chunk("peer")]
    index = bench.state.applied
    bench.do(drain=meta.Drain(node="a"))
    bench.flush()
    while not chunks[-1].last:
        chunks.append(sender.next_chunk("peer"))
    fresh = Bench(tmp_path / "fresh")
    receiver = Snapshots(fresh.disk, fresh.flush)
    whole = [receiver.take(chunk) for chunk in chunks][-1]
    assert whole is not None
    fresh.state.install(whole)
    assert (fresh.state.applied, fresh.state.view.brokers["a"].drain) == (index, False)


def test_a_snapshot_takes_away_what_its_sender_has_no_more(bench: Bench, tmp_path: Path) -> None:
    """A node that was behind when a broker was forgotten, floors of a mailbox went, and an old request was."""
    behind = Bench(tmp_path / "behind")
    for each in (bench, behind):
        found(each)
        each.do(register=register("gone"))
        each.do(fence=pb.Fence(node="gone", incarnation=each.state.view.brokers["gone"].incarnation))
        floors_ = meta.SlotFloors(slot=0, epoch=1, floors=[meta.Floor(mailbox=7, consumer=1, tier=0, floor=5)])
        each.do(offsets=meta.CommitOffsetsRequest(slots=[floors_]))
    assert behind.dump() == bench.dump()
    behind.do(client="long ago", seq=1, drain=meta.Drain(node="d", cancel=True))
    bench.do(forget=meta.ForgetBroker(node="gone"))
    bench.do(offsets=meta.CommitOffsetsRequest(slots=[meta.SlotFloors(slot=0, epoch=1, forget=[7])]))
    installed(bench, tmp_path, behind)
    assert behind.dump() == bench.dump()
    assert "gone" not in behind.state.view.brokers
    assert behind.state.view == bench.state.view
    last = behind.changes[-1]
    assert last.full, "watchers are told everything, so that they miss what is not in it"
    assert {broker.id for broker in last.brokers} == set(BROKERS)
    index = bench.state.applied + 1
    command = pb.MetaCommand(version=COMMAND_VERSION, client="long ago", seq=1, drain=meta.Drain(node="d")).SerializeToString()
    assert behind.state.apply(index, command) == bench.state.apply(index, command), "nobody remembers it"
    assert behind.state.view.brokers["d"].drain


def test_a_crash_while_taking_a_snapshot_leaves_the_old_state(bench: Bench, tmp_path: Path) -> None:
    found(bench)
    sender = Snapshots(bench.disk, bench.flush)
    fresh = Bench(tmp_path / "fresh")
    whole = Snapshots(fresh.disk, fresh.flush).take(sender.next_chunk("peer"))
    assert whole is not None
    fresh.flush()
    fresh.state.install(whole)
    fresh.disk.close()  # before the commit
    again = Bench(tmp_path / "fresh")
    assert (again.state.applied, again.state.view.slots) == (0, {})


def test_the_checksum_tells_keys_from_values() -> None:
    assert checksum(1, b"ab", b"c") != checksum(1, b"a", b"bc")
    assert checksum(1, b"a", b"b") != checksum(2, b"a", b"b")
    assert LENGTH.size == 4
