"""The agents of a slot when its leader changes: none lost, none twice, none expired for want of somebody to report to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mq9.errors import UnavailableError
from mq9.storage.interface import Batch, Table
from mq9.storage.layout import slot_of
from tests.cluster.registry_nodes import SLOTS, RegistryNodes


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[RegistryNodes]:
    made = RegistryNodes(tmp_path)
    yield made
    made.close()


def test_a_takeover_loses_nobody_and_embeds_nothing(nodes: RegistryNodes) -> None:
    nodes.register_all({"name": f"agent{number}", "description": f"knows {'q' * (number + 1)}"} for number in range(60))
    newest_first = nodes["a"].names(limit=60)
    nodes.call("report", "agent7", status="busy")
    nodes.replicate()
    nodes.kill("a")
    for member in nodes.members.values():
        member.words.texts.clear()
    nodes.elect()
    for member in nodes.members.values():
        assert member.names(limit=60) == newest_first
        assert member.discover(name="agent7")["agents"][0]["status"] == "busy"
        for number in range(0, 60, 7):
            assert member.names(text="q" * (number + 1)) == [f"agent{number}"]
            query = f"agent{number}: knows {'q' * (number + 1)}"
            assert member.names(semantic=query, mode="semantic")[0] == f"agent{number}"
        member.run_until_indexed()
        assert len(member.words.texts) == 9  # the queries alone
    nodes.register("agent61", description="came later")
    assert nodes["b"].names()[0] == "agent61"


def test_vectors_that_were_not_replicated_in_time_are_made_before_anybody_is_answered(nodes: RegistryNodes) -> None:
    nodes.register_all({"name": f"agent{number}", "description": f"knows {'q' * (number + 1)}"} for number in range(60))
    nodes.replicate()
    batch = Batch()
    for member in nodes.members.values():
        for key, _ in member.store.scan(Table.AGENT_VECTOR, b"", b"\xff", 1000):
            batch.delete(Table.AGENT_VECTOR, key)
        member.store.commit(batch)
    nodes.kill("a")
    nodes.elect()
    assert len(nodes["b"].names(semantic="knows something", mode="semantic", limit=60)) == 60


def test_slots_go_and_come_back(nodes: RegistryNodes) -> None:
    nodes.register_all({"name": f"agent{number}", "description": f"knows subject s{number}x"} for number in range(40))
    for round_ in range(3):
        for slot in range(SLOTS):
            nodes.lead(slot, "abc"[(slot + round_ + 1) % 3])
        for member in nodes.members.values():
            assert len(member.names(limit=40)) == 40
            assert sorted(member.names(text="subject", limit=40)) == sorted(f"agent{number}" for number in range(40))
            assert len(member.names(semantic="anything", limit=40)) == 40
    for member in nodes.members.values():
        member.run_until_indexed()
        engine = member.registry.background.engine
        assert engine is not None
        assert engine.text.documents == len(member.registry.table)
        assert engine.vectors is not None
        assert engine.vectors.agents == len(member.registry.table)


def test_heartbeats_count_anew_from_the_takeover(nodes: RegistryNodes) -> None:
    nodes.register("a", heartbeat=10)
    slot, first = slot_of(b"a", SLOTS), nodes.leader("a").name
    nodes.clock.advance(29)
    other = next(name for name in nodes.members if name != first)
    nodes.lead(slot, other)
    nodes.clock.advance(29)  # nobody could report to the leader that was gone
    assert nodes[first].names() == ["a"]
    nodes.clock.advance(1)
    assert nodes[first].names() == []
    assert nodes[first].names(status="offline") == ["a"]
    nodes.call("report", "a")
    assert nodes[first].names() == ["a"]


def test_the_leader_alone_lets_agents_expire_and_says_so_in_rows(nodes: RegistryNodes) -> None:
    nodes.register("a", ttl=10)
    nodes.register("b", ttl=1000)
    nodes.replicate()
    nodes.loop.run_waiting()
    leader = nodes.leader("a")
    others = [member for member in nodes.members.values() if member is not leader]
    commits = [member.commit.stats.commits for member in others]
    nodes.clock.advance(11)
    for member in nodes.members.values():
        assert member.names() == ["b"]
    nodes.tick()
    assert nodes.rows("a") == 0
    assert nodes.rows("b") > 0
    assert [member.commit.stats.commits for member in others] == commits


def test_who_expired_while_nobody_led_is_removed_by_the_next_leader(nodes: RegistryNodes) -> None:
    nodes.register("a", ttl=10)
    nodes.replicate()
    nodes.kill(nodes.leader("a").name)
    nodes.clock.advance(11)
    nodes.elect()
    assert nodes.leader("a").names() == []
    assert nodes.rows("a") > 0
    nodes.tick()
    assert nodes.rows("a") == 0


def test_an_expired_agent_of_a_lost_slot_is_left_to_the_next_leader(nodes: RegistryNodes) -> None:
    nodes.register("a", ttl=10)
    first = nodes.leader("a")
    nodes.clock.advance(11)
    assert first.names() == []
    other = next(member for member in nodes.members.values() if member is not first)
    nodes.lead(slot_of(b"a", SLOTS), other.name)
    before = first.commit.stats.commits
    first.registry.tick(nodes.clock.wall_ms())
    nodes.loop.run_waiting()
    assert first.commit.stats.commits == before
    nodes.tick()
    assert nodes.rows("a") == 0


def test_a_registration_under_way_is_told_that_its_slot_has_moved(nodes: RegistryNodes) -> None:
    first = nodes.leader("a")
    nodes.register("a", description="apples")
    answers = first.send("register", {"name": "a", "description": "pears"})
    unnoticed = first.send("report", {"name": "a", "status": "busy"})
    other = next(member for member in nodes.members.values() if member is not first)
    nodes.lead(slot_of(b"a", SLOTS), other.name)
    assert answers[0] is not None
    assert answers[0].code == "UNAVAILABLE"
    assert answers[0].retryable
    nodes.loop.run_until(lambda: bool(unnoticed))
    first.run_until_indexed()
    assert first.registry.table.by_name == {}
    assert not first.registry._staged
    assert not first.registry._under_way
    engine = first.registry.background.engine
    assert engine is not None
    assert engine.text.documents == 0
    assert first.names() == ["a"]
    nodes.register("a", description="pears")
    assert first.names(text="pears") == ["a"]
    assert first.names(text="apples") == []


def test_who_does_not_lead_the_slot_changes_nothing(nodes: RegistryNodes) -> None:
    wrong = next(member for member in nodes.members.values() if member is not nodes.leader("a"))
    with pytest.raises(UnavailableError, match="another broker leads"):
        wrong.call("register", {"name": "a"})
    assert wrong.names() == []
    assert not wrong.registry._under_way


def test_vectors_made_later_are_not_stored_in_a_lost_slot(nodes: RegistryNodes) -> None:
    first = nodes.leader("a")
    first.words.broken = True
    nodes.register("a", description="apples")
    first.words.broken = False
    nodes.clock.advance(60)
    other = next(member for member in nodes.members.values() if member is not first)
    nodes.lead(slot_of(b"a", SLOTS), other.name)
    before = first.commit.stats.commits
    first.run_until_indexed()
    nodes.loop.run_waiting()
    assert first.commit.stats.commits == before
    other.run_until_indexed()
    assert other.names(semantic="apples", mode="semantic") == ["a"]
    assert nodes.rows("a") == 2
