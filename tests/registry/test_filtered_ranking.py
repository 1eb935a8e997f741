"""Ranking by meaning among the agents that a filter leaves."""

from __future__ import annotations

from mq9.registry.engine import KEYWORD_HITS, SearchEngine
from mq9.registry.flatten import CardText
from mq9.registry.jobs import Question
from tests.registry.conftest import MakeNode
from tests.registry.node import Words


def test_a_search_by_meaning_whose_filter_leaves_fewer_than_wanted_is_answered(make_node: MakeNode, words: Words) -> None:
    """It went on asking for more, deeper and deeper, and never answered."""
    node = make_node(words)
    node.register("painter", description="paints landscapes in oil", tags=["art"])
    node.register("translator", description="translates contracts", tags=["nlp"])
    node.run_until_indexed()
    found = node.discover(semantic="landscapes", tags=["art"])
    assert [agent["name"] for agent in found["agents"]] == ["painter"]
    assert found["total"] == 1
    assert node.names(semantic="landscapes", tags=["nobody"]) == []


def test_a_search_by_words_gets_to_the_end_when_asked_for_more_than_it_looked_at_first() -> None:
    """However deep it was asked to look it stopped at the same place, and was asked again."""
    engine = SearchEngine(None)
    count = 10 * KEYWORD_HITS + 1
    engine.text.change([(number, CardText(name=f"agent{number}", description="sorts letters")) for number in range(count)], [])
    assert not engine.keywords(Question("sorts", "keyword", 10, only=[3])).complete
    found = engine.keywords(Question("sorts", "keyword", count, only=[3]))
    assert (found.docs, found.complete) == ([3], True)
