"""Three registries answer as one with all the agents would: filters, pages, totals, order."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mq9.errors import Mq9Error
from tests.cluster.registry_nodes import SLOTS, RegistryNodes
from tests.registry.node import Node, Words, memory_opener

FRUIT = ("apples", "pears", "cherries", "plums")
AGENTS = [f"{part}{number}" for part in ("geo.", "law.", "x") for number in range(8)]

bodies = st.fixed_dictionaries(
    {"description": st.lists(st.sampled_from(FRUIT), max_size=4).map(" ".join)},
    optional={
        "tags": st.lists(st.sampled_from(FRUIT), max_size=2),
        "status": st.sampled_from(("online", "busy", "offline")),
        "state": st.sampled_from(("active", "deprecated", "revoked")),
        "ttl": st.sampled_from((5, 1000)),
    },
)
steps: st.SearchStrategy[tuple[str, str, Any]] = st.one_of(
    st.tuples(st.just("register"), st.sampled_from(AGENTS), bodies),
    st.tuples(st.just("report"), st.sampled_from(AGENTS), st.fixed_dictionaries({}, optional={"status": st.just("busy")})),
    st.tuples(st.just("unregister"), st.sampled_from(AGENTS), st.just({})),
    st.tuples(st.just("wait"), st.just(""), st.integers(1, 6)),
    st.tuples(st.just("move"), st.sampled_from("abc"), st.integers(0, SLOTS - 1)),
)
questions = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(st.sampled_from(FRUIT), max_size=2),
        "status": st.sampled_from(("any", "busy", "online")),
        "state": st.sampled_from(("revoked", "deprecated")),
        "prefix": st.sampled_from(("geo.", "x", "none")),
        "limit": st.integers(1, 12),
    },
)
queries = st.sampled_from(({}, {"text": "pears"}, {"semantic": "plums and pears"}, {"semantic": "figs", "mode": "semantic"}))


def answers(node: Node, question: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """All pages of an answer, one after another."""
    agents: list[dict[str, Any]] = []
    for page in range(1, 30):
        reply = node.discover(page=page, **question)
        assert "partial" not in reply
        agents += reply["agents"]
        if not reply["agents"]:
            return agents, reply["total"]
    raise AssertionError("pages without end")


def apply(nodes: RegistryNodes, one: Node, step: tuple[str, str, Any]) -> None:
    """Do the same on both."""
    verb, name, body = step
    if verb == "wait":
        nodes.clock.advance(body)
    elif verb == "move":
        nodes.lead(body, name)
    else:
        nodes.clock.now_ms += 1
        request = {"name": name, **body}
        outcomes = []
        for node in (nodes.leader(name), one):
            try:
                node.call(verb, request)
                outcomes.append("")
            except Mq9Error as failure:
                outcomes.append(str(failure))
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("asked_at", ["a", "c"])
@settings(max_examples=25, deadline=None)
@given(history=st.lists(steps, max_size=40), asked=st.lists(st.tuples(queries, questions), min_size=1, max_size=4))
def test_three_nodes_answer_as_one(
    asked_at: str, history: list[tuple[str, str, Any]], asked: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    with TemporaryDirectory() as directory:
        nodes = RegistryNodes(Path(directory))
        one = Node(memory_opener(), Words())
        one.clock = nodes.clock
        one.restart()
        try:
            for step in history:
                apply(nodes, one, step)
            for query, filters in asked:
                compare(answers(nodes[asked_at], {**query, **filters}), answers(one, {**query, **filters}), query)
        finally:
            nodes.close()
            one.stop()


def compare(found: tuple[list[dict[str, Any]], int], expected: tuple[list[dict[str, Any]], int], query: dict[str, Any]) -> None:
    """The same agents, as they are; lists in the same order, rankings by meaning with the same scores.

    Words weigh by the average length of an agent's texts, which each broker knows of its own alone: such scores are near.
    """
    assert found[1] == expected[1]
    places = {agent["name"]: agent for agent in expected[0]}
    assert sorted(agent["name"] for agent in found[0]) == sorted(places)
    if not query:
        assert [agent["name"] for agent in found[0]] == [agent["name"] for agent in expected[0]]
    assert [agent["score"] for agent in found[0]] == sorted((agent["score"] for agent in found[0]), reverse=True)
    tolerance = 2e-6 if query.get("mode") == "semantic" else 0.2
    for agent in found[0]:
        twin = places[agent["name"]]
        assert agent["score"] == pytest.approx(twin["score"], abs=tolerance)
        assert {**agent, "score": 0} == {**twin, "score": 0}
