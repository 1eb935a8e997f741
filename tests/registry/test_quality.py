"""Discovery keeps finding the right agents: the labelled queries, with the model that ships.

`python -m bench.discovery` prints the whole table; here a part of it is held, a little below what it measures, so that a
change that makes ranking worse is noticed and one that only moves ties is not.
"""

from __future__ import annotations

import pytest

from bench.discovery import evaluate, read
from mq9.settings import Settings


@pytest.mark.parametrize(
    ("collection", "every", "least"),
    [
        ("metatool", 20, {"keyword": 0.61, "semantic": 0.66, "hybrid": 0.70}),
        ("metatool-multi", 6, {"keyword": 0.60, "semantic": 0.57, "hybrid": 0.68}),
        ("livemcp", 1, {"keyword": 0.54, "semantic": 0.61, "hybrid": 0.65}),
    ],
)
def test_labelled_queries(collection: str, every: int, least: dict[str, float]) -> None:
    cards = [card for card in read("cards.jsonl") if card["collection"] == collection.removesuffix("-multi")]
    queries = [query for query in read("queries.jsonl") if query["collection"] == collection][::every]
    found = {way: row["nDCG@10"] for way, row in evaluate(cards, queries, Settings()).items()}
    assert {way: value for way, value in found.items() if value < least[way]} == {}, found
