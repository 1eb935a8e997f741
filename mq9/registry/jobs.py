"""What the loop's thread hands to the registry's own threads, and what comes back. Light to import, unlike they."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mq9.registry.vector_records import VectorRecord


@dataclass(slots=True)
class IndexJob:
    """An agent's revision to make searchable under the number `doc`. `body` is its registered JSON object.

    `upsert`: there may be stored vectors of its former texts. `done` gets the record of vectors to store, or None when
    there is none yet.
    """

    doc: int
    key: bytes
    name: str
    body: bytes
    upsert: bool
    done: Callable[[VectorRecord | None], None]


@dataclass(slots=True)
class RemoveJob:
    """Documents to forget."""

    docs: list[int]


@dataclass(slots=True)
class LoadJob:
    """Agents that were stored, all at the start or those of a slot: pairs of document number and AGENT key."""

    stored: list[tuple[int, bytes]]


Job = IndexJob | RemoveJob | LoadJob


class Loading:
    """Whether everything stored is searchable. Told by the loop that there is something to load, by the indexer that it
    is done; set when both have said so equally often."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._done.set()
        self._under_way = 0

    def begin(self) -> None:
        """One more load was asked for."""
        with self._lock:
            self._under_way += 1
            self._done.clear()

    def end(self, loads: int) -> None:
        """So many are done."""
        with self._lock:
            self._under_way -= loads
            if not self._under_way:
                self._done.set()

    def is_set(self) -> bool:
        return self._done.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is; whether it is."""
        return self._done.wait(timeout_s)


@dataclass(frozen=True, slots=True)
class Frequencies:
    """Of how many agents there are, how many have each term of a query, field by field: what BM25 weighs words by."""

    documents: int
    with_term: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """A query and its clauses embedded, in half precision, row after row."""

    space: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Reach:
    """How far down to rank: at least `needed` agents that may be shown, `depth` at first. The rest is as in `Question`."""

    needed: int
    depth: int
    frequencies: Frequencies | None = None
    vectors: QueryVectors | None = None


@dataclass(slots=True)
class Question:
    """A query to rank. `depth`: how many agents from the top. `only`: documents to choose among; None: all.

    In a cluster every broker ranks its own agents by the `frequencies` of all, and one embeds the query for all.
    """

    query: str
    mode: str  # keyword, semantic or hybrid
    depth: int
    only: list[int] | None = None
    frequencies: Frequencies | None = None
    vectors: QueryVectors | None = None


@dataclass(slots=True)
class Ranked:
    """Documents and scores, best first; `complete` when there are no more. `mode` is what was done, not what was asked.

    `matches` is how many there are in all, as far as was looked. `loading`: not everything stored was searchable yet.
    """

    docs: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    complete: bool = True
    mode: str = "keyword"
    matches: int = 0
    loading: bool = False


@dataclass(slots=True)
class Query:
    """A question and what to do with its answer: `done(None)` when it could not be ranked."""

    question: Question
    done: Callable[[Ranked | None], None]


@dataclass(slots=True)
class EmbedQuery:
    """A query to embed, not to rank. `done(None)`: not now; whoever ranks it may try."""

    query: str
    done: Callable[[QueryVectors | None], None]


@dataclass(frozen=True, slots=True)
class SearchStats:
    """For monitoring. `loading` and `to_embed` count agents; `model` is empty until the first text was embedded."""

    jobs_waiting: int = 0
    queries_waiting: int = 0
    loading: int = 0  # stored agents that are not searchable yet, after a start
    to_embed: int = 0  # searchable by keyword, waiting for their vectors
    vectors: int = 0
    model: str = ""
    model_failing: bool = False
    texts_embedded: int = 0
