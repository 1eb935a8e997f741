"""From registered bodies to the texts that are searched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9.errors import RequestError
from mq9.registry.flatten import (
    CHARS_MAX,
    CardText,
    SkillText,
    check_depth,
    first_sentence,
    flatten,
    tags_of,
)
from mq9.registry.ranking import VECTORS_MAX, meaning_texts, query_texts

SKILL = {
    "id": "route",
    "name": "Route planner",
    "description": "Plans a route. Arguments: from, to.",
    "tags": ["maps", "travel"],
    "examples": ["how do I get to Rome"],
}
A2A_0_2 = {
    "name": "Geo",
    "description": "Maps and routes",
    "url": "https://geo.example/a2a",
    "version": "1.0.0",
    "provider": {"organization": "Geo Inc", "url": "https://geo.example"},
    "capabilities": {"streaming": True},
    "defaultInputModes": ["text/plain"],
    "defaultOutputModes": ["text/plain"],
    "skills": [SKILL],
}
A2A_0_3 = {
    **A2A_0_2,
    "protocolVersion": "0.3.0",
    "preferredTransport": "JSONRPC",
    "additionalInterfaces": [{"url": "https://geo.example/grpc", "transport": "GRPC"}],
    "securitySchemes": {"key": {"type": "apiKey", "name": "X-Key", "in": "header"}},
    "signatures": [{"protected": "eyJ", "signature": "QFd"}],
}
A2A_1_0 = {
    "name": "Geo",
    "description": "Maps and routes",
    "supportedInterfaces": [{"url": "https://geo.example", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
    "provider": {"organization": "Geo Inc", "url": "https://geo.example"},
    "version": "1.0.0",
    "capabilities": {"streaming": True, "extendedAgentCard": False},
    "skills": [SKILL],
}

PLANNER = SkillText("Route planner", "Plans a route. Arguments: from, to. maps travel", ("how do I get to Rome",))


@pytest.mark.parametrize("card", [A2A_0_2, A2A_0_3, A2A_1_0])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda card: card,
        lambda card: {"name": "geo", "agent_card": card},
        lambda card: {"name": "geo", "agent_card": json.dumps(card)},
        lambda card: {"name": "geo", "payload": json.dumps(card)},
        lambda card: {"name": "geo", "payload": card},
    ],
)
def test_cards_of_every_protocol_and_form_give_the_same_texts(card: dict[str, Any], wrap: Any) -> None:
    body = wrap(card)
    text = flatten(body["name"], body)
    assert text.description == "Maps and routes"
    assert text.skills == (PLANNER,)
    assert "Geo Inc" in text.other
    assert "https" not in text.other
    assert "text/plain" not in text.other
    assert tags_of(body) == ("maps", "travel")


def test_a_plain_payload_is_the_description() -> None:
    assert flatten("a", {"payload": "translates contracts"}).description == "translates contracts"
    both = flatten("a", {"description": "A lawyer", "payload": "translates contracts"})
    assert both.description == "A lawyer\ntranslates contracts"


def test_tools_of_other_forms_are_skills() -> None:
    tools = [
        {"name": "search", "description": "Finds papers", "inputSchema": {"type": "object", "description": "hidden"}},
        {"type": "function", "function": {"name": "fetch", "description": "Gets one"}},
        "summarise a paper",
        17,
    ]
    text = flatten("papers", {"tools": tools})
    assert text.skills == (
        SkillText("search", "Finds papers"),
        SkillText("fetch", "Gets one"),
        SkillText("", "summarise a paper"),
    )
    assert "hidden" not in text.other


def test_every_other_string_is_found_once() -> None:
    text = flatten("a", {"extra": {"deep": ["one", "two", {"three": "one"}]}, "number": 5, "none": None})
    assert text.other.split("\n") == ["one", "two"]


def test_data_is_not_text() -> None:
    assert flatten("a", {"blob": "QUJD" * 200}).other == ""
    assert flatten("a", {"words": "some words " * 200}).other != ""


def test_a_huge_body_gives_bounded_text() -> None:
    body = {"skills": [{"name": f"s{n}", "description": f"does {n} " + "word " * 2000} for n in range(2000)]}
    text = flatten("a", body)
    assert sum(len(skill.description) for skill in text.skills) <= CHARS_MAX
    assert len(meaning_texts(text)) == VECTORS_MAX


def test_depth() -> None:
    nested: Any = "leaf"
    for _ in range(64):
        nested = [nested]
    check_depth(nested)
    with pytest.raises(RequestError, match="deeper than 64"):
        check_depth([nested])


def test_a_card_in_a_string_that_is_nested_too_deep_is_not_walked() -> None:
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    assert flatten("a", {"payload": deep}).skills == ()


def test_first_sentence() -> None:
    assert first_sentence("Plans a route. Arguments: x") == "Plans a route."
    assert first_sentence("one line\nand another") == "one line"
    assert first_sentence("查询天气。参数") == "查询天气。"
    assert first_sentence("") == ""


def test_meaning_texts_name_the_agent_in_every_skill() -> None:
    card = CardText("geo_maps", "Maps", ("travel",), (PLANNER,))
    assert meaning_texts(card) == ["geo maps: Maps travel", "geo maps: Route planner: Plans a route.", "how do I get to Rome"]
    assert meaning_texts(CardText("lonely")) == ["lonely"]


def test_query_texts() -> None:
    assert query_texts(" weather in Paris ") == ["weather in Paris"]
    whole = "find me a flight to Rome, and show the weather there"
    assert query_texts(whole) == [whole, "find me a flight to Rome", "and show the weather there"]
    assert len(query_texts("one two three. " * 1000)) == 1  # the same clause again is no other clause
    assert len(query_texts(" ".join(f"do thing {n}." for n in range(1000)))) == 13


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: (
        st.lists(children)
        | st.dictionaries(
            st.sampled_from(["name", "description", "skills", "tags", "payload", "agent_card", "examples", "tools", "x", "y"]),
            children,
        )
    ),
    max_leaves=30,
)


@pytest.mark.fuzz
@given(st.dictionaries(st.sampled_from(["payload", "agent_card", "skills", "tags", "description", "x"]), JSON))
def test_any_json_flattens(body: dict[str, Any]) -> None:
    text = flatten("name", body)
    assert isinstance(text.description, str)
    assert 1 <= len(meaning_texts(text)) <= VECTORS_MAX
    assert all(isinstance(tag, str) for tag in tags_of(body))


@pytest.mark.fuzz
@given(st.text())
def test_any_text_makes_a_query(query: str) -> None:
    texts = query_texts(query)
    assert 1 <= len(texts) <= 13
