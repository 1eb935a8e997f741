"""Registrations and questions at the same time, on the registry's real threads."""

from __future__ import annotations

import random
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from mq9.registry.embedding import Vectors
from tests.registry.conftest import MakeNode
from tests.registry.node import Node, Words, memory_opener


def test_who_asks_after_the_answer_finds_the_agent(make_node: MakeNode, words: Words) -> None:
    """By name, by text and by meaning, each time, while a hundred others are being registered."""
    node = make_node(words)
    background = [
        node.send("register", {"name": f"noise{number}", "description": f"noise number {number}"}) for number in range(100)
    ]
    for number in range(30):
        node.register(f"agent{number}", description=f"knows subject s{number}x")
        assert node.names(name=f"agent{number}") == [f"agent{number}"]
        assert node.names(text=f"s{number}x") == [f"agent{number}"]
        assert node.names(semantic=f"agent{number}: knows subject s{number}x", mode="semantic")[0] == f"agent{number}"
        background.append(node.send("register", {"name": f"more{number}", "description": "noise"}))
        node.call("unregister", {"name": f"agent{number}"})
        assert node.names(text=f"s{number}x") == []
    node.loop.run_until(lambda: all(background))


def test_a_slow_model_holds_up_no_list_and_no_keyword(make_node: MakeNode, words: Words) -> None:
    node = make_node(words)
    node.register("a", description="apples")
    words.hold = threading.Event()
    waiting = node.ask({"semantic": "pears"})
    registering = node.send("register", {"name": "b"})
    assert node.names() == ["a"]
    assert node.names(text="apples") == ["a"]
    assert not waiting
    assert not registering
    words.hold.set()
    node.loop.run_until(lambda: bool(waiting and registering))


def test_queries_that_wait_are_embedded_together(make_node: MakeNode) -> None:
    calls: list[int] = []

    class Counting(Words):
        def embed(self, texts: list[str], *, query: bool = False) -> Vectors:
            calls.append(len(texts))
            return super().embed(texts, query=query)

    model = Counting()
    node = make_node(model)
    node.register("a", description="apples")
    calls.clear()
    model.hold = threading.Event()
    waiting = [node.ask({"semantic": f"question {number}"}) for number in range(12)]
    model.hold.set()
    node.loop.run_until(lambda: all(waiting))
    assert sum(calls) == 12
    assert len(calls) <= 2


STEPS = st.lists(
    st.tuples(st.sampled_from(["register", "report", "unregister", "expire", "restart"]), st.integers(0, 4), st.integers(0, 3)),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_any_history_ends_as_a_plain_dictionary_says(steps: list[tuple[str, int, int]], draw: random.Random) -> None:
    """Commands are pipelined and answered in any interleaving of the threads; the outcome is that of their order."""
    node = Node(memory_opener(), Words(dimensions=8))
    expected: dict[str, tuple[int, int]] = {}  # name -> body, expiry
    for verb, number, body in steps:
        name = f"agent{number}"
        known = name in expected and expected[name][1] > node.clock.now_ms
        if verb == "register":
            node.send("register", {"name": name, "description": f"body{body} x", "ttl": 20})
            expected[name] = (body, node.clock.now_ms + 20_000)
        elif verb in ("report", "unregister") and known:
            settle(node)
            node.call(verb, {"name": name})
            if verb == "report":
                expected[name] = (expected[name][0], node.clock.now_ms + 20_000)
            else:
                del expected[name]
        elif verb == "expire":
            settle(node)
            node.clock.advance(7)
        elif verb == "restart":
            settle(node)
            node.restart()
        if draw.random() < 0.3:
            settle(node)
    settle(node)
    live = {name: f"body{body} x" for name, (body, expiry_ms) in expected.items() if expiry_ms > node.clock.now_ms}
    assert {agent["name"]: agent["description"] for agent in node.discover()["agents"]} == live
    for body in range(4):
        found = node.names(text=f"body{body}")
        assert sorted(found) == sorted(name for name, text in live.items() if text == f"body{body} x")
    assert sorted(node.names(semantic="body", mode="semantic")) == sorted(live) or not live
    node.stop()


def settle(node: Node) -> None:
    """Wait until everything sent is answered."""
    node.loop.run_until(lambda: not node.registry._under_way and not node.registry._staged)
