"""Search by meaning against the plainest possible search, with and without the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mq9.registry.embedding import Vectors, unit
from mq9.registry.vector_index import VectorIndex

RANDOM = np.random.default_rng(5)


def rows(count: int, dimensions: int = 16) -> Vectors:
    return unit(RANDOM.standard_normal((count, dimensions)).astype(np.float32))


def plain(agents: dict[int, Vectors], queries: Vectors) -> dict[int, list[float]]:
    return {doc: [float(max(vectors @ query)) for query in queries] for doc, vectors in agents.items()}


def answer(index: VectorIndex, queries: Vectors, **asked: Any) -> dict[int, list[float]]:
    found = index.scores(queries, **asked)
    return {int(doc): [float(value) for value in row] for doc, row in zip(found.docs, found.best, strict=True) if doc >= 0}


def same(found: dict[int, list[float]], expected: dict[int, list[float]]) -> bool:
    return found.keys() == expected.keys() and all(np.allclose(found[doc], expected[doc], atol=1e-5) for doc in expected)


CHANGES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=60)


@settings(deadline=None)
@given(CHANGES)
def test_any_changes_leave_what_is_expected(changes: list[tuple[int, int]]) -> None:
    """(doc, n): give the agent n vectors; none takes it away."""
    index = VectorIndex(16)
    agents: dict[int, Vectors] = {}
    for doc, count in changes:
        vectors = rows(count)
        index.add(doc, vectors)
        agents[doc] = vectors
        if not count:
            del agents[doc]
    queries = rows(2)
    assert same(answer(index, queries), plain(agents, queries))
    assert len(index) == sum(map(len, agents.values()))
    assert index.agents == len(agents)
    only = np.asarray([1, 3, 5, 99], np.int64)
    assert same(answer(index, queries, only=only), plain({doc: agents[doc] for doc in (1, 3, 5) if doc in agents}, queries))


def test_compaction_keeps_the_living() -> None:
    index = VectorIndex(16)
    agents = {doc: rows(3) for doc in range(3000)}
    for doc, vectors in agents.items():
        index.add(doc, vectors)
    index.remove(range(0, 3000, 2))
    agents = {doc: vectors for doc, vectors in agents.items() if doc % 2}
    index.add(7000, rows(1))
    index.remove([7000])
    queries = rows(1)
    assert same(answer(index, queries), plain(agents, queries))


def test_asked_agents_are_placed() -> None:
    index = VectorIndex(16)
    for doc in range(10):
        index.add(doc, rows(2))
    found = index.scores(rows(1), ask=(3, 77))
    assert list(found.at) == [3]
    assert found.docs[found.at[3]] == 3


def test_an_empty_index_answers_with_nothing() -> None:
    assert answer(VectorIndex(16), rows(2)) == {}
    assert answer(VectorIndex(16), rows(2), only=np.asarray([1], np.int64)) == {}


@pytest.fixture
def graph() -> tuple[VectorIndex, dict[int, Vectors]]:
    pytest.importorskip("hnswlib")
    index = VectorIndex(16, exact_vectors_max=500)
    agents = {doc: rows(2) for doc in range(2000)}
    for doc, vectors in agents.items():
        index.add(doc, vectors)
    while index.step():
        pass
    return index, agents


def test_the_graph_proposes_and_exact_scores_decide(graph: tuple[VectorIndex, dict[int, Vectors]]) -> None:
    index, agents = graph
    overlap = 0
    for _ in range(20):
        query = rows(1)
        found = index.scores(query, need=10)
        assert not found.complete
        expected = plain(agents, query)
        assert all(abs(row[0] - expected[int(doc)][0]) < 1e-5 for doc, row in zip(found.docs, found.best, strict=True))
        best = sorted(expected, key=lambda doc: -expected[doc][0])[:10]
        overlap += len(set(best) & set(found.docs.tolist()))
    assert overlap >= 180  # of 200


def test_deep_pages_and_filters_are_exact(graph: tuple[VectorIndex, dict[int, Vectors]]) -> None:
    index, agents = graph
    assert index.scores(rows(1), need=1500).complete
    only = np.arange(0, 2000, 3)
    query = rows(1)
    assert same(answer(index, query, only=only, need=10), plain({int(doc): agents[int(doc)] for doc in only}, query))


def test_the_removed_are_never_proposed(graph: tuple[VectorIndex, dict[int, Vectors]]) -> None:
    index, agents = graph
    for doc in range(400):
        query = agents[doc][:1]
        index.remove([doc])
        assert doc not in index.scores(query, need=10).docs.tolist()


def test_new_agents_are_found_before_the_graph_has_them(graph: tuple[VectorIndex, dict[int, Vectors]]) -> None:
    index, _ = graph
    vector = rows(1)
    index.add(9000, vector)
    assert index.scores(vector, need=1).complete
    assert 9000 in answer(index, vector, need=1)
    while index.step():
        pass
    assert 9000 in answer(index, vector, need=1)


def test_more_than_there_is_may_be_asked_for() -> None:
    pytest.importorskip("hnswlib")
    index = VectorIndex(16, exact_vectors_max=0)
    index.add(1, rows(1))
    while index.step():
        pass
    assert list(answer(index, rows(1), need=50)) == [1]


def test_unit_makes_what_has_no_direction_zero() -> None:
    given_rows = np.asarray([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1]], np.float32)
    assert np.allclose(unit(given_rows), np.asarray([[0.6, 0.8], [0, 0], [0, 0], [0, 0]]))
