"""What the loop's thread hands to the registry's own threads, and what comes back. Light to import, unlike they."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mq9.registry.vector_records import VectorRecord


@dataclass(slots=True)
class IndexJob:
    """An agent's revision to make searchable under the number `doc`. `fields` is its registered body.

    `upsert`: there may be stored vectors of its former texts. `done` gets the record of vectors to store, or None when
    there is none yet.
    """

    doc: int
    key: bytes
    name: str
    fields: dict[str, Any]
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
