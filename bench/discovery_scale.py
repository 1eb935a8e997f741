"""What a registry of 100,000 agents costs: registering, memory, DISCOVER, restart.

    python -m bench.discovery_scale [--agents 100000] [--skills 1] [--queries 125]

Agents are made from the labelled cards: each describes itself with sentences of two cards and has skills with sentences of
others, so words and vectors are as uneven as real ones. Storage is LMDB with fsync. Embedding 200,000 texts takes a
quarter of an hour of this model's time and measures nothing but the model, so documents get vectors put together from
those of their sentences, which the model made, plus a little noise; the model's own speed is measured first and printed.
Queries are embedded by the model each time, as they would be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from bench.discovery import read
from bench.local_registry import LocalRegistry
from mq9.clock import Clock
from mq9.registry.embedder import Embedder
from mq9.registry.embedding import MiniLm, Vectors, unit
from mq9.settings import Settings

NOISE = 0.3  # of a vector of length 1: agents with the same sentences are near each other, not equal
WARM = 10
PAGE = 10


class Assembled:
    """MiniLM for queries; for documents, the mean of the known sentences they hold, plus noise."""

    model_id = "assembled"

    def __init__(self, sentences: list[str]) -> None:
        self.model = MiniLm()
        self._known = dict(zip(sentences, self.model.embed(sentences), strict=True))
        self._random = np.random.default_rng(9)

    def embed(self, texts: list[str], *, query: bool = False) -> Vectors:
        if query:
            return self.model.embed(texts)
        rows = np.stack([self._assemble(text) for text in texts])
        return unit(rows + NOISE * unit(self._random.standard_normal(rows.shape).astype(np.float32)))

    def close(self) -> None:
        """The model serves both halves of the run."""

    def _assemble(self, text: str) -> Vectors:
        parts = [self._known[part] for part in re.split(r"\s*\|\s*|: ", text) if part in self._known]
        return np.mean(parts, axis=0) if parts else np.ones(384, np.float32)


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def sentences_of(cards: list[dict[str, Any]]) -> list[str]:
    """First sentences of descriptions and skills: no colon and no bar inside, which separate them later."""
    texts = [part["description"] for card in cards for part in (card, *card.get("skills", ()))]
    first = [re.split(r"(?<=[.!?])\s|\n", text.strip())[0].strip() for text in texts if text]
    return sorted({text.replace("|", " ").replace(":", " ").rstrip(".!?") for text in first if 15 < len(text) < 300})


def agents(wanted: int, skills: int, sentences: list[str]) -> list[dict[str, Any]]:
    draw = random.Random(4)
    words = sorted({word.lower() for text in sentences for word in re.findall(r"[A-Za-z]{4,}", text)})
    made = []
    for number in range(wanted):
        name = f"{draw.choice(words)}-{draw.choice(words)}-{number}"
        described = " | ".join(draw.sample(sentences, 2))
        card = {
            "name": name,
            "description": described,
            "skills": [
                {
                    "id": f"s{each}",
                    "name": draw.choice(words),
                    "description": draw.choice(sentences),
                    "tags": [draw.choice(words)],
                }
                for each in range(skills)
            ],
        }
        made.append({"name": name, "mailbox": f"agents.a{number}", "agent_card": card, "tags": [f"team{number % 50}"]})
    return made


def percentiles(run: Callable[[str], Any], queries: list[str]) -> str:
    for query in queries[:WARM]:
        run(query)
    spent = []
    for query in queries[WARM:]:
        started_s = time.perf_counter()
        run(query)
        spent.append(1000 * (time.perf_counter() - started_s))
    spent.sort()
    return f"p50 {spent[len(spent) // 2]:7.2f} ms   p99 {spent[int(len(spent) * 0.99)]:7.2f} ms"


def measure_queries(local: LocalRegistry, queries: Iterator[list[str]], label: str) -> None:
    """Each way gets queries of its own: one asked before would be remembered, and the model not be measured."""
    ways: dict[str, Callable[[str], Any]] = {
        "list": lambda _: local.discover(limit=PAGE),
        "text": lambda query: local.discover(text=query, limit=PAGE),
        "semantic": lambda query: local.discover(semantic=query, mode="semantic", limit=PAGE),
        "hybrid": lambda query: local.discover(semantic=query, limit=PAGE),
        "hybrid, tag": lambda query: local.discover(semantic=query, tags=["team7"], limit=PAGE),
    }
    for way, run in ways.items():
        print(f"  DISCOVER {way:12} {percentiles(run, next(queries))}   ({label})", flush=True)


def model_speed(sentences: list[str]) -> None:
    model = MiniLm()
    model.embed(sentences[:16])
    started_s = time.perf_counter()
    model.embed(sentences[:256])
    print(f"model: {256 / (time.perf_counter() - started_s):.0f} texts/s in batches, {rss_mb():.0f} MB resident with it loaded")


def run(options: argparse.Namespace, folder: Path) -> None:
    sentences = sentences_of(read("cards.jsonl"))
    texts = [query["query"] for query in read("queries.jsonl")]
    random.Random(1).shuffle(texts)
    queries = (texts[start : start + options.queries + WARM] for start in count(0, options.queries + WARM))
    model_speed(sentences)
    bodies = agents(options.agents, options.skills, sentences)
    size = sum(len(json.dumps(body)) for body in bodies[:1000]) / 1000
    provider = Assembled(sentences)

    def make(settings: Settings, clock: Clock) -> Embedder:
        return Embedder(provider, None, clock)

    before_mb = rss_mb()
    local = LocalRegistry(folder, Settings(), make)
    started_s = time.perf_counter()
    local.register_all(bodies, options.outstanding)
    took_s = time.perf_counter() - started_s
    rate = options.agents / took_s
    print(f"REGISTER: {rate:.0f}/s without the model's time, {options.outstanding} outstanding, {size:.0f} B each", flush=True)
    del bodies
    vectors = local.registry.background.engine.vectors if local.registry.background.engine else None
    held = len(vectors) if vectors is not None else 0
    each_kb = (rss_mb() - before_mb) * 1000 / options.agents
    print(f"memory: {each_kb:.1f} kB an agent; {held} vectors; {rss_mb():.0f} MB resident", flush=True)
    measure_queries(local, queries, f"{held} vectors, exact")
    if options.graph:
        print(f"graph: built in the background in {local.settle():.0f} s; {rss_mb():.0f} MB resident", flush=True)
        measure_queries(local, queries, "with the graph")
    local.close()
    restart(folder, make, texts[-1])


def restart(folder: Path, make: Any, query: str) -> None:
    started_s = time.perf_counter()
    local = LocalRegistry(folder, Settings(), make)
    listed_s = time.perf_counter() - started_s
    while not local.registry.background.ready:
        time.sleep(0.01)
    searchable_s = time.perf_counter() - started_s
    indexer, engine = local.registry.background.indexer, local.registry.background.engine
    assert indexer is not None
    assert engine is not None
    assert engine.embedder is not None
    print(
        f"restart: listed after {listed_s:.2f} s, searchable after {searchable_s:.2f} s; "
        f"{indexer.reused} vectors from the store, {engine.embedder.texts_embedded} texts embedded"
    )
    print(f"  first page after restart: {local.discover(semantic=query, limit=3)['total']} agents ranked")
    local.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=100_000)
    parser.add_argument("--skills", type=int, default=1)
    parser.add_argument("--queries", type=int, default=125)
    parser.add_argument("--outstanding", type=int, default=256)
    parser.add_argument("--graph", action=argparse.BooleanOptionalAction, default=True, help="wait for hnswlib's graph too")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mq9-scale-"))
    try:
        run(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
