"""TTL, heartbeats, states, versions; what survives a restart; changes of the model."""

from __future__ import annotations

import pytest

from mq9.errors import NotFound
from mq9.registry.records import VERSIONS_KEPT
from mq9.storage.interface import Batch, Table
from mq9.storage.layout import agent_key
from tests.registry.conftest import MakeNode
from tests.registry.node import Node, Words

GEO = {
    "agent_card": {"name": "Geo", "description": "maps", "skills": [{"id": "r", "name": "route", "description": "plans routes"}]}
}


def rows(node: Node) -> int:
    """Rows of agents in the store."""
    return sum(len(node.store.scan(table, b"", b"\xff" * 8, 10_000)) for table in (Table.AGENT, Table.AGENT_VECTOR))


def tick(node: Node) -> None:
    node.registry.tick(node.clock.wall_ms())
    node.loop.run_waiting()


# --- Time -------------------------------------------------------------------------------------------------------


def test_the_expired_are_gone_at_the_next_request(node: Node) -> None:
    node.register("a", ttl=10, description="apples")
    node.register("b", description="apples")
    node.clock.advance(9.9)
    assert node.names() == ["b", "a"]
    node.clock.advance(0.1)
    for question in ({}, {"text": "apples"}, {"semantic": "apples"}):
        reply = node.discover(**question)
        assert [agent["name"] for agent in reply["agents"]] == ["b"]
        assert reply["total"] == 1
    with pytest.raises(NotFound):
        node.call("report", {"name": "a"})
    tick(node)
    assert rows(node) == 2  # b and its vectors


def test_the_expired_leave_nothing_behind_also_when_nobody_was_running(node: Node) -> None:
    node.register("a", ttl=10)
    node.register("a", ttl=10, note="again")
    node.call("report", {"name": "a"})
    node.run_until_indexed()
    node.stop()
    node.clock.advance(11)
    node.start()
    assert node.names() == []
    tick(node)
    assert rows(node) == 0


def test_an_expired_name_can_be_taken_anew(node: Node) -> None:
    node.register("a", ttl=10, description="apples")
    node.register("a", ttl=10, description="pears")
    node.clock.advance(11)
    node.register("a", description="cherries")
    tick(node)
    agent = node.discover(name="a")["agents"][0]
    assert agent["description"] == "cherries"
    assert agent["revision"] == 1
    assert node.names(name="a", version="2") == []
    node.restart()
    assert node.names(text="cherries") == ["a"]


def test_an_agent_that_expires_while_it_registers_again_stays(node: Node) -> None:
    node.register("a", ttl=10, description="apples")
    node.clock.advance(9.9)
    answers = node.send("register", {"name": "a", "ttl": 10, "description": "apples"})
    node.clock.advance(0.2)
    assert node.ask({})[0]["agents"] == []
    node.loop.run_until(lambda: bool(answers))
    assert answers == [None]
    assert node.names() == ["a"]
    assert node.names(text="apples") == ["a"]


def test_expiry_is_worked_off_in_bounded_steps(make_node: MakeNode) -> None:
    node = make_node(None)
    answers = [node.send("register", {"name": f"a{number}", "ttl": 5}) for number in range(2500)]
    node.loop.run_until(lambda: all(answers))
    node.clock.advance(6)
    assert node.discover()["total"] == 0
    left = []
    for _ in range(3):
        tick(node)
        left.append(rows(node))
    assert left == [1500, 500, 0]


def test_missed_heartbeats_take_an_agent_out_of_the_results(node: Node) -> None:
    node.register("a", heartbeat=10, description="apples")
    node.register("b", description="apples")
    node.clock.advance(29)
    assert node.names() == ["b", "a"]
    node.clock.advance(1)
    for question in ({}, {"text": "apples"}, {"semantic": "apples"}):
        reply = node.discover(**question)
        assert [agent["name"] for agent in reply["agents"]] == ["b"]
        assert reply["total"] == 1
    assert node.names(status="offline") == ["a"]
    assert node.names(status="any", semantic="apples") == ["a", "b"]
    node.call("report", {"name": "a"})
    assert node.names() == ["b", "a"]


def test_the_server_may_expect_heartbeats_of_all(make_node: MakeNode) -> None:
    node = make_node(None, agent_heartbeat_s=5)
    node.register("a")
    node.clock.advance(16)
    assert node.names() == []
    node.restart()
    assert node.names() == ["a"]  # it could not report while nobody listened
    node.clock.advance(16)
    assert node.names() == []


def test_an_agent_may_say_that_it_is_not_available(node: Node) -> None:
    node.register("a", description="apples")
    node.call("report", {"name": "a", "status": "offline"})
    assert node.names(semantic="apples") == []
    node.restart()
    assert node.names() == []
    node.call("report", {"name": "a", "status": "busy"})
    assert node.names() == ["a"]
    assert node.names(status="busy") == ["a"]
    assert node.names(status="online") == []


# --- States and versions ----------------------------------------------------------------------------------------


def test_the_deprecated_are_marked_and_the_revoked_hidden(node: Node) -> None:
    node.register("old", state="deprecated", description="apples")
    node.register("bad", state="revoked", description="apples")
    assert [(agent["name"], agent["state"]) for agent in node.discover(text="apples")["agents"]] == [("old", "deprecated")]
    assert node.names() == ["old"]
    assert node.names(state="revoked") == ["bad"]
    assert node.names(state="revoked", text="apples") == ["bad"]
    assert node.names(state="active") == []


def test_a_revoked_agent_does_not_come_back_by_registering(node: Node) -> None:
    node.register("bad", state="revoked")
    node.register("bad", description="a new body")
    assert node.names() == []
    node.restart()
    node.register("bad", description="another new body")
    assert node.names() == []
    node.register("bad", state="active")
    assert node.names() == ["bad"]
    node.call("report", {"name": "bad", "state": "revoked"})
    assert node.names() == []
    node.restart()
    assert node.names() == []


def test_versions_can_be_pinned(node: Node) -> None:
    for number in range(1, 4):
        node.register("a", version=f"1.{number}", description=f"edition {number}")
    assert node.discover(name="a")["agents"][0]["description"] == "edition 3"
    for version, edition in (("1", 1), ("1.2", 2), (3, 3), ("1.3", 3)):
        agents = node.discover(name="a", version=version)["agents"]
        assert [agent["description"] for agent in agents] == [f"edition {edition}"]
        assert agents[0]["revision"] == edition
    assert node.names(name="a", version="9") == []
    node.restart()
    assert node.discover(name="a", version="1")["agents"][0]["description"] == "edition 1"


def test_a_bounded_number_of_versions_is_kept(node: Node) -> None:
    for number in range(1, VERSIONS_KEPT + 6):
        node.register("a", description=f"edition {number}")
    assert node.names(name="a", version="4") == []
    assert node.names(name="a", version="5") == ["a"]
    node.call("unregister", {"name": "a"})
    assert rows(node) == 0


# --- Restarts ---------------------------------------------------------------------------------------------------


def test_a_restart_finds_everything_and_embeds_nothing(node: Node, words: Words) -> None:
    node.register("geo", **GEO)
    node.register("b", description="books and maps", tags=["shop"])
    before = node.discover(semantic="plans routes")
    words.texts.clear()
    node.restart()
    node.run_until_indexed()
    after = node.discover(semantic="plans routes")
    assert words.texts == ["plans routes"]  # the query
    assert after == before
    assert node.names(text="books") == ["b"]
    assert node.names(tags=["shop"]) == ["b"]
    assert node.names() == ["b", "geo"]


def test_vectors_that_were_lost_are_made_again(node: Node, words: Words) -> None:
    """A crash may come between the commit of an agent and that of its vectors."""
    node.register("geo", **GEO)
    batch = Batch()
    batch.delete(Table.AGENT_VECTOR, agent_key(b"geo"))
    node.run_until_indexed()
    node.store.commit(batch)
    words.texts.clear()
    node.restart()
    node.run_until_indexed()
    assert len(words.texts) == 2
    assert node.store.get(Table.AGENT_VECTOR, agent_key(b"geo"))
    assert node.names(semantic="plans routes", mode="semantic") == ["geo"]


@pytest.mark.parametrize("table", [Table.AGENT, Table.AGENT_VECTOR])
def test_damaged_rows_are_left_out_and_named(node: Node, table: Table, caplog: pytest.LogCaptureFixture) -> None:
    node.register("geo", **GEO)
    node.register("b", description="books")
    node.run_until_indexed()
    key = agent_key(b"geo")
    value = bytearray(node.store.get(table, key) or b"")
    value[len(value) // 2] ^= 1
    batch = Batch()
    batch.put(table, key, bytes(value))
    node.store.commit(batch)
    node.restart()
    node.run_until_indexed()
    if table == Table.AGENT:
        assert node.names() == ["b"]
        assert node.names(text="maps") == []
    else:
        assert node.names(semantic="plans routes", mode="semantic")[0] == "geo"
    assert key.hex() in caplog.text
    node.register("geo", **GEO)
    assert node.names(text="maps") == ["geo"]


def test_another_model_embeds_everybody_again_in_the_background(make_node: MakeNode, words: Words) -> None:
    node = make_node(words, store="lmdb")
    node.register("geo", **GEO)
    node.register("b", description="books")
    other = Words(dimensions=12, name="other")
    node.provider = other
    node.restart()
    node.run_until_indexed()
    assert len(other.texts) == 3
    assert node.names(semantic="plans routes", mode="semantic")[0] == "geo"
    words.texts.clear()
    node.provider = words
    node.restart()
    node.run_until_indexed()
    assert words.texts == []  # the former model's vectors were kept
    assert node.discover(semantic="routes", mode="semantic")["mode"] == "semantic"


def test_a_model_that_answers_with_other_dimensions_is_followed(make_node: MakeNode) -> None:
    node = make_node(Words(dimensions=16))
    node.register("geo", **GEO)
    node.provider = Words(dimensions=24)
    node.restart()
    node.run_until_indexed()
    node.register("b", description="books")
    node.run_until_indexed()
    assert sorted(node.names(semantic="books", mode="semantic")) == ["b", "geo"]


def test_a_model_that_fails_delays_nothing_and_is_made_up_for(make_node: MakeNode, words: Words) -> None:
    node = make_node(words)
    words.broken = True
    node.register("geo", **GEO)
    assert node.names(text="maps") == ["geo"]
    assert node.discover(semantic="maps")["mode"] == "keyword"
    words.broken = False
    node.clock.advance(3600)
    node.run_until_indexed()
    assert node.discover(semantic="plans routes", mode="semantic")["mode"] == "semantic"


def test_closing_answers_who_waits(make_node: MakeNode, words: Words) -> None:
    node = make_node(words, store="memory")
    node.register("a", description="apples")
    answers = node.ask({"semantic": "apples"})
    later = node.send("register", {"name": "b"})
    node.stop()
    node.loop.run_waiting()
    assert answers
    assert later
    node.start()
