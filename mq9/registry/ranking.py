"""How agents are ranked: the texts that stand for an agent and for a query, and the formula that joins two scores.

    meaning(q, a) = 0.7 * best(q, a) + 0.3 * max over clauses c of q of best(c, a)      (best(q, a) when q has one clause)
    best(t, a)    = max over the vectors v of a of cosine(t, v)
    score(q, a)   = 0.7 * meaning(q, a) + 0.3 * strength(BM25(q, a))                    (strength: text_index.py)

Every part depends on the query and the agent alone, not on what else was found, so the lists of several brokers can be
merged by score. The weights are round numbers from the middle of a flat region; docs/decisions has the measurements.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from mq9.registry.analysis import split_humps
from mq9.registry.embedding import Vectors
from mq9.registry.flatten import CardText, first_sentence

MEANING_SHARE: Final = 0.7  # .65 to .8 measure alike
CLAUSE_SHARE: Final = 0.3  # .2 to .5 measure alike; what it buys is queries that ask for two things
CLAUSES_MAX: Final = 12  # of one query: bounds the time its embedding takes
CLAUSE_WORDS_MIN: Final = 3
VECTORS_MAX: Final = 32  # of one agent: itself, then its skills, then their examples
QUERY_CHARS_MAX: Final = 8192  # of a query, what is read for its meaning; the model reads 128 tokens of each clause

_CLAUSE_END: Final = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])|,\s+|\n+|\s+(?:and|then|also|but)\s+")


def meaning_texts(card: CardText) -> list[str]:
    """The texts an agent is embedded as, at most VECTORS_MAX, each once.

    A skill goes with its agent's name, which says what a bare `search` or `load` is about, and with the first sentence of
    its description: the rest of it is mostly arguments. Examples are requests in a user's words, so they stand alone.
    """
    name = split_humps(card.name)
    about = " ".join(part for part in (card.description, ", ".join(card.tags)) if part) or card.other
    texts = [f"{name}: {about}" if about else name]
    for skill in card.skills:
        parts = (name, split_humps(skill.name), first_sentence(skill.description))
        texts.append(": ".join(filter(None, parts)))
    for skill in card.skills:
        texts += skill.examples
    return list(dict.fromkeys(texts))[:VECTORS_MAX]


def query_texts(query: str) -> list[str]:
    """The query itself, then its clauses when it has several: a request for two things is far from agents for either."""
    whole = query[:QUERY_CHARS_MAX].strip()
    clauses = [clause.strip() for clause in _CLAUSE_END.split(whole)]
    clauses = [clause for clause in dict.fromkeys(clauses) if len(clause.split()) >= CLAUSE_WORDS_MIN]
    return [whole, *clauses[:CLAUSES_MAX]] if len(clauses) > 1 else [whole]


def meaning(best: Vectors) -> Vectors:
    """From the similarities of each agent (rows) to the query and its clauses (columns): one number an agent."""
    whole: Vectors = best[:, 0]
    if best.shape[1] == 1:
        return whole
    return np.asarray((1 - CLAUSE_SHARE) * whole + CLAUSE_SHARE * best[:, 1:].max(axis=1), np.float32)


def score(meaning_score: float, keyword_strength: float) -> float:
    """The score of one agent for one query, from 0 to 1."""
    return MEANING_SHARE * meaning_score + (1 - MEANING_SHARE) * keyword_strength
