"""Search by meaning: the vectors of agents, and which agents are nearest to a query.

An agent has several vectors (itself, each skill) and scores the best of them. They lie together as one block of rows in a
float32 matrix, and exact search is one matrix product: 0.4 ms for 10,000 vectors of 384, 6 ms for 100,000. Above
EXACT_VECTORS_MAX an HNSW graph proposes candidates, where hnswlib is installed; their scores are still exact, so the
graph can only overlook, never misjudge. All methods may be called from any thread.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mq9.registry.embedding import Vectors

log = logging.getLogger("mq9.registry")

Docs = npt.NDArray[np.int64]

EXACT_VECTORS_MAX: Final = 50_000  # 4 ms of one core; below it the graph saves nothing
DEAD_FRACTION_MAX: Final = 0.25  # rebuilt when more rows than this belong to nobody: dead rows erode a graph's recall
ROWS_MIN: Final = 1024
GRAPH_LINKS: Final = 16
GRAPH_EF_BUILD: Final = 200
GRAPH_EF_SEARCH: Final = 256  # recall .97 of the ten nearest at 100,000 vectors
GRAPH_CANDIDATES: Final = 256  # rows asked for; a page that needs more agents than these hold is searched exactly
GRAPH_ROWS_PER_STEP: Final = 512  # inserted in one step of building, about 0.2 s
PRODUCT_ROWS: Final = 1024  # 1.5 MB of 384 dimensions
_NOBODY: Final = -1


class Scores(NamedTuple):
    """The best similarity of each agent. `best[i, j]` is that of agent `docs[i]` (-1: nobody) to query j.

    `complete` is False when only candidates were looked at. `at` gives the row of each document that was asked about.
    """

    docs: Docs
    best: Vectors
    at: dict[int, int]
    complete: bool


class VectorIndex:
    """Vectors of one model. Adding an agent that is there replaces it."""

    def __init__(self, dimensions: int, exact_vectors_max: int = EXACT_VECTORS_MAX) -> None:
        self.dimensions = dimensions
        self._exact_max = exact_vectors_max
        self._lock = threading.Lock()
        self._rows: Vectors = np.empty((ROWS_MIN, dimensions), np.float32)
        self._row_count = 0
        self._starts: Docs = np.empty(ROWS_MIN, np.int64)  # first row of each block
        self._docs: Docs = np.empty(ROWS_MIN, np.int64)  # whose block it is
        self._block_count = 0
        self._block_of: dict[int, int] = {}
        self._dead_rows = 0
        self._graph: _Graph | None = None
        self._graph_wanted = True

    def __len__(self) -> int:
        """Live vectors."""
        return self._row_count - self._dead_rows

    def __contains__(self, doc: int) -> bool:
        return doc in self._block_of

    @property
    def agents(self) -> int:
        """Agents with at least one vector."""
        return len(self._block_of)

    def add(self, doc: int, vectors: Vectors) -> None:
        """Give agent `doc` these vectors (rows of unit length)."""
        if not len(vectors):
            self.remove([doc])
            return
        with self._lock:
            self._forget(doc)
            start, stop = self._row_count, self._row_count + len(vectors)
            self._rows = _grown(self._rows, self._row_count, stop)
            self._starts = _grown(self._starts, self._block_count, self._block_count + 1)
            self._docs = _grown(self._docs, self._block_count, self._block_count + 1)
            self._rows[start:stop] = vectors
            self._starts[self._block_count] = start
            self._docs[self._block_count] = doc
            self._block_of[doc] = self._block_count
            self._row_count = stop
            self._block_count += 1

    def remove(self, docs: Iterable[int]) -> None:
        """Forget these agents; unknown ones are ignored."""
        with self._lock:
            for doc in docs:
                self._forget(doc)
            if self._dead_rows > max(ROWS_MIN, DEAD_FRACTION_MAX * self._row_count):
                self._compact()

    def scores(self, queries: Vectors, ask: Sequence[int] = (), only: Docs | None = None, need: int = 0) -> Scores:
        """Best similarities to each row of `queries`.

        `only`: of these agents alone. `need`: how many of the nearest agents the caller will look at; 0 is all of them.
        `ask`: agents whose places in the answer are wanted too (they are among the candidates then).
        """
        with self._lock:
            blocks = self._blocks(queries, ask, only, need)
            if blocks is None:
                docs = self._docs[: self._block_count].copy()
                rows, starts = self._rows[: self._row_count], self._starts[: self._block_count]
                at = {doc: self._block_of[doc] for doc in ask if doc in self._block_of}
            else:
                docs = self._docs[blocks]
                rows, starts = self._gather(blocks)
                place = {int(doc): index for index, doc in enumerate(docs)} if ask else {}
                at = {doc: place[doc] for doc in ask if doc in place}
            complete = blocks is None or only is not None  # of those that may be chosen, none was left out
            if not len(docs):
                return Scores(docs, np.empty((0, len(queries)), np.float32), at, complete)
            best = np.maximum.reduceat(_products(rows, queries), starts, axis=1).T
        return Scores(docs, best, at, complete)

    def step(self) -> bool:
        """Do a bounded piece of building the graph; True while there is more to do. For the indexing thread when idle."""
        with self._lock:
            if not self._graph_wanted or len(self) <= self._exact_max:
                return False
            if self._graph is None:
                self._graph = _Graph.make(self.dimensions)
                if self._graph is None:
                    self._graph_wanted = False
                    log.info("hnswlib is not installed (pip install 'mq9[hnsw]'): %d vectors are compared one by one", len(self))
                    return False
            graph, start = self._graph, self._graph.rows
            stop = min(start + GRAPH_ROWS_PER_STEP, self._row_count)
            block = self._rows[start:stop].copy()
        # Searches do not use the graph before it holds every row, so inserting needs no lock until then.
        graph.insert(start, block)
        with self._lock:
            return self._graph is graph and graph.rows < self._row_count

    def _blocks(self, queries: Vectors, ask: Sequence[int], only: Docs | None, need: int) -> Docs | None:
        """Which blocks to compare: None is all of them."""
        if only is not None:
            found = [self._block_of[doc] for doc in only.tolist() if doc in self._block_of]
            return np.asarray(sorted(found), np.int64)
        graph = self._graph
        usable = graph is not None and graph.rows == self._row_count and len(self) > self._exact_max
        if graph is None or not usable or not 0 < need <= GRAPH_CANDIDATES // 4:
            return None
        near = graph.nearest(queries, min(GRAPH_CANDIDATES, len(self)))
        if near is None:
            return None
        proposed = np.searchsorted(self._starts[: self._block_count], near, side="right") - 1
        asked = np.asarray([self._block_of[doc] for doc in ask if doc in self._block_of], np.int64)
        blocks = np.union1d(proposed, asked)
        living: Docs = blocks[self._docs[blocks] != _NOBODY]
        return living

    def _gather(self, blocks: Docs) -> tuple[Vectors, Docs]:
        """Rows of some blocks, and where each begins among them."""
        ends = np.append(self._starts[: self._block_count], self._row_count)
        sizes = ends[blocks + 1] - ends[blocks]
        starts = np.cumsum(sizes) - sizes
        rows = np.repeat(ends[blocks] - starts, sizes) + np.arange(int(sizes.sum()))
        return self._rows[rows], starts

    def _forget(self, doc: int) -> None:
        block = self._block_of.pop(doc, None)
        if block is None:
            return
        start = int(self._starts[block])
        stop = int(self._starts[block + 1]) if block + 1 < self._block_count else self._row_count
        self._docs[block] = _NOBODY
        self._dead_rows += stop - start
        if self._graph is not None:
            self._graph.delete(start, stop)

    def _compact(self) -> None:
        """Move the living together. Rows are renumbered, so a graph starts anew."""
        blocks = np.flatnonzero(self._docs[: self._block_count] != _NOBODY).astype(np.int64)
        rows, starts = self._gather(blocks)
        docs = self._docs[blocks]
        self._row_count, self._block_count, self._dead_rows = len(rows), len(blocks), 0
        self._rows = _grown(rows, len(rows), ROWS_MIN)
        self._starts = _grown(starts, len(starts), ROWS_MIN)
        self._docs = _grown(docs, len(docs), ROWS_MIN)
        self._block_of = {int(doc): index for index, doc in enumerate(docs)}
        self._graph = None


class _Graph:
    """hnswlib with its traps fenced: never asked before it has rows, for more than it has, or while it grows.

    Labels are row numbers. Nothing is changed in place and nothing but unit vectors gets in.
    """

    def __init__(self, library: Any, dimensions: int) -> None:
        self._index = library.Index(space="ip", dim=dimensions)
        self._index.init_index(max_elements=ROWS_MIN, M=GRAPH_LINKS, ef_construction=GRAPH_EF_BUILD)
        self._index.set_ef(GRAPH_EF_SEARCH)
        self._lock = threading.Lock()
        self._deleted: set[int] = set()
        self._capacity = ROWS_MIN
        self.rows = 0

    @classmethod
    def make(cls, dimensions: int) -> _Graph | None:
        """A graph, or None where hnswlib is not installed."""
        try:
            return cls(importlib.import_module("hnswlib"), dimensions)
        except ImportError:
            return None

    def insert(self, first: int, rows: Vectors) -> None:
        """Add rows that are numbered from `first` on."""
        if not len(rows):
            return
        with self._lock:
            stop = first + len(rows)
            if stop > self._capacity:
                self._capacity = max(stop, 2 * self._capacity)
                self._index.resize_index(self._capacity)
            self._index.add_items(rows, np.arange(first, stop), num_threads=1)
            self.rows = stop
            for row in range(first, stop):
                if row in self._deleted:
                    self._index.mark_deleted(row)

    def delete(self, start: int, stop: int) -> None:
        """Rows nobody has any more. Those not inserted yet are remembered."""
        with self._lock:
            for row in range(start, stop):
                self._deleted.add(row)
                if row < self.rows:
                    self._index.mark_deleted(row)

    def nearest(self, queries: Vectors, count: int) -> Docs | None:
        """Rows near any of the queries, or None when the graph cannot say."""
        with self._lock:
            wanted = min(count, self.rows - len(self._deleted))
            if wanted < 1:
                return None
            try:
                labels, _ = self._index.knn_query(queries, k=wanted, num_threads=1)
            except RuntimeError as failure:  # it could not reach `wanted` rows; exact search can
                log.debug("graph search fell back: %s", failure)
                return None
        return np.unique(labels.astype(np.int64))


def _products(rows: Vectors, queries: Vectors) -> Vectors:
    """queries x rows. A block of rows serves all queries while it is in the cache; one product of the whole reads memory
    at the same speed but once for each query, and takes three times as long for a query with two clauses."""
    products = np.empty((len(queries), len(rows)), np.float32)
    for start in range(0, len(rows), PRODUCT_ROWS):
        block = rows[start : start + PRODUCT_ROWS]
        for index, query in enumerate(queries):
            np.dot(block, query, out=products[index, start : start + PRODUCT_ROWS])
    return products


def _grown(array: Any, used: int, needed: int) -> Any:
    """`array` with room for `needed` rows, its first `used` rows kept."""
    if needed <= len(array):
        return array
    larger = np.empty((max(needed, 2 * len(array)), *array.shape[1:]), array.dtype)
    larger[:used] = array[:used]
    return larger
