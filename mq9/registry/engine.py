"""Search: the two indexes, the model, and the formula applied to all of them.

Agents appear here as document numbers only. What a number stands for, whether it is still in force and what is filtered
is the caller's knowledge (agents.py), so nothing in here has to be undone when an agent goes away.
"""

from __future__ import annotations

import logging
from typing import Final

import numpy as np

from mq9.registry.embedder import Embedder
from mq9.registry.embedding import EmbeddingFailed, Vectors
from mq9.registry.jobs import Frequencies, QueryVectors, Question, Ranked
from mq9.registry.ranking import MEANING_SHARE, meaning, query_texts
from mq9.registry.text_index import TextIndex, strength
from mq9.registry.vector_index import EXACT_VECTORS_MAX, Docs, VectorIndex

log = logging.getLogger("mq9.registry")

KEYWORD_HITS: Final = 1000  # agents whose keyword score counts in a hybrid ranking; the rest are far below
SCORE_DIGITS: Final = 6  # scores that differ less are equal, and equal scores keep the order of registration


class SearchEngine:
    """One writer thread changes it; any thread searches it."""

    def __init__(self, embedder: Embedder | None, exact_vectors_max: int = EXACT_VECTORS_MAX) -> None:
        """Without an embedder everything is answered by keywords."""
        self.embedder = embedder
        self.text = TextIndex()
        self.vectors: VectorIndex | None = None
        self.space = ""
        self.query_space = ""  # of the last query; while it differs from `space`, agents are ranked by keywords
        self._exact_vectors_max = exact_vectors_max

    def enter_space(self, space: str, dimensions: int) -> bool:
        """Compare vectors of this space from now on; True when that is a change, and all vectors are still to come."""
        if space == self.space:
            return False
        self.vectors = VectorIndex(dimensions, self._exact_vectors_max)
        self.space = space
        return True

    def answer(self, questions: list[Question]) -> list[Ranked]:
        """Rank several questions; their texts are embedded together."""
        vectors = self._embed([question for question in questions if question.mode != "keyword"])
        return [self._rank(question, vectors.get(id(question))) for question in questions]

    def keywords(self, question: Question) -> Ranked:
        """Rank by keywords alone."""
        wanted = question.depth if question.only is None else max(question.depth, 10 * KEYWORD_HITS)
        hits, matches = self.text.search(question.query, wanted, question.frequencies, prefixes=True)
        population = self._population(question)
        only = set(question.only) if question.only is not None else None
        chosen = [(round(strength(bm25, population), SCORE_DIGITS), -doc) for doc, bm25 in hits if only is None or doc in only]
        chosen.sort(reverse=True)
        return Ranked(
            docs=[-doc for _, doc in chosen],
            scores=[value for value, _ in chosen],
            complete=matches <= wanted,
            mode="keyword",
            matches=len(chosen) if only is not None or matches <= wanted else matches,
        )

    def frequencies(self, query: str) -> Frequencies:
        """What BM25 has to know of the agents here, to weigh the words of a query by the agents of several brokers."""
        return self.text.frequencies(query)

    def embed_query(self, query: str) -> QueryVectors | None:
        """A query and its clauses embedded for others to rank by; None where that cannot be done now."""
        if self.embedder is None:
            return None
        try:
            space, rows = self.embedder.embed(query_texts(query), query=True)
        except EmbeddingFailed as failure:
            log.debug("a query goes out without its vectors: %s", failure)
            return None
        self.query_space = space
        return QueryVectors(space, rows.astype("<f2").tobytes())

    def _population(self, question: Question) -> int:
        return question.frequencies.documents if question.frequencies is not None else self.text.documents

    def _embed(self, questions: list[Question]) -> dict[int, Vectors]:
        """Vectors of the queries and their clauses, by question; none where the model or its vectors are not there."""
        found = {id(each): self._given(each.vectors) for each in questions if each.vectors and each.vectors.space == self.space}
        questions = [question for question in questions if id(question) not in found]
        if not questions or self.embedder is None:
            return found
        texts = [query_texts(question.query) for question in questions]
        try:
            space, rows = self.embedder.embed([text for group in texts for text in group], query=True)
        except EmbeddingFailed as failure:
            log.debug("ranking by keywords: %s", failure)
            return found
        self.query_space = space
        if space != self.space:
            return found  # the agents are being embedded anew; keywords until the first of them are
        start = 0
        for question, group in zip(questions, texts, strict=True):
            found[id(question)] = rows[start : start + len(group)]
            start += len(group)
        return found

    def _given(self, vectors: QueryVectors) -> Vectors:
        """Vectors that came with the question. The space says how long they are."""
        dimensions = int(vectors.space.rpartition("/")[2])
        return np.frombuffer(vectors.data, "<f2").astype(np.float32).reshape(-1, dimensions)

    def _rank(self, question: Question, vectors: Vectors | None) -> Ranked:
        index = self.vectors
        if question.mode == "keyword" or vectors is None or index is None or index.dimensions != vectors.shape[1]:
            return self.keywords(question)
        by_keyword = {}
        if question.mode == "hybrid":
            hits, _ = self.text.search(question.query, KEYWORD_HITS, question.frequencies)
            population = self._population(question)
            by_keyword = {doc: strength(bm25, population) for doc, bm25 in hits}
        only = np.asarray(question.only, np.int64) if question.only is not None else None
        found = index.scores(vectors, tuple(by_keyword), only, question.depth)
        docs, scores = found.docs, meaning(found.best)
        if question.mode == "hybrid":
            scores = MEANING_SHARE * scores
            allowed = set(question.only) if question.only is not None else None
            extra = [doc for doc in by_keyword if doc not in found.at and (allowed is None or doc in allowed)]
            places = np.asarray(list(found.at.values()), np.int64)
            scores[places] += (1 - MEANING_SHARE) * np.asarray([by_keyword[doc] for doc in found.at], np.float32)
            docs = np.append(docs, np.asarray(extra, np.int64))
            scores = np.append(scores, (1 - MEANING_SHARE) * np.asarray([by_keyword[doc] for doc in extra], np.float32))
        return _top(docs, scores, question, complete=found.complete)


def _top(docs: Docs, scores: Vectors, question: Question, *, complete: bool) -> Ranked:
    """The best `depth` documents, ties in order of registration. Numbers below 0 are nobody's."""
    living = docs >= 0
    docs = docs[living]
    values = np.round(np.clip(scores[living].astype(np.float64), 0, 1), SCORE_DIGITS)
    total = len(docs)
    if total > question.depth:
        # Everything that ties with the last place comes along, so that ties are broken by number and not by chance.
        near = values >= np.partition(values, total - question.depth)[total - question.depth]
        docs, values = docs[near], values[near]
    order = np.lexsort((docs, -values))[: question.depth]
    return Ranked(
        docs=docs[order].tolist(),
        scores=values[order].tolist(),
        complete=complete and total <= question.depth,
        mode=question.mode,
        matches=total,
    )
