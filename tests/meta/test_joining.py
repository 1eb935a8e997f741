"""A node with an empty disk: what it waits for before it takes part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pysyncobj.monotonic import monotonic

from meta_service.disk import Disk
from meta_service.frames import Message
from meta_service.joining import Joining
from meta_service.journal import LmdbJournal
from meta_service.raft import RaftNode
from tests.meta.fleet import TUNING, History

WAIT_S = 2.0
OTHERS = frozenset({"p1", "p2"})


@dataclass
class Blank:
    """A disk with nothing on it, and who joins with it."""

    disk: Disk
    journal: LmdbJournal
    joining: Joining

    def again(self) -> Joining:
        """After a restart."""
        return Joining(self.disk, self.journal, OTHERS, WAIT_S)


@pytest.fixture
def blank(tmp_path: Path) -> Iterator[Blank]:
    disk = Disk(tmp_path / "node", sync=False)
    journal = LmdbJournal(disk)
    yield Blank(disk, journal, Joining(disk, journal, OTHERS, WAIT_S))
    disk.close()


def is_member(joining: Joining) -> bool:
    return not joining.active


def test_it_is_a_member_when_an_entry_is_committed_that_came_after_it_and_its_time_has_passed(blank: Blank) -> None:
    joining = blank.joining
    joining.heard("p1", 3, 10, now_s=100.0)
    joining.check("p1", 3, 11, now_s=100.0 + WAIT_S - 0.001)
    assert not is_member(joining), "an election its earlier self voted in may still be under way"
    joining.check("p1", 3, 10, now_s=100.0 + 10 * WAIT_S)
    assert not is_member(joining), "the leader has committed nothing since"
    assert not is_member(blank.again())
    joining.check("p1", 3, 11, now_s=100.0 + WAIT_S)
    assert is_member(joining)
    assert is_member(blank.again())


def test_what_the_leader_says_later_does_not_begin_the_wait_anew(blank: Blank) -> None:
    blank.joining.heard("p1", 3, 10, now_s=100.0)
    blank.joining.heard("p1", 3, 50, now_s=101.0)
    blank.joining.check("p1", 3, 11, now_s=100.0 + WAIT_S)
    assert is_member(blank.joining)


@pytest.mark.parametrize("later", [("p2", 4), ("p1", 4)])
def test_with_another_term_all_begins_anew(blank: Blank, later: tuple[str, int]) -> None:
    blank.joining.heard("p1", 3, 10, now_s=100.0)
    blank.joining.check(*later, 30, now_s=110.0)
    assert not is_member(blank.joining), "of this leader it has heard nothing"
    blank.joining.heard(*later, 20, now_s=110.0)
    blank.joining.check(*later, 20, now_s=120.0)
    blank.joining.check(*later, 21, now_s=110.0 + WAIT_S - 0.001)
    assert not is_member(blank.joining)
    blank.joining.check(*later, 21, now_s=110.0 + WAIT_S)
    assert is_member(blank.joining)


def test_a_cluster_is_founded_when_all_say_that_they_are_blank(blank: Blank) -> None:
    blank.joining.peer_is_blank("p1", True)
    blank.joining.peer_is_blank("p2", False)
    assert not is_member(blank.joining)
    blank.joining.peer_is_blank("p2", True)
    assert is_member(blank.joining)


class Link:
    """To peers that the test speaks for."""

    def send(self, peer: str, message: Message) -> None:
        """What is said is not looked at."""

    def has_room(self, peer: str) -> bool:
        return True


def test_a_node_waits_twice_as_long_as_an_election_may_take(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "me", sync=False)
    node = RaftNode("me", sorted(OTHERS), disk, History(disk), Link(), TUNING)
    before_s = monotonic()
    for index in (2, 3):  # each is committed when it comes
        message = {
            "type": "append_entries", "term": 1, "commit_index": index, "last_index": index,
            "prevLogIdx": index - 1, "prevLogTerm": index - 2, "entries": [(b"\0x", index, 1)],
        }  # fmt: skip
        node.receive("p1", message)
        node.tick()
    assert node.journal.last_index == 3
    assert not is_member(node.joining)
    node.joining.check("p1", 1, 3, before_s + 2 * TUNING.election_max_s - 1)
    assert not is_member(node.joining)
    node.joining.check("p1", 1, 3, monotonic() + 2 * TUNING.election_max_s)
    assert is_member(node.joining)
    node.close()
    disk.close()
