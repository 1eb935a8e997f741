"""How well DISCOVER finds the right agent: recall@1, recall@5, MRR@10 and nDCG@10 on labelled queries.

    python -m bench.discovery [--embedding blend] [--pool all] [--brokers 3] [--json]

Each collection's cards are registered in a registry of their own (`--pool all`: all in one, which is harder), then every
query is asked by keyword (`text`), by meaning alone and as a hybrid (`semantic`). With `--brokers` the agents are spread over
so many and their answers merged, as in a cluster. `+-` is the standard error of nDCG over the queries: methods that differ by
less than that are not different. The data and its licences: bench/data/discovery.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from bench.local_registry import LocalRegistry
from bench.spread_registry import SpreadRegistry
from mq9.settings import Settings

DATA = Path(__file__).parent / "data" / "discovery"
COLLECTIONS = ("metatool", "metatool-multi", "livemcp")
WAYS: dict[str, dict[str, str]] = {"keyword": {"mode": "keyword"}, "semantic": {"mode": "semantic"}, "hybrid": {}}
CUT = 10


def read(name: str) -> list[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def one_query(found: list[str], relevant: list[str]) -> tuple[float, float, float, float]:
    """recall@1, recall@5, MRR@10, nDCG@10 of one result list (binary relevance; log2 discount, as usual)."""
    gains = [name in relevant for name in found[:CUT]]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(CUT, len(relevant))))
    gained = sum(gain / math.log2(place + 2) for place, gain in enumerate(gains))
    first = next((1 / (place + 1) for place, gain in enumerate(gains) if gain), 0.0)
    return sum(gains[:1]) / len(relevant), sum(gains[:5]) / len(relevant), first, gained / ideal


def summary(results: list[tuple[float, float, float, float]]) -> dict[str, float]:
    count = len(results)
    means = [sum(column) / count for column in zip(*results, strict=True)]
    spread = math.sqrt(sum((result[3] - means[3]) ** 2 for result in results) / max(1, count - 1) / count)
    return dict(zip(("recall@1", "recall@5", "MRR@10", "nDCG@10", "+-"), (*means, spread), strict=True))


def named(cards: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The cards as bodies to register, by name; a second card of a name gets a number. Ids are left out: they hold labels."""
    bodies: dict[str, dict[str, Any]] = {}
    for card in cards:
        name = card["name"]
        while name in bodies:
            name += " 2"
        bodies[name] = card
    return bodies


def body_of(name: str, card: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "agent_card": {key: value for key, value in card.items() if key not in ("id", "collection")}}


def evaluate(
    cards: list[dict[str, Any]], queries: list[dict[str, Any]], settings: Settings, brokers: int = 1
) -> dict[str, dict[str, float]]:
    local = LocalRegistry(None, settings) if brokers == 1 else SpreadRegistry(settings, brokers)
    try:
        by_name = named(cards)
        local.register_all([body_of(*item) for item in by_name.items()], outstanding=64)
        table = {}
        for way, fields in WAYS.items():
            field = "text" if way == "keyword" else "semantic"
            results = []
            for query in queries:
                reply = local.discover(**{field: query["query"]}, limit=CUT, **fields)
                found = [by_name[agent["name"]]["id"] for agent in reply["agents"]]
                results.append(one_query(found, query["relevant"]))
            table[way] = summary(results)
        return table
    finally:
        local.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedding", default="minilm", choices=("minilm", "wordllama", "blend", "none"))
    parser.add_argument("--pool", default="own", choices=("own", "all"))
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cards, queries = read("cards.jsonl"), read("queries.jsonl")
    settings = Settings(embedding=options.embedding, storage="memory")
    report = {}
    for collection in COLLECTIONS:
        own = collection.removesuffix("-multi")
        pool = cards if options.pool == "all" else [card for card in cards if card["collection"] == own]
        asked = [query for query in queries if query["collection"] == collection]
        report[collection] = evaluate(pool, asked, settings, options.brokers)
        if not options.json:
            for way, row in report[collection].items():
                print(f"{collection:15} {way:9}" + "".join(f"  {name} {value:.3f}" for name, value in row.items()), flush=True)
    if options.json:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
