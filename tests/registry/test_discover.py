"""DISCOVER: which agents, in what order, and on which page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9.errors import RequestError
from mq9.registry.requests import parse_discover
from tests.registry.conftest import MakeNode
from tests.registry.node import Node, Words


@pytest.fixture
def fruit(make_node: MakeNode, words: Words) -> Node:
    """Four agents that can be told apart in every way."""
    node = make_node(words)
    node.register("apple.picker", description="picks apples from trees", tags=["fruit", "Farm"])
    node.register("apple.seller", description="sells apples at the market", tags="fruit,shop")
    node.register("cherry.picker", description="picks cherries from trees", tags=["fruit"])
    node.register("book.seller", description="sells novels and maps", agent_card={"skills": [{"id": "x", "tags": ["shop"]}]})
    return node


def test_without_a_question_all_newest_first(fruit: Node) -> None:
    reply = fruit.discover()
    assert [agent["name"] for agent in reply["agents"]] == ["book.seller", "cherry.picker", "apple.seller", "apple.picker"]
    assert reply["total"] == 4
    assert reply["mode"] == "list"
    assert fruit.names(text="", semantic=None, tags=None) == fruit.names()
    answers = fruit.ask(b"")
    assert answers[0]["total"] == 4


def test_text_finds_words_and_semantic_ranks_all(fruit: Node) -> None:
    reply = fruit.discover(text="apples")
    assert {agent["name"] for agent in reply["agents"]} == {"apple.picker", "apple.seller"}
    assert reply["total"] == 2
    assert reply["mode"] == "keyword"
    reply = fruit.discover(semantic="picks cherries from trees", text="novels")
    assert reply["agents"][0]["name"] == "cherry.picker"
    assert reply["total"] == 4
    assert reply["mode"] == "hybrid"
    scores = [agent["score"] for agent in reply["agents"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] < scores[0] <= 1


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"tags": ["fruit"]}, ["cherry.picker", "apple.seller", "apple.picker"]),
        ({"tags": "fruit, FARM"}, ["apple.picker"]),
        ({"tags": ["shop"]}, ["book.seller", "apple.seller"]),
        ({"tags": ["fruit", "nothing"]}, []),
        ({"name": "apple.seller"}, ["apple.seller"]),
        ({"name": "apple.*"}, ["apple.seller", "apple.picker"]),
        ({"prefix": "apple."}, ["apple.seller", "apple.picker"]),
        ({"prefix": "apple.", "tags": ["shop"]}, ["apple.seller"]),
        ({"name": "nobody"}, []),
        ({"status": "online"}, ["book.seller", "cherry.picker", "apple.seller", "apple.picker"]),
        ({"status": ["busy", "idle"]}, []),
    ],
)
def test_filters(fruit: Node, filters: dict[str, Any], names: list[str]) -> None:
    assert fruit.names(**filters) == names
    assert fruit.discover(**filters)["total"] == len(names)
    assert sorted(fruit.names(**filters, semantic="picks apples")) == sorted(names)
    both = {"apple.picker", "apple.seller"} & set(names)
    assert set(fruit.names(**filters, text="apples")) == both


def test_modes_can_be_chosen(fruit: Node) -> None:
    assert fruit.discover(semantic="apples", mode="keyword")["total"] == 2
    assert fruit.discover(text="apples", mode="hybrid")["total"] == 4
    assert fruit.discover(text="apples", mode="semantic")["mode"] == "semantic"


def test_equal_scores_keep_the_order_of_registration(make_node: MakeNode, words: Words) -> None:
    node = make_node(words)
    for number in range(30):
        node.register(
            f"twin{number}", description="", agent_card={"name": "same", "description": "identical duties"}, mailbox="m"
        )
    first = node.names(text="identical", limit=30)
    assert first == [f"twin{number}" for number in range(30)]
    assert node.names(text="identical", limit=30) == first


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"limit": 0}, "limit must be at least 1"),
        ({"limit": -5}, "limit must be at least 1"),
        ({"limit": "5"}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"page": 0}, "page must be at least 1"),
        ({"page": -1}, "page must be at least 1"),
        ({"text": 5}, "text"),
        ({"semantic": ["a"]}, "semantic"),
        ({"tags": 5}, "tags"),
        ({"tags": ["x"] * 1000}, "tags"),
        ({"mode": "magic"}, "mode must be one of"),
        ({"semantic": "word " * 200_000}, "longer than"),
        ({"text": "x" * 70_000}, "longer than"),
        (b"hello", "malformed"),
        (b"[1]", "object"),
        (b'{"text":"\xff\xfe"}', "UTF-8|malformed|utf"),
        (b'{"text":' + b"[" * 100_000, "invalid request"),
    ],
)
def test_bad_questions_are_clear_errors(fruit: Node, body: Any, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        fruit.ask(body)


def test_huge_limits_and_pages_are_bounded(fruit: Node) -> None:
    reply = fruit.discover(limit=1 << 40)
    assert reply["limit"] == 1000
    assert len(reply["agents"]) == 4
    assert fruit.names(page=1 << 40) == []
    assert fruit.names(page=3, limit=2, semantic="apples") == []


@pytest.mark.parametrize("query", ["it's", 'c++: "', "AND OR", "\x00\x01", "🚀" * 2000, "\u202e", "]]]}}}", " " * 500])
@pytest.mark.parametrize("field", ["text", "semantic"])
def test_any_text_can_be_asked(fruit: Node, field: str, query: str) -> None:
    assert fruit.discover(**{field: query})["error"] == ""


@pytest.mark.fuzz
@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps({"text": value, "limit": value, "tags": value}).encode()
))  # fmt: skip
def test_any_bytes_are_a_question_or_a_request_error(body: bytes) -> None:
    try:
        asked = parse_discover(body)
    except RequestError:
        return
    assert 1 <= asked.limit <= 1000
    assert asked.page >= 0


# --- Pages ------------------------------------------------------------------------------------------------------


def pages(node: Node, owner: int = 1, **question: Any) -> list[list[str]]:
    found: list[list[str]] = []
    while names := node.names(owner, page=len(found) + 1, **question):
        found.append(names)
    return found


@pytest.fixture
def crowd(make_node: MakeNode, words: Words) -> Node:
    node = make_node(words)
    for number in range(25):
        node.register(f"agent{number:02}", description=f"sorts mail number {number}")
    return node


@pytest.mark.parametrize("question", [{}, {"text": "mail"}, {"semantic": "sort the mail"}])
def test_pages_cut_one_order(crowd: Node, question: dict[str, Any]) -> None:
    whole = crowd.names(limit=100, **question)
    assert len(whole) == 25
    cut = pages(crowd, limit=10, **question)
    assert [len(page) for page in cut] == [10, 10, 5]
    assert [name for page in cut for name in page] == whole


@pytest.mark.parametrize("question", [{}, {"text": "mail"}, {"semantic": "sort the mail"}])
def test_pages_stay_put_while_agents_come_and_go(crowd: Node, question: dict[str, Any]) -> None:
    whole = crowd.names(limit=100, **question)
    first = crowd.names(limit=10, **question)
    crowd.register("newcomer", description="sorts mail mail mail")
    crowd.call("unregister", {"name": first[0]})  # on a page that was read
    crowd.call("unregister", {"name": whole[12]})  # on one that was not
    crowd.register(whole[14], description="sorts mail otherwise")  # changed, still the same agent
    second = crowd.names(limit=10, page=2, **question)
    third = crowd.names(limit=10, page=3, **question)
    assert second == [name for name in whole[10:20] if name != whole[12]]
    assert third == whole[20:]
    assert "newcomer" in crowd.names(limit=100, **question)


def test_another_connection_has_pages_of_its_own(crowd: Node) -> None:
    first = crowd.names(1, limit=10)
    crowd.register("newcomer")
    other = crowd.names(2, limit=10)
    assert other[0] == "newcomer"
    assert crowd.names(1, limit=10, page=2)[0] not in first
    assert crowd.names(2, limit=10, page=2)[0] == first[9]
    assert crowd.names(3, limit=10, page=2)[0] == first[9]  # a connection that never asked for page 1: the newest order


def test_an_order_is_kept_for_a_while_only(crowd: Node) -> None:
    first = crowd.names(limit=10)
    crowd.register("newcomer")
    crowd.clock.advance(61)
    assert crowd.names(limit=10, page=2)[0] == first[9]  # ranked anew: everything moved by one


def test_a_page_beyond_what_was_ranked_continues_the_order(make_node: MakeNode) -> None:
    node = make_node(None)
    answers = [node.send("register", {"name": f"a{number:04}", "description": "sorts mail"}) for number in range(1500)]
    node.loop.run_until(lambda: all(answers))
    seen = node.names(limit=400)
    for page in (2, 3, 4):
        node.register(f"new{page}", description="sorts mail")
        seen += node.names(limit=400, page=page)
    assert seen == [f"a{number:04}" for number in reversed(range(1500))]


def test_the_available_are_found_behind_many_that_are_not(make_node: MakeNode, words: Words) -> None:
    node = make_node(words)
    answers = [node.send("register", {"name": f"a{number}", "description": "sorts mail"}) for number in range(300)]
    answers += [node.send("report", {"name": f"a{number}", "status": "offline"}) for number in range(140)]
    node.loop.run_until(lambda: all(answers))
    for question in ({"text": "mail"}, {"semantic": "mail"}, {}):
        reply = node.discover(limit=10, **question)
        assert len(reply["agents"]) == 10
        assert reply["total"] == 160 or question.get("text")


def test_a_reply_is_bounded_in_bytes(make_node: MakeNode) -> None:
    node = make_node(None)
    for number in range(9):
        node.register(f"big{number}", description="large", blob="word " * 190_000)
    agents = node.discover()["agents"]
    assert len(agents) == 9
    assert [agent.get("truncated", False) for agent in agents] == [False] * 4 + [True] * 5
    assert all(agent["mailbox"] and agent["description"] == "large" for agent in agents)


def test_list_for_monitoring(fruit: Node) -> None:
    rows, total = fruit.registry.list("picker", limit=1, page=2)
    assert total == 2
    assert rows[0]["name"] == "apple.picker"
    assert fruit.registry.list("", 10, 1)[1] == 4


def test_without_a_model_everything_is_answered_by_keywords(make_node: MakeNode) -> None:
    node = make_node(None)
    node.register("a", description="apples")
    reply = node.discover(semantic="apples")
    assert reply["mode"] == "keyword"
    assert reply["agents"][0]["name"] == "a"
