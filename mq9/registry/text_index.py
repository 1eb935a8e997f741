"""Keyword search over agents: a tantivy index in memory.

Documents are revisions of agents under a number that is never used twice, so a hit on an old revision is recognised by
its number and dropped by the caller. Writing belongs to one thread (two on one tantivy writer lose documents); searching
may happen on any. Queries are built from analysed terms, never parsed: no user text is a syntax error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import tantivy

from mq9.registry.analysis import TERMS_MAX, make_analyzer, make_plain_analyzer, widen, widen_name
from mq9.registry.flatten import CardText, first_sentence
from mq9.registry.jobs import Frequencies

NAME_BOOST: Final = 0.7  # on top of the name being part of `text`; .5 to 1 measure alike (bench/discovery.py)
DETAILS_BOOST: Final = 0.3  # of what follows the first sentence of a skill: mostly arguments; .2 to .5 measure alike
PREFIX_BOOST: Final = 0.1  # a name that begins with a word of the query ranks below every real match of that word
PREFIX_CHARS_MIN: Final = 2
QUERY_CHARS_MAX: Final = 8192  # of a query, what can still hold new terms worth a posting list
WRITER_HEAP_BYTES: Final = 32 * 1024 * 1024  # tantivy's minimum is 15 MB a thread; half of it is merge buffers
HALF_STRENGTH_IN_RARE_TERMS: Final = 3.0

_FIELDS: Final = (("text", 1.0), ("name", NAME_BOOST), ("details", DETAILS_BOOST))

Hit = tuple[int, float]  # document number, BM25 score


def strength(bm25: float, population: int) -> float:
    """A BM25 score as a number from 0 to 1 that means the same in every query and about the same in every registry.

    bm25 / (bm25 + 3 ln(1 + N)): half, when the score is that of about three words which only this agent has. ln(1 + N) is the
    weight BM25 gives such a word among N agents, so the scale follows the registry's size.
    """
    return bm25 / (bm25 + HALF_STRENGTH_IN_RARE_TERMS * math.log1p(max(population, 1))) if bm25 > 0 else 0.0


def rarity(with_term: int, documents: int) -> float:
    """The weight BM25 gives a term that so many of the documents have (those deleted of late may count as having it)."""
    with_term = min(with_term, documents)
    return math.log1p((documents - with_term + 0.5) / (with_term + 0.5))


class TextIndex:
    """Names and texts of agent revisions."""

    def __init__(self) -> None:
        self._analyzer = make_analyzer()
        self._plain = make_plain_analyzer()
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("doc", fast=True)
        # The number again as an exact word: deleting by a number's term finds nothing, the types of term and field differ.
        builder.add_text_field("key", tokenizer_name="raw", index_option="basic")
        builder.add_text_field("name", tokenizer_name="words", index_option="freq")
        builder.add_text_field("text", tokenizer_name="words", index_option="freq")
        builder.add_text_field("details", tokenizer_name="words", index_option="freq")
        builder.add_text_field("prefix", tokenizer_name="plain", index_option="basic")
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        self._index.register_tokenizer("words", self._analyzer)
        self._index.register_tokenizer("plain", self._plain)
        self._index.config_reader(reload_policy="manual")
        self._writer = self._index.writer(heap_size=WRITER_HEAP_BYTES, num_threads=1)

    def change(self, add: Iterable[tuple[int, CardText]], remove: Iterable[int]) -> None:
        """Add and remove documents; what this did is searchable when it returns. A commit costs about 10 ms, however many."""
        for number in remove:
            self._writer.delete_documents_by_term("key", str(number))
        for number, card in add:
            name = widen_name(card.name)
            text, details = _searched_texts(card)
            fields = {
                "key": [str(number)],
                "name": [name],
                "text": [f"{name}\n{text}"],
                "details": [details],
                "prefix": [card.name],
            }
            document = tantivy.Document(**fields)
            document.add_unsigned("doc", number)
            self._writer.add_document(document)
        self._writer.commit()
        self._index.reload()

    def search(
        self, query: str, limit: int, frequencies: Frequencies | None = None, *, prefixes: bool = False
    ) -> tuple[list[Hit], int]:
        """Hits, best first, at most `limit` (at least 1), and how many documents match in all.

        `frequencies` are those of more documents than are here, by which scores of several indexes are alike. `prefixes`
        also finds agents of which a word of the name begins with a word of the query.
        """
        searcher = self._index.searcher()
        built = self._build(query, searcher, frequencies, prefixes=prefixes)
        if built is None:
            return [], 0
        found = searcher.search(built, limit=max(limit, 1), count=True)
        numbers = searcher.fast_field_values("doc", [address for _, address in found.hits])
        hits = [(int(number), score) for number, (score, _) in zip(numbers, found.hits, strict=True) if number is not None]
        return hits, int(getattr(found, "count", None) or len(hits))

    def frequencies(self, query: str) -> Frequencies:
        """How many documents there are, and how many have each term of a query, field by field."""
        searcher = self._index.searcher()
        terms = self._terms(query)
        return Frequencies(
            int(searcher.num_docs), tuple(int(searcher.doc_freq(field, term)) for field, _ in _FIELDS for term in terms)
        )

    @property
    def documents(self) -> int:
        """Documents searchable now."""
        return self._index.searcher().num_docs

    def _terms(self, query: str) -> list[str]:
        return list(dict.fromkeys(self._analyzer.analyze(widen(query[:QUERY_CHARS_MAX]))))[:TERMS_MAX]

    def _build(
        self, query: str, searcher: tantivy.Searcher, frequencies: Frequencies | None, *, prefixes: bool
    ) -> tantivy.Query | None:
        terms = self._terms(query)
        wanted = [(field, term, boost) for field, boost in _FIELDS for term in terms]
        if frequencies is not None and len(frequencies.with_term) == len(wanted):
            # The index weighs a term by its own documents; what comes on top makes it the weight among all.
            here = searcher.num_docs
            for place, (field, term, boost) in enumerate(wanted):
                weight = rarity(frequencies.with_term[place], frequencies.documents)
                wanted[place] = (field, term, boost * weight / rarity(searcher.doc_freq(field, term), here))
        parts = [self._term(*each) for each in wanted]
        if prefixes:
            words = dict.fromkeys(word for word in self._plain.analyze(query[:QUERY_CHARS_MAX]) if len(word) >= PREFIX_CHARS_MIN)
            parts += [self._prefix(word) for word in list(words)[:TERMS_MAX]]
        return tantivy.Query.boolean_query([(tantivy.Occur.Should, part) for part in parts]) if parts else None

    def _term(self, field: str, term: str, boost: float) -> tantivy.Query:
        return tantivy.Query.boost_query(tantivy.Query.term_query(self._schema, field, term, index_option="freq"), boost)

    def _prefix(self, word: str) -> tantivy.Query:
        found = tantivy.Query.fuzzy_term_query(self._schema, "prefix", word, distance=0, prefix=True)
        return tantivy.Query.const_score_query(found, PREFIX_BOOST)


def _searched_texts(card: CardText) -> tuple[str, str]:
    """What an agent says of itself first, and the details."""
    lead = [card.description, " ".join(card.tags)]
    details = []
    for skill in card.skills:
        first = first_sentence(skill.description)
        lead.append(f"{skill.name} {first}")
        details += [skill.description[len(first) :], *skill.examples]
    return widen("\n".join(lead)), widen("\n".join((*details, card.other)))
