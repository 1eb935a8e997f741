"""DISCOVER from any node of a cluster: everybody who is registered, in the order one node would give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mq9.errors import Mq9Error, NotFound
from mq9.v1 import peer_pb2 as wire
from tests.cluster.registry_nodes import SLOTS, RegistryNodes

FRUIT = ("apples", "pears", "cherries", "plums", "quinces", "figs")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[RegistryNodes]:
    made = RegistryNodes(tmp_path)
    yield made
    made.close()


def orchard(count: int) -> list[dict[str, Any]]:
    return [{"name": f"agent{number}", "description": f"sells {FRUIT[number % 6]} of kind k{number}"} for number in range(count)]


def names(reply: dict[str, Any]) -> list[str]:
    return [agent["name"] for agent in reply["agents"]]


def test_every_node_finds_who_has_just_registered_on_any(nodes: RegistryNodes) -> None:
    for number in range(12):
        nodes.register(f"agent{number}", description=f"knows subject s{number}x")
        for member in nodes.members.values():
            assert names(member.discover())[0] == f"agent{number}"
            assert member.names(text=f"s{number}x") == [f"agent{number}"]
            assert member.names(semantic=f"agent{number}: knows subject s{number}x")[0] == f"agent{number}"
    assert {name: len(member.registry.table) for name, member in nodes.members.items()} != {"a": 12, "b": 0, "c": 0}
    nodes.call("unregister", "agent5")
    for member in nodes.members.values():
        assert len(member.names()) == 11
        assert member.names(text="s5x") == []


def test_a_reply_is_that_of_one_node(nodes: RegistryNodes) -> None:
    nodes.register("geo", mailbox="geo.in", agent_card={"name": "Geo", "description": "maps"}, ttl=60)
    nodes.call("report", "geo", load=3)
    for member in nodes.members.values():
        reply = member.discover()
        assert {key: reply[key] for key in ("error", "total", "page", "limit", "mode")} == {
            "error": "", "total": 1, "page": 1, "limit": 20, "mode": "list",
        }  # fmt: skip
        assert "partial" not in reply
        agent = reply["agents"][0]
        assert agent["mailbox"] == "geo.in"
        assert agent["description"] == "maps"
        assert agent["report"] == {"name": "geo", "load": 3}
        assert agent["expires_at"]
    assert nodes["a"].discover(semantic="maps")["mode"] == "hybrid"
    assert nodes["b"].discover(text="maps")["mode"] == "keyword"


def test_a_query_is_embedded_once_for_all(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(30))
    for member in nodes.members.values():
        member.words.texts.clear()
    nodes["b"].discover(semantic="fruit for a cake")
    assert {name: member.words.texts for name, member in nodes.members.items()} == {"a": [], "b": ["fruit for a cake"], "c": []}


def test_a_node_without_agents_asks_the_others(nodes: RegistryNodes) -> None:
    for slot in range(SLOTS):
        nodes.lead(slot, "b")
    nodes.register_all(orchard(5))
    assert len(nodes["a"].names(semantic="apples")) == 5
    assert nodes["a"].registry.background.engine is None


def test_pages_go_on_where_they_were(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(70))
    for question in ({}, {"text": "sells"}, {"semantic": "sells apples of kind k0"}):
        ranked = nodes["a"].names(limit=70, **question)
        assert sorted(ranked) == sorted(f"agent{number}" for number in range(70))
        first = nodes["c"].names(7, limit=10, **question)
        nodes.register("later", description="sells apples of kind k0")
        nodes.call("unregister", ranked[15])
        pages = [nodes["c"].discover(7, limit=10, page=page, **question) for page in range(2, 8)]
        rest = [name for page in pages for name in names(page)]
        assert first + rest == [name for name in ranked if name != ranked[15]]
        assert len(names(pages[0])) == 9
        nodes.call("unregister", "later")
        nodes.clock.now_ms += 1
        nodes.register_all([orchard(70)[int(ranked[15][5:])]])


def test_pages_beyond_what_was_kept(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(1300))
    first = nodes["a"].names(limit=500)
    nodes.register_all({"name": f"new{number}"} for number in range(5))
    pages = [nodes["a"].names(limit=500, page=page) for page in (2, 3)]
    assert first + pages[0] + pages[1] == [f"agent{number}" for number in reversed(range(1300))]


def test_bodies_of_a_page_come_in_parts_and_end_at_their_limit(nodes: RegistryNodes) -> None:
    nodes.register_all({"name": f"big{number}", "description": "large", "data": "x" * 400_000} for number in range(15))
    reply = nodes["a"].discover()
    assert names(reply) == [f"big{number}" for number in reversed(range(15))]
    assert [agent.get("truncated", False) for agent in reply["agents"]] == [False] * 10 + [True] * 5
    assert [len(agent.get("data", "")) for agent in reply["agents"]] == [400_000] * 10 + [0] * 5


# --- Nodes that are not there ----------------------------------------------------------------------------------


def test_without_a_node_the_answer_is_partial(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(30))
    nodes.network.leave("b")
    there = {name for name in (f"agent{number}" for number in range(30)) if nodes.leader(name).name != "b"}
    for question in ({}, {"text": "sells"}, {"semantic": "apples"}):
        reply = nodes.late(nodes["a"].ask({**question, "limit": 30}))
        assert set(names(reply)) == there
        assert reply["partial"] is True


def test_a_node_that_is_silent_is_not_waited_for_longer_than_bounded(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(30))
    nodes.network.hold("a", "c")
    answers = nodes["a"].ask({"limit": 30})
    nodes.loop.run_waiting()
    assert not answers
    reply = nodes.after(5, answers)
    assert reply["partial"] is True
    assert 0 < len(names(reply)) < 30
    assert len(nodes["b"].names(limit=30)) == 30  # its own stream is not held
    nodes.network.release("a", "c")
    assert len(nodes["a"].names(limit=30)) == 30


def test_a_slot_that_moves_is_waited_for(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(40))
    nodes.replicate()
    nodes.kill("b")
    for question in ({}, {"text": "sells"}, {"semantic": "apples"}):
        answers = nodes["c"].ask({**question, "limit": 40})
        nodes.run_until_asking_again()
        assert not answers
        nodes.elect()
        reply = nodes.after(0.1, answers)
        assert len(names(reply)) == 40
        assert "partial" not in reply
        lost = next(slot for slot, leader in nodes.leaders_now.items() if leader == "a")
        nodes["a"].registry.slot_lost(lost)
        del nodes.leaders_now[lost]


def test_who_moves_between_ranking_and_showing_is_not_taken_for_gone(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(12))
    first = nodes["a"].names(limit=6)
    moved = next(name for name in nodes["a"].names(limit=12) if name not in first)
    nodes.leader(moved).registry.slot_lost(nodes["a"].peers.slot_of(moved))
    reply = nodes["a"].discover(limit=6, page=2)  # of the order that was kept
    assert moved not in names(reply)
    assert reply["partial"] is True


def test_a_node_that_closes_answers_who_waits(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(30))
    nodes.network.leave("b")
    asking_again = nodes["a"].ask({"limit": 30})
    nodes.run_until_asking_again()
    nodes.network.hold("a", "c")
    waiting = nodes["a"].ask({"semantic": "apples"})
    nodes.loop.run_waiting()
    member = nodes.members.pop("a")
    member.stop()
    nodes.loop.run_waiting()
    assert asking_again[0]["partial"] is True
    assert waiting
    assert member.peers.asking == 0


def test_without_its_lease_a_node_says_nothing_of_its_agents(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(30))
    nodes["b"].lease = False
    assert nodes.late(nodes["b"].ask({"limit": 30}))["partial"] is True
    for name in "ac":
        nodes.network.leave(name)
    failure = nodes.late(nodes["b"].ask({"limit": 30}))["failure"]
    assert failure.code == "UNAVAILABLE"
    assert failure.retryable


@pytest.mark.parametrize(
    "question",
    [
        wire.Discover(kind=wire.Discover.WEIGH, body=b'{"text":"apples"}'),
        wire.Discover(kind=wire.Discover.RANK, body=b"{}", needed=5, depth=5),
        wire.Discover(kind=wire.Discover.SHOW, body=b"{}", names=["geo"], scores=[0.0]),
        wire.Discover(kind=wire.Discover.FIND, names=["geo.in"]),
        wire.Discover(kind=wire.Discover.REPORT, body=b'{"name":"geo","load":3}', names=["geo"]),
        wire.Discover(kind=wire.Discover.UNREGISTER, body=b'{"name":"geo"}', names=["geo"]),
    ],
    ids=lambda question: wire.Discover.Kind.Name(question.kind),
)
def test_without_its_lease_a_node_answers_no_other(nodes: RegistryNodes, question: wire.Discover) -> None:
    """Others may lead its slots by now: its agents may have changed, or be gone."""
    nodes.register("geo", mailbox="geo.in", description="apples")
    leader = nodes.leader("geo")
    answers: list[wire.Discovered] = []
    for lease, wanted in ((False, "UNAVAILABLE"), (True, "")):
        leader.lease = lease
        leader.peers.shares.answer(question, answers.append)
        nodes.loop.run_until(lambda: bool(answers))
        answer = answers.pop()
        assert answer.error == wanted
        if not lease:
            assert {each.name for each, _ in answer.ListFields()} == {"error", "text"}


def test_if_one_node_ranks_by_keyword_all_do(nodes: RegistryNodes) -> None:
    nodes.register_all(orchard(30))
    engine = nodes["c"].registry.background.engine
    assert engine is not None
    engine.space = "another/64"  # its agents are being embedded anew
    for member in nodes.members.values():
        reply = member.discover(semantic="apples", limit=30)
        assert reply["mode"] == "keyword"
        assert sorted(names(reply)) == sorted(f"agent{number}" for number in range(0, 30, 6))


# --- Agents named by their mailbox ------------------------------------------------------------------------------


def test_an_agent_may_be_named_by_its_mailbox_on_any_node(nodes: RegistryNodes) -> None:
    nodes.register("geo", mailbox="somewhere.else")
    for member in nodes.members.values():
        member.call("report", {"mailbox": "somewhere.else", "status": f"busy.{member.name}"})
        assert nodes["a"].discover(status="any")["agents"][0]["status"] == f"busy.{member.name}"
        with pytest.raises(NotFound):
            member.call("report", {"mailbox": "nowhere"})
        with pytest.raises(NotFound):
            member.call("unregister", {"name": "somewhere.else"})
    other = next(member for member in nodes.members.values() if member is not nodes.leader("geo"))
    other.call("unregister", {"mailbox": "somewhere.else"})
    assert nodes["a"].names() == []
    nodes.network.leave("c")
    with pytest.raises(Mq9Error) as caught:
        nodes["a"].call("unregister", {"mailbox": "somewhere.else"})
    assert caught.value.code == "UNAVAILABLE"
