"""REGISTER, REPORT, UNREGISTER and what DISCOVER then says, as protocol.md section 3 has it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from mq9.errors import CapacityError, Mq9Error, NotFound, RequestError, error
from mq9.limits import AGENT_NAME_BYTES_MAX, AGENT_RECORD_BYTES_MAX
from mq9.storage.interface import Table
from mq9.storage.memory_store import MemoryStore
from tests.registry.conftest import MakeNode
from tests.registry.node import Node, Words

CARD = {
    "name": "Geo",
    "description": "Maps and routes",
    "version": "2.1",
    "skills": [{"id": "r", "name": "route", "tags": ["maps"]}],
}


def only(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["error"] == ""
    assert len(reply["agents"]) == 1
    agent: dict[str, Any] = reply["agents"][0]
    return agent


def test_a_registered_body_comes_back_with_our_fields_over_it(node: Node) -> None:
    body = {
        "name": "geo",
        "mailbox": "mq9://host/geo.inbox",
        "payload": "finds routes",
        "own": {"deep": [1, None]},
        "score": "mine",
    }
    node.call("register", body)
    agent = only(node.discover())
    assert agent["name"] == "geo"
    assert agent["mailbox"] == "geo.inbox"
    assert agent["mailbox_uri"] == "mq9://host/geo.inbox"
    assert agent["payload"] == agent["description"] == "finds routes"
    assert agent["own"] == {"deep": [1, None]}
    assert json.loads(agent["agent_info"]) == body
    assert agent["agent_id"] == "geo"
    assert agent["status"] == "online"
    assert agent["state"] == "active"
    assert agent["last_seen"] == node.clock.now_ms // 1000
    assert isinstance(agent["score"], float)
    assert "expires_at" not in agent


@pytest.mark.parametrize("form", ["object", "text", "payload text", "payload object"])
def test_a_card_comes_back_as_an_object(node: Node, form: str) -> None:
    text = json.dumps(CARD)
    forms: dict[str, dict[str, Any]] = {
        "object": {"agent_card": CARD},
        "text": {"agent_card": text},
        "payload text": {"payload": text},
        "payload object": {"payload": CARD},
    }
    node.register("geo", **forms[form])
    agent = only(node.discover(text="maps"))
    assert agent["agent_card"] == CARD
    assert agent["description"] == "Maps and routes"
    assert isinstance(agent["payload"], str)


def test_name_and_mailbox_default_to_each_other(node: Node) -> None:
    node.call("register", {"mailbox": "mq9://broker/a.b"})
    node.call("register", {"name": "c", "mailbox": None})
    assert [(agent["name"], agent["mailbox"]) for agent in node.discover()["agents"]] == [("c", "c"), ("a.b", "a.b")]


def test_an_agent_is_found_by_the_mailbox_it_has(node: Node) -> None:
    node.register("geo", mailbox="geo.inbox")
    node.call("report", {"mailbox": "mq9://any/geo.inbox", "status": "busy"})
    assert only(node.discover())["status"] == "busy"
    node.call("unregister", {"mailbox": "geo.inbox"})
    assert node.names() == []


def test_a_report_is_stored_whole_and_refreshes(node: Node) -> None:
    node.register("geo", ttl=60)
    node.clock.advance(50)
    node.call("report", {"name": "geo", "status": "busy", "load": 0.5})
    agent = only(node.discover())
    assert agent["report"] == {"name": "geo", "status": "busy", "load": 0.5}
    assert agent["last_seen"] == node.clock.now_ms // 1000
    assert agent["expires_at"] == node.clock.now_ms // 1000 + 60
    node.clock.advance(50)
    assert node.names() == ["geo"]
    node.restart()
    assert only(node.discover())["report"]["load"] == 0.5
    node.register("geo", ttl=60)
    assert "report" not in only(node.discover())


@pytest.mark.parametrize("verb", ["report", "unregister"])
def test_an_unknown_agent(node: Node, verb: str) -> None:
    with pytest.raises(NotFound, match="agent not found"):
        node.call(verb, {"name": "nobody"})


@pytest.mark.parametrize("verb", ["register", "report", "unregister"])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "payload must not be empty"),
        (b"  ", "payload must not be empty"),
        (b"{}", "agent name must not be empty"),
        (b'{"name":"","mailbox":null}', "agent name must not be empty"),
        (b'{"name":7}', "name must be a string"),
        (b"[]", "must be a JSON object"),
        (b"hello", "not JSON"),
        (b'{"name":"\xff"}', "not JSON"),
        (b'{"name":"a"', "not JSON"),
        (b'{"name":"a\\u0000b"}', "cannot be printed"),
        (json.dumps({"name": "a" * (AGENT_NAME_BYTES_MAX + 1)}).encode(), "longer than"),
        (b'{"name":"a","deep":' + b"[" * 70 + b"]" * 70 + b"}", "nested deeper"),
        (b'{"name":"a","deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"name":"a","pad":"' + b"x" * AGENT_RECORD_BYTES_MAX + b'"}', "too large"),
        (b'{"name":"a","pad":"' + b"x" * 10_000_000 + b'"}', "too large"),
    ],
)
def test_bad_bodies_are_clear_errors(node: Node, verb: str, body: bytes, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        node.call(verb, body)


@pytest.mark.parametrize("fields", [{"ttl": -1}, {"ttl": "60"}, {"ttl": 1.5}, {"ttl": True}, {"ttl": 1 << 40}, {"heartbeat": -5}])
def test_times_that_are_none(node: Node, fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="whole number of seconds"):
        node.register("a", **fields)


def test_names_of_any_language(node: Node) -> None:
    node.register("八字 agent", description="天气")
    assert node.names(text="天气") == ["八字 agent"]
    assert node.names(name="八字 agent") == ["八字 agent"]
    node.restart()
    assert node.names(prefix="八字") == ["八字 agent"]


def test_an_upsert_is_seen_at_once_and_what_it_replaced_is_not(node: Node) -> None:
    node.register("a", description="apples")
    node.register("a", description="cherries")
    assert node.names(text="apples") == []
    assert node.names(text="cherries") == ["a"]
    assert node.names(semantic="cherries", mode="semantic") == ["a"]
    assert len(node.discover()["agents"]) == 1


def test_the_unregistered_are_gone_at_once_also_for_restarts(node: Node) -> None:
    node.register("a", description="apples")
    node.register("b", description="bananas")
    node.call("unregister", {"name": "a"})
    for question in ({}, {"text": "apples"}, {"semantic": "apples"}, {"name": "a"}):
        assert "a" not in node.names(**question)
    node.restart()
    assert node.names() == ["b"]
    assert not node.store.get(Table.AGENT_VECTOR, b"a")


def test_registering_the_same_again_embeds_and_indexes_nothing(node: Node, words: Words) -> None:
    node.register("a", description="apples")
    embedded = len(words.texts)
    node.clock.advance(5)
    node.register("a", description="apples")
    agent = only(node.discover())
    assert agent["revision"] == 1
    assert agent["last_seen"] == node.clock.now_ms // 1000
    assert len(words.texts) == embedded


def test_an_upsert_embeds_only_what_changed(make_node: MakeNode) -> None:
    model = Words()
    node = make_node(model)
    node.register("a", description="apples", note="one")
    node.restart()
    model.texts.clear()
    node.register("a", description="apples", note="two")
    assert model.texts == []
    assert node.discover()["agents"][0]["revision"] == 2


def test_pipelined_commands_of_one_name_happen_in_order(node: Node) -> None:
    first = node.send("register", {"name": "a", "description": "one"})
    report = node.send("report", {"name": "a", "status": "busy"})
    second = node.send("register", {"name": "a", "description": "two"})
    gone = node.send("unregister", {"name": "a"})
    third = node.send("register", {"name": "a", "description": "three", "mailbox": "box"})
    late = node.send("report", {"mailbox": "box", "status": "idle"})
    answers = [first, report, second, gone, third, late]
    node.loop.run_until(lambda: all(answers))
    assert [answer[0] for answer in answers] == [None] * 6
    agent = only(node.discover())
    assert agent["description"] == "three"
    assert agent["status"] == "idle"
    assert agent["revision"] == 1
    node.restart()
    assert only(node.discover())["status"] == "idle"


def test_unregister_right_after_register_wins(node: Node) -> None:
    answers = [node.send("register", {"name": "a"}), node.send("unregister", {"name": "a"})]
    node.loop.run_until(lambda: all(answers))
    node.run_until_indexed()
    assert node.names() == []
    with pytest.raises(NotFound):
        node.send("unregister", {"name": "a"})


def test_the_number_of_agents_is_bounded(make_node: MakeNode) -> None:
    node = make_node(None, max_agents=2)
    node.register("a")
    node.register("b")
    with pytest.raises(CapacityError, match="2 agents"):
        node.register("c")
    node.register("b", description="an upsert is no new agent")


class FullStore(MemoryStore):
    """A store that can be full."""

    full = False

    def commit(self, batch: Any) -> None:
        if self.full:
            raise error("STORAGE_FULL")
        super().commit(batch)


def test_what_could_not_be_stored_is_not_there(words: Words) -> None:
    store = FullStore()
    node = Node(lambda: store, words)
    node.register("a", description="apples")
    store.full = True
    for verb, body in (
        ("register", {"name": "b"}),
        ("register", {"name": "a", "description": "pears"}),
        ("unregister", {"name": "a"}),
    ):
        with pytest.raises(Mq9Error, match="storage full"):
            node.call(verb, body)
    node.run_until_indexed()
    assert node.names() == ["a"]
    assert node.names(text="apples") == ["a"]
    assert node.names(text="pears") == []
    store.full = False
    node.register("b", description="bananas")
    node.call("unregister", {"name": "a"})
    assert node.names() == ["b"]
    node.stop()


def test_what_waits_to_be_registered_is_bounded(make_node: MakeNode, words: Words) -> None:
    node = make_node(words)
    node.register("first")
    words.hold = threading.Event()
    blob = "word " * 150_000
    answers = []
    with pytest.raises(CapacityError, match="registrations are waiting"):
        for number in range(200):
            answers.append(node.send("register", {"name": f"a{number}", "description": "large", "blob": blob}))
            node.loop.run_waiting()
    assert 80 < len(answers) < 100  # 64 MiB of bodies
    words.hold.set()
    node.loop.run_until(lambda: all(answers))
    node.register("one more")
