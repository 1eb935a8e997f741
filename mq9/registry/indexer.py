"""The indexing side: registrations become searchable here, on one thread, in groups.

A group is embedded together and put into the text index with one commit, because a commit costs the same for one agent
and for many. What is left over is done when nothing waits: agents without vectors of the model in use (after a change of
model, a failure, or a crash between two commits) are embedded in the background, and a large index grows its graph.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from mq9.errors import StorageError
from mq9.registry.embedding import EmbeddingFailed, Vectors
from mq9.registry.engine import SearchEngine
from mq9.registry.flatten import CardText, flatten
from mq9.registry.jobs import IndexJob, Loading
from mq9.registry.ranking import meaning_texts
from mq9.registry.rows import read_registration
from mq9.registry.vector_records import SpaceVectors, VectorRecord, digest, unpack_vectors
from mq9.storage.interface import Store, Table

log = logging.getLogger("mq9.registry")

TEXTS_PER_STEP: Final = 64  # embedded before the thread looks for newer work: about a quarter of a second
LOAD_PER_STEP: Final = 2000  # agents put into the indexes with one commit while starting: about 0.3 s
EMBEDDED_WITH_LOAD_MAX: Final = 128  # agents without vectors that queries wait for after loading: a second
PROBE_S: Final = 5.0  # how often a failed provider is thought of


class _Work(NamedTuple):
    """One agent on its way to its vectors."""

    doc: int
    key: bytes
    texts: list[str]
    digests: tuple[bytes, ...]
    stored: VectorRecord


class Indexer:
    """Runs on the indexing thread alone. `store_vectors` takes records of vectors made in the background."""

    def __init__(
        self,
        engine: SearchEngine,
        store: Store,
        store_vectors: Callable[[int, bytes, VectorRecord], None],
        loaded: Loading,
    ) -> None:
        """`loaded` is told when there is nothing left to load."""
        self.engine = engine
        self._loaded = loaded
        self._loads = 0  # taken on and not finished
        self._store = store
        self._store_vectors = store_vectors
        self._keys: dict[int, bytes] = {}  # every document that is searchable
        self._unloaded: dict[int, bytes] = {}  # stored documents that are still to be made searchable
        self._lacking: deque[int] = deque()  # documents without vectors of the model in use
        self._model_id = ""  # of the last pass over all documents
        self.reused = 0  # vectors taken from the store
        self.rests = 0  # how often there was nothing left to do

    # --- Jobs -------------------------------------------------------------------------------------------------

    def index(self, jobs: Sequence[IndexJob], removed: Collection[int]) -> dict[int, VectorRecord]:
        """Make registrations searchable and forget documents, with one commit. Returns the vectors to store, by document."""
        for doc in removed:
            self._keys.pop(doc, None)
            self._unloaded.pop(doc, None)
        cards = [(job.doc, flatten(job.name, msgspec.json.decode(job.body))) for job in jobs]
        records = self._embed_jobs(jobs, cards)
        if cards or removed:
            self.engine.text.change(cards, removed)
        if self.engine.vectors is not None:
            self.engine.vectors.remove(removed)
        for job in jobs:
            self._keys[job.doc] = job.key
        return records

    def _embed_jobs(self, jobs: Sequence[IndexJob], cards: list[tuple[int, CardText]]) -> dict[int, VectorRecord]:
        if self.engine.embedder is None:
            return {}
        work = [self._prepare(job.doc, job.key, card, read=job.upsert) for job, (_, card) in zip(jobs, cards, strict=True)]
        try:
            return self._give_vectors(work)
        except EmbeddingFailed:
            # They are searchable by keyword now, and by meaning once a model works.
            self._lacking.extend(job.doc for job in jobs)
            return {}

    def load(self, stored: Sequence[tuple[int, bytes]]) -> None:
        """Make stored agents searchable, in steps: `idle` takes them, jobs go between them."""
        self._unloaded.update(stored)
        self._loads += 1
        if not self._model_id and self.engine.embedder is not None:
            self._model_id = self.engine.embedder.model_id

    def load_step(self) -> None:
        """Load some, if there are any. Embeds nothing, but for a few whose vectors were on their way to the store when the
        broker stopped, or the one that led their slot; where many lack vectors, they wait their turn."""
        if self._unloaded:
            part = [self._unloaded.popitem() for _ in range(min(LOAD_PER_STEP, len(self._unloaded)))]
            cards = [(doc, card) for doc, key in part if (card := self._load_one(doc, key)) is not None]
            self.engine.text.change(cards, ())
        if self._loads and not self._unloaded:
            if 0 < len(self._lacking) <= EMBEDDED_WITH_LOAD_MAX and self._fill() and self._lacking:
                return
            self._loaded.end(self._loads)
            self._loads = 0

    def _load_one(self, doc: int, key: bytes) -> CardText | None:
        card = self._read_card(key)
        if card is None:
            return None
        self._keys[doc] = key
        if self._model_id:
            work = self._prepare(doc, key, card, read=True)
            vectors = self._reusable(work, self._model_id)
            if vectors is None:
                self._lacking.append(doc)
            else:
                self._add(doc, *vectors)
                self.reused += len(work.texts)
        return card

    # --- In the background ------------------------------------------------------------------------------------

    def idle(self) -> float | None:
        """A bounded step of what nobody waits for. Returns seconds until the next is due; None: nothing is to be done."""
        wait_s = self._step()
        self.rests += wait_s != 0
        return wait_s

    def _step(self) -> float | None:
        engine = self.engine
        if self._loads:
            self.load_step()
            return 0.0
        if engine.embedder is None:
            return None
        engine.embedder.probe()
        if engine.embedder.model_id != self._model_id:
            self._model_id = engine.embedder.model_id
            self._lacking = deque(self._keys)
        self._follow_queries()
        if self._lacking and not self._fill():
            return PROBE_S
        if self._lacking or (engine.vectors is not None and engine.vectors.step()):
            return 0.0
        return PROBE_S if engine.embedder.failing else None

    @property
    def loading(self) -> int:
        """Stored documents that are not searchable yet."""
        return len(self._unloaded)

    @property
    def waiting(self) -> int:
        """Documents still to be embedded."""
        return len(self._lacking)

    def _follow_queries(self) -> None:
        """Queries may be the first to learn that a service answers with other dimensions than the stored vectors have."""
        space = self.engine.query_space
        model_id, _, dimensions = space.rpartition("/")
        same_model = model_id == self._model_id and self.engine.space.rpartition("/")[0] == model_id
        if same_model and self.engine.enter_space(space, int(dimensions)):
            self._lacking = deque(self._keys)

    def _fill(self) -> bool:
        """Give some documents their vectors; False when no model works now."""
        work: list[_Work] = []
        texts = 0
        while self._lacking and texts < TEXTS_PER_STEP:
            doc = self._lacking.popleft()
            key = self._keys.get(doc)
            card = self._read_card(key) if key is not None else None
            if key is None or card is None:
                continue
            work.append(self._prepare(doc, key, card, read=True))
            texts += len(work[-1].texts)
        try:
            records = self._give_vectors(work)
        except EmbeddingFailed:
            self._lacking.extend(each.doc for each in work)
            return False
        for each in work:
            record = records.get(each.doc)
            if record is not None and record != each.stored:
                self._store_vectors(each.doc, each.key, record)
        return True

    # --- Vectors ----------------------------------------------------------------------------------------------

    def _prepare(self, doc: int, key: bytes, card: CardText, *, read: bool) -> _Work:
        texts = meaning_texts(card)
        stored = self._read_vectors(key) if read else VectorRecord(())
        return _Work(doc, key, texts, tuple(map(digest, texts)), stored)

    def _give_vectors(self, work: list[_Work]) -> dict[int, VectorRecord]:
        """Embed what has no stored vectors, put all into the index, and return the records to store."""
        embedder = self.engine.embedder
        assert embedder is not None
        model_id = embedder.model_id
        ready: dict[int, tuple[str, Vectors]] = {}
        for each in work:
            known = self._reusable(each, model_id)
            if known is not None:
                ready[each.doc] = known
        missing = [each for each in work if each.doc not in ready]
        texts = [text for each in missing for text in each.texts]
        space, rows = embedder.embed(texts) if texts else ("", np.zeros((0, 0), np.float32))
        start = 0
        for each in missing:
            ready[each.doc] = (space, rows[start : start + len(each.texts)])
            start += len(each.texts)
        records = {}
        for each in work:
            space, vectors = ready[each.doc]
            if not self._add(each.doc, space, vectors):
                self._lacking.append(each.doc)  # stored vectors of a space that has just been left
                continue
            records[each.doc] = each.stored.with_space(SpaceVectors.of(space, each.digests, vectors))
        return records

    def _add(self, doc: int, space: str, vectors: Vectors) -> bool:
        """Put vectors into the index. False when the model in use is not theirs any more."""
        embedder = self.engine.embedder
        assert embedder is not None
        if space.rpartition("/")[0] != embedder.model_id:
            return False
        if self.engine.enter_space(space, vectors.shape[1]):
            # The first vectors of a new space, or of a model that answers with other dimensions than before.
            self._lacking = deque(known for known in self._keys if known != doc)
            self._model_id = embedder.model_id
        assert self.engine.vectors is not None
        self.engine.vectors.add(doc, vectors)
        return True

    def _reusable(self, work: _Work, model_id: str) -> tuple[str, Vectors] | None:
        """Stored vectors of a model for all texts of an agent, in their order, or None.

        Once the model's dimensions are known, vectors of other dimensions are from before it changed.
        """
        stored = work.stored.in_space(model_id)
        current = self.engine.space
        if stored is None or (current.rpartition("/")[0] == model_id and stored.space != current):
            return None
        if stored.digests == work.digests:
            return stored.space, stored.vectors()
        rows = {each: row for row, each in enumerate(stored.digests)}
        places = [row for each in work.digests if (row := rows.get(each)) is not None]
        if len(places) < len(work.digests):
            return None
        return stored.space, stored.vectors()[np.asarray(places, np.int64)]

    # --- The store --------------------------------------------------------------------------------------------

    def _read_card(self, key: bytes) -> CardText | None:
        """The texts of a stored agent; None when it is gone meanwhile."""
        registration = read_registration(self._store, key)
        return flatten(registration.name, msgspec.json.decode(registration.body)) if registration is not None else None

    def _read_vectors(self, key: bytes) -> VectorRecord:
        row = self._store.get(Table.AGENT_VECTOR, key)
        if row is not None:
            try:
                return unpack_vectors(key, row)
            except StorageError as failure:
                log.warning("vectors are embedded again: %s", failure)
        return VectorRecord(())
