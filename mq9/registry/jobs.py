"""What the loop's thread hands to the registry's own threads, and what comes back. Light to import, unlike they."""

from __future__ import annotations

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
    """A document to forget."""

    doc: int


@dataclass(slots=True)
class LoadJob:
    """Everything that was stored at the start: pairs of document number and AGENT key. Always the first job."""

    stored: list[tuple[int, bytes]]


Job = IndexJob | RemoveJob | LoadJob


@dataclass(slots=True)
class Question:
    """A query to rank. `depth`: how many agents from the top. `only`: documents to choose among; None: all."""

    query: str
    mode: str  # keyword, semantic or hybrid
    depth: int
    only: list[int] | None = None


@dataclass(slots=True)
class Ranked:
    """Documents and scores, best first; `complete` when there are no more. `mode` is what was done, not what was asked.

    `matches` is how many there are in all, as far as was looked.
    """

    docs: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    complete: bool = True
    mode: str = "keyword"
    matches: int = 0


@dataclass(slots=True)
class Query:
    """A question and what to do with its answer: `done(None)` when it could not be ranked."""

    question: Question
    done: Callable[[Ranked | None], None]


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
