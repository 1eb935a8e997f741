"""Raft as we run it, against schedules no network would produce in a year, and each of PySyncObj's defects by name."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meta_service.contracts import RaftBroken
from meta_service.disk import Disk
from meta_service.frames import Message
from meta_service.raft import RaftNode
from mq9.errors import Mq9Error
from tests.meta import fleet
from tests.meta.fleet import TUNING, History, SafetyError

STEPS = 1500
RUNS = 80
LONG_RUNS = int(os.environ.get("MQ9_META_SCHEDULES", "5000"))


@pytest.fixture
def ram() -> Iterator[Path]:
    """A directory in memory where there is one: these nodes crash thousands of times, and none needs a real disk."""
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a directory of our own in it
    with tempfile.TemporaryDirectory(dir=parent, prefix="mq9-fleet-") as directory:
        yield Path(directory)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def run_many(directory: Path, runs: int, size: int, kind: type[RaftNode] = RaftNode, steps: int = STEPS) -> None:
    totals = [0] * 5
    for seed in range(runs):
        done = fleet.run(directory / "fleet", seed, steps, size, kind)
        shutil.rmtree(directory / "fleet")
        found = (done.proposed, len(done.acknowledged), len(done.leaders), done.crashes, done.wipes)
        totals = [total + each for total, each in zip(totals, found, strict=True)]
    names = ("proposed", "acknowledged", "terms with a leader", "crashes", "wiped disks")
    print(f"{size} nodes, {runs} schedules:", *(f"{name} {total}," for name, total in zip(names, totals, strict=True)))  # noqa: T201
    assert totals[1] > runs * 5, "the schedules must let something happen"


def test_three_nodes_agree_whatever_happens(ram: Path) -> None:
    run_many(ram, RUNS, 3)


def test_five_nodes_agree_whatever_happens(ram: Path) -> None:
    run_many(ram, RUNS // 4, 5, steps=2 * STEPS)


def test_one_node_agrees_with_itself(ram: Path) -> None:
    run_many(ram, RUNS // 8, 1)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("size", [3, 5])
def test_many_schedules(ram: Path, size: int) -> None:
    run_many(ram, LONG_RUNS, size)


# --- The same schedules find each of these, so they would find it in us -----------------------------------------------


class AlwaysTruncates(RaftNode):
    """What stock PySyncObj does: everything behind a short or repeated message is dropped."""

    def _store(self, previous: int, entries: list[Any]) -> None:
        super()._store(previous, entries)
        behind = previous + len(entries) + 1
        if behind <= self.journal.last_index:
            self.journal.deleteEntriesFrom(behind - self.journal.first_index)


class AnswersBeforeItsDisk(RaftNode):
    """Acknowledges what a crash can still take back."""

    def _answer(self, node: Any, next_index: int, *, success: bool = False, reset: bool = False) -> None:
        super()._answer(node, next_index, success=success, reset=reset)
        held, self._held = self._held, []
        for each, message in held:
            self._link.send(each.id, message)


class CountsItselfBeforeItsDisk(RaftNode):
    """A leader that commits with a copy of its own that is only in memory."""

    def _settle(self) -> None:
        held, self._held = self._held, []
        if held:
            self.journal.flush()
        for node, message in held:
            self._link.send(node.id, message)


class VotesWithAnEmptyDisk(RaftNode):
    """A replaced node that takes part at once."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self.joining.active:
            self.joining._become_member("too early")


class KeepsConflicts(RaftNode):
    """A follower that keeps entries of a leader that was deposed."""

    def _store(self, previous: int, entries: list[Any]) -> None:
        for entry in entries:
            if entry[1] > self.journal.last_index:
                self.journal.add(*entry)


class ForgetsVotes(RaftNode):
    """Votes that are not on the disk when they are sent."""

    def _SyncObj__setCurrentTerm(self, term: int, vote: str | None) -> None:
        self._SyncObj__raftCurrentTerm = term
        self._SyncObj__votedForNodeId = vote
        self.journal._term, self.journal._vote = term, vote or ""


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(AlwaysTruncates, marks=pytest.mark.long),  # takes the schedules twenty seconds
        AnswersBeforeItsDisk,
        CountsItselfBeforeItsDisk,
        VotesWithAnEmptyDisk,
        KeepsConflicts,
        ForgetsVotes,
    ],
)
def test_the_schedules_find_a_broken_rule(ram: Path, kind: type[RaftNode]) -> None:
    with pytest.raises((SafetyError, RaftBroken)):
        run_many(ram, 400, 3, kind)


# --- One node, one message at a time ----------------------------------------------------------------------------------


class Bench:
    """A node whose peers are the test."""

    def __init__(self, directory: Path, size: int) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.disk = Disk(directory, sync=False)
        self.history = History(self.disk)
        others = [f"p{number}" for number in range(1, size)]
        self.node = RaftNode("me", others, self.disk, self.history, self, TUNING)
        for other in others:
            self.node.peer_connected(other)
            self.node.joining.peer_is_blank(other, True)
        assert not self.node.joining.active

    def send(self, peer: str, message: Message) -> None:
        self.sent.append((peer, message))

    def has_room(self, peer: str) -> bool:
        return True

    def said(self, kind: str) -> list[Message]:
        """What was sent of this kind since the last call."""
        found = [message for _, message in self.sent if message["type"] == kind]
        self.sent = [each for each in self.sent if each[1]["type"] != kind]
        return found

    def append(self, term: int, previous: tuple[int, int], *entries: tuple[int, bytes], commit: int = 1) -> Message:
        """Receive entries (term, command) behind `previous` (index, term); the answer."""
        first = previous[0] + 1
        self.node.receive(
            "p1",
            {
                "type": "append_entries", "term": term, "commit_index": commit, "last_index": previous[0] + len(entries),
                "prevLogIdx": previous[0], "prevLogTerm": previous[1],
                "entries": [(b"\0" + command, first + place, each) for place, (each, command) in enumerate(entries)],
            },
        )  # fmt: skip
        self.node.tick()
        return self.said("next_node_idx")[-1]

    def lead(self) -> None:
        """Become leader by the votes of p1 and, of five, p2."""
        self.node._SyncObj__raftElectionDeadline = 0
        self.node.tick()
        asked = self.said("pre_vote")
        for peer in ("p1", "p2"):
            self.node.receive(peer, {"type": "pre_vote_granted", "term": asked[0]["term"]})
        self.node.tick()
        for peer in ("p1", "p2"):
            self.node.receive(peer, {"type": "response_vote", "term": self.node.term})
        self.node.tick()
        assert self.node.is_leader


@pytest.fixture(params=[3])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "me", request.param)
    yield found
    found.node.close()
    found.disk.close()


def test_a_short_or_repeated_message_leaves_the_rest_of_the_log(bench: Bench) -> None:
    bench.append(1, (1, 0), (1, b"a"), (1, b"b"), (1, b"c"))
    answer = bench.append(1, (1, 0), (1, b"a"))
    assert (answer["next_node_idx"], answer["success"]) == (3, True)
    assert bench.append(1, (2, 1))["next_node_idx"] == 3
    assert [command for command, _, _ in bench.node.journal[1:]] == [b"\0a", b"\0b", b"\0c"]


def test_a_conflict_of_terms_cuts_the_log_there(bench: Bench) -> None:
    bench.append(1, (1, 0), (1, b"a"), (1, b"b"), (1, b"c"))
    answer = bench.append(2, (1, 0), (1, b"a"), (2, b"B"))
    assert (answer["next_node_idx"], answer["success"]) == (4, True)
    assert [command for command, _, _ in bench.node.journal[1:]] == [b"\0a", b"\0B"]


def test_an_unmatched_message_says_where_to_go_on(bench: Bench) -> None:
    bench.append(1, (1, 0), (1, b"a"), (1, b"b"), (1, b"c"))
    ahead = bench.append(2, (9, 2))
    assert (ahead["next_node_idx"], ahead["reset"], ahead["success"]) == (5, True, False)
    conflict = bench.append(2, (4, 2))
    assert (conflict["next_node_idx"], conflict["reset"], conflict["success"]) == (2, True, False)


def test_only_what_is_known_to_match_is_committed(bench: Bench) -> None:
    bench.append(1, (1, 0), (1, b"old"), (1, b"old"), (1, b"old"))
    bench.append(2, (2, 1), commit=4)  # entries 3 and 4 of this leader may be others
    assert bench.node.raftCommitIndex == 2


def test_what_is_committed_is_never_cut(bench: Bench) -> None:
    bench.append(1, (1, 0), (1, b"a"), (1, b"b"), commit=3)
    with pytest.raises(RaftBroken, match="another entry 3"):
        bench.append(2, (2, 1), (2, b"B"), commit=3)


def test_an_old_leader_learns_the_term(bench: Bench) -> None:
    bench.append(5, (1, 0))
    answer = bench.append(4, (1, 0), (4, b"late"))
    assert (answer["term"], answer["success"], bench.node.journal.last_index) == (5, False, 1)


def test_a_leader_steps_down_for_a_later_term(bench: Bench) -> None:
    bench.lead()
    later = bench.node.term + 3
    bench.node.receive("p1", {"type": "next_node_idx", "term": later, "next_node_idx": 1, "reset": False, "success": False})
    assert (bench.node.is_leader, bench.node.term) == (False, later)


def test_an_answer_of_another_term_does_not_count(bench: Bench) -> None:
    bench.lead()
    results: list[Any] = []
    bench.node.propose(b"x", lambda result, reason: results.append(result))
    bench.node.tick()
    last = bench.node.journal.last_index
    answer = {"type": "next_node_idx", "next_node_idx": last + 1, "reset": False, "success": True}
    bench.node.receive("p1", {**answer, "term": bench.node.term - 1})
    bench.node.tick()
    assert results == []
    bench.node.receive("p1", {**answer, "term": bench.node.term})
    bench.node.tick()
    assert results == [b"x"]


def test_an_acknowledgement_of_what_was_never_sent_stops_the_node(bench: Bench) -> None:
    bench.lead()
    message = {"type": "next_node_idx", "term": bench.node.term, "next_node_idx": 99, "reset": False, "success": True}
    with pytest.raises(RaftBroken, match="never sent"):
        bench.node.receive("p1", message)


@pytest.mark.parametrize("bench", [5], indirect=True)
def test_a_vote_counts_once_per_peer(bench: Bench) -> None:
    bench.node._SyncObj__raftElectionDeadline = 0
    bench.node.tick()
    for peer in ("p1", "p2"):
        bench.node.receive(peer, {"type": "pre_vote_granted", "term": bench.node.term + 1})
    bench.node.tick()
    for _ in range(3):
        bench.node.receive("p1", {"type": "response_vote", "term": bench.node.term})
    assert bench.node.role == "candidate"
    bench.node.receive("p2", {"type": "response_vote", "term": bench.node.term})
    assert bench.node.is_leader


def test_no_election_without_a_majority_that_wants_it(bench: Bench) -> None:
    bench.node._SyncObj__raftElectionDeadline = 0
    for _ in range(5):
        bench.node.tick()
    assert (bench.node.role, bench.node.term) == ("follower", 0)


def test_who_hears_a_leader_wants_no_election(bench: Bench) -> None:
    bench.append(1, (1, 0), (1, b"a"))
    ask = {"type": "pre_vote", "term": 2, "last_log_index": 9, "last_log_term": 1}
    bench.node.receive("p2", ask)
    assert bench.said("pre_vote_granted") == []
    bench.node._leader_heard_s = float("-inf")
    bench.node.receive("p2", ask)
    assert [each["term"] for each in bench.said("pre_vote_granted")] == [2]
    bench.node.receive("p2", {**ask, "last_log_index": 1})
    assert bench.said("pre_vote_granted") == []


def test_one_that_is_behind_in_term_learns_it_when_it_asks(bench: Bench) -> None:
    bench.append(7, (1, 0))
    bench.node.receive("p2", {"type": "pre_vote", "term": 3, "last_log_index": 9, "last_log_term": 9})
    bench.node.tick()
    assert [each["term"] for each in bench.said("next_node_idx")] == [7]


def test_one_flush_covers_a_turn_and_nothing_is_answered_before_it(bench: Bench) -> None:
    before = bench.disk.commits
    for number in range(50):
        message = {
            "type": "append_entries", "term": 1, "commit_index": 1, "last_index": number + 2, "prevLogIdx": number + 1,
            "prevLogTerm": 1 if number else 0, "entries": [(b"\0x", number + 2, 1)],
        }  # fmt: skip
        bench.node.receive("p1", message)
    assert bench.said("next_node_idx") == []
    term_and_vote = bench.disk.commits - before
    bench.node.tick()
    assert len(bench.said("next_node_idx")) == 50
    assert (term_and_vote, bench.disk.commits - before) == (1, 2)


def test_a_leader_that_falls_tells_its_clients_at_once(bench: Bench) -> None:
    bench.lead()
    reasons: list[int] = []
    bench.node.propose(b"x", lambda _, reason: reasons.append(reason))
    bench.node.tick()
    bench.append(bench.node.term + 1, (1, 0))
    assert len(reasons) == 1
    assert reasons != [0]


def test_a_proposal_to_a_follower_is_refused(bench: Bench) -> None:
    reasons: list[int] = []
    bench.node.propose(b"x", lambda _, reason: reasons.append(reason))
    bench.node.tick()
    assert len(reasons) == 1
    assert reasons != [0]


def test_entries_of_kinds_that_carry_pickles_stop_the_node(bench: Bench) -> None:
    bench.append(1, (1, 0))
    message = {
        "type": "append_entries", "term": 1, "commit_index": 2, "last_index": 2, "prevLogIdx": 1, "prevLogTerm": 0,
        "entries": [(b"\x03" + b"cos\nsystem\n(S'false'\ntR.", 2, 1)],
    }  # fmt: skip
    bench.node.receive("p1", message)
    with pytest.raises(RaftBroken, match="kind 3"):
        bench.node.tick()


def test_a_state_that_is_newer_than_the_journal_is_damage(tmp_path: Path) -> None:
    disk = Disk(tmp_path, sync=False)
    history = History(disk)
    history.applied = 40
    with pytest.raises(Mq9Error, match="of entry 40"):
        RaftNode("me", [], disk, history, fleet.Wire.__new__(fleet.Wire), TUNING)
    disk.close()
