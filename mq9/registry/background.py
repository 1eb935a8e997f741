"""The two threads behind the registry: one makes agents searchable, one ranks. The loop's thread only hands over.

Nothing heavy is imported or loaded before the first agent is registered or was found in the store: a broker that is used
for messages alone pays for none of it. Completions run on the loop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from mq9.clock import Clock
from mq9.registry.jobs import EmbedQuery, IndexJob, Job, Loading, LoadJob, Query, Question, Ranked, RemoveJob, SearchStats
from mq9.registry.worker import Worker
from mq9.settings import Settings
from mq9.storage.interface import Store

if TYPE_CHECKING:
    from mq9.registry.embedder import Embedder
    from mq9.registry.engine import SearchEngine
    from mq9.registry.indexer import Indexer
    from mq9.registry.vector_records import VectorRecord

JOBS_PER_GROUP: Final = 32  # registrations that share a commit of the text index
QUERIES_PER_GROUP: Final = 16  # queries that share a run of the model
LOADING_WAIT_S: Final = 2.0  # queries wait this long for a restarted broker to load, then are answered from what it has


Result = TypeVar("Result")
StoreVectors = Callable[[int, bytes, "VectorRecord"], None]


class Background:
    """Indexing and ranking, off the loop's thread."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock,
        call_soon_threadsafe: Callable[[Callable[[], None]], object],
        store_vectors: StoreVectors,
        make_embedder: Callable[[Settings, Clock], Embedder | None] | None = None,
    ) -> None:
        """`store_vectors(doc, key, record)` runs on the loop. `make_embedder` takes the place of the settings' choice."""
        self._store = store
        self._settings = settings
        self._clock = clock
        self._call = call_soon_threadsafe
        self._store_vectors = store_vectors
        self._make_embedder = make_embedder
        self.engine: SearchEngine | None = None  # set by the indexing thread, once
        self.indexer: Indexer | None = None
        self.loaded = Loading()
        self._made = threading.Event()
        self._closed = False
        self.jobs: Worker[Job] = Worker("mq9-index", self._index, self._jobs_failed, group_max=JOBS_PER_GROUP, idle=self._idle)
        self.queries: Worker[Query | EmbedQuery] = Worker(
            "mq9-rank", self._rank, self._queries_failed, group_max=QUERIES_PER_GROUP
        )

    @property
    def ready(self) -> bool:
        """Whether everything stored is searchable, so that keyword queries need no other thread."""
        return self.engine is not None and self.loaded.is_set()

    def submit(self, job: Job) -> None:
        """Hand a job to the indexing thread. Jobs are done in order."""
        if isinstance(job, LoadJob):
            self.loaded.begin()
        self.jobs.submit(job)

    def ask(self, query: Query | EmbedQuery) -> None:
        """Hand a query to the ranking thread."""
        self.queries.submit(query)

    def keywords(self, question: Question) -> Ranked:
        """Rank by keywords on this thread; only when `ready`."""
        assert self.engine is not None
        return self.engine.keywords(question)

    def stats(self) -> SearchStats:
        """How far indexing is; a few reads, from any thread."""
        engine, indexer = self.engine, self.indexer
        if engine is None or indexer is None:
            return SearchStats(jobs_waiting=len(self.jobs), queries_waiting=len(self.queries))
        vectors, embedder = engine.vectors, engine.embedder
        return SearchStats(
            jobs_waiting=len(self.jobs),
            queries_waiting=len(self.queries),
            loading=indexer.loading,
            to_embed=indexer.waiting,
            vectors=len(vectors) if vectors is not None else 0,
            model=embedder.model_id if embedder is not None else "",
            model_failing=embedder.failing if embedder is not None else False,
            texts_embedded=embedder.texts_embedded if embedder is not None else 0,
        )

    def close(self) -> None:
        """End both threads. What waits is answered: nothing is silently dropped."""
        self._closed = True
        self.jobs.close()
        self.queries.close()
        if self.engine is not None and self.engine.embedder is not None:
            self.engine.embedder.close()

    # --- The indexing thread ----------------------------------------------------------------------------------

    def _index(self, jobs: list[Job]) -> None:
        indexer = self._ready_indexer()
        for job in jobs:
            if isinstance(job, LoadJob):
                indexer.load(job.stored)
        wanted = [job for job in jobs if isinstance(job, IndexJob)]
        removed = {doc for job in jobs if isinstance(job, RemoveJob) for doc in job.docs}
        if wanted or removed:
            records = indexer.index([job for job in wanted if job.doc not in removed], removed)
            # One wake-up of the loop for the whole group.
            self._call(partial(_complete, [(job.done, records.get(job.doc)) for job in wanted]))
            indexer.load_step()  # many registrations must not hold up for ever what queries wait for

    def _idle(self) -> float | None:
        return self.indexer.idle() if self.indexer is not None else None

    def _ready_indexer(self) -> Indexer:
        if self.indexer is None:
            # Before numpy is first imported: its linear algebra would otherwise start a thread for each processor, and on a
            # busy machine their waiting for each other takes a hundred times as long as the products here.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            from mq9.registry.engine import SearchEngine  # noqa: PLC0415  numpy and tantivy cost 0.1 s and 40 MB
            from mq9.registry.indexer import Indexer  # noqa: PLC0415  see above
            from mq9.registry.providers import make_embedder  # noqa: PLC0415  see above

            make = self._make_embedder or make_embedder
            engine = SearchEngine(make(self._settings, self._clock))

            def store_vectors(doc: int, key: bytes, record: VectorRecord) -> None:
                self._call(partial(self._store_vectors, doc, key, record))

            self.indexer = Indexer(engine, self._store, store_vectors, self.loaded)
            self.engine = engine
            self._made.set()
        return self.indexer

    def _jobs_failed(self, jobs: list[Job]) -> None:
        self._answer(partial(_complete, [(job.done, None) for job in jobs if isinstance(job, IndexJob)]))

    # --- The ranking thread -----------------------------------------------------------------------------------

    def _rank(self, queries: list[Query | EmbedQuery]) -> None:
        self._made.wait(LOADING_WAIT_S)
        engine = self.engine
        if engine is None:
            self._queries_failed(queries)
            return
        for each in queries:
            if isinstance(each, EmbedQuery):
                self._call(partial(_complete, [(each.done, engine.embed_query(each.query))]))
        ranked = [each for each in queries if isinstance(each, Query)]
        if not ranked:
            return
        is_loaded = self.loaded.wait(LOADING_WAIT_S)
        answers = engine.answer([query.question for query in ranked])
        for answer in answers:
            answer.loading = not is_loaded
        if any(answer.mode != query.question.mode for answer, query in zip(answers, ranked, strict=True)):
            self.jobs.wake()  # the model in use is not the one the agents have vectors of: that is the indexer's to mend
        self._call(partial(_complete, [(query.done, answer) for query, answer in zip(ranked, answers, strict=True)]))

    def _queries_failed(self, queries: list[Query | EmbedQuery]) -> None:
        def answer() -> None:
            for query in queries:
                query.done(None)

        self._answer(answer)

    def _answer(self, call: Callable[[], None]) -> None:
        """On the loop; at once when it is the loop that closes us."""
        if self._closed:
            call()
        else:
            self._call(call)


def _complete(answers: Sequence[tuple[Callable[[Result | None], None], Result | None]]) -> None:
    for done, result in answers:
        done(result)
