"""Words for the keyword index: the same steps for what is indexed and for what is asked.

Text is widened before it is split: `airQualityForecast` also gives its parts, a name written in one piece
(`airqualityforecast`) the dictionary words it is made of, and scripts that write without spaces give characters and their
pairs. Then it is split at whatever is no letter or digit, folded to lower-case ASCII where there is one, freed of
stop words and stemmed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import tantivy

from mq9.registry.tokenizer import VOCABULARY_PATH

TERM_CHARS_MAX: Final = 64  # longer words are data
TERMS_MAX: Final = 64  # different terms of one query: each costs one posting list
COMPOUND_CHARS_MIN: Final = 6
COMPOUND_CHARS_MAX: Final = 40
PART_CHARS_MIN: Final = 3  # shorter dictionary words are found inside almost anything

# English function words: the usual list of search engines, plus the pronouns and auxiliaries requests are made of.
_STOP_TEXT: Final = """
    a about above after again all also am an and any are as at be because been before being below between both but by can
    could did do does doing down during each few for from further had has have having he her here hers him his how i if in
    into is it its just me more most my no nor not now of off on once only or other our out over own same she should so some
    such than that the their them then there these they this those through to too under until up very was we were what when
    where which while who whom why will with would you your
"""
STOP_WORDS: Final = _STOP_TEXT.split()

_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-]+")
_ANY_HUMP: Final = re.compile(r"[a-z0-9][A-Z]|[A-Z]{2}[a-z]")  # quick: most texts have none, and the next one is slow
_HUMPED_WORD: Final = re.compile(r"\w*(?:[a-z0-9][A-Z]|[A-Z]{2}[a-z])\w*")
_WORD: Final = re.compile(r"[^\W_]+")
# Scripts written without spaces between words: CJK, kana, Hangul (whose endings stick to the words), Thai, Lao, Khmer, Burmese.
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0002fa1f]+"
)


def split_humps(text: str) -> str:
    """`getAirQuality_v2` -> `get Air Quality v2`."""
    return _HUMP.sub(" ", text)


def widen(text: str) -> str:
    """`text` with the parts of its camel-case words added and its unspaced scripts cut into characters and pairs."""
    if _ANY_HUMP.search(text):
        text = _HUMPED_WORD.sub(lambda word: f"{word[0]} {split_humps(word[0])}", text)
    return text if text.isascii() else _UNSPACED.sub(lambda run: f" {_pairs(run[0])} ", text)


def widen_name(name: str) -> str:
    """A name with everything `widen` adds and the dictionary words of parts written in one piece."""
    words = (word for match in _WORD.findall(split_humps(name)) for word in compound_words(match.lower()))
    return f"{widen(name)} {' '.join(words)}"


@lru_cache(maxsize=4096)
def compound_words(word: str) -> tuple[str, ...]:
    """The fewest dictionary words that spell `word`; nothing when it is one itself or cannot be spelt."""
    if not COMPOUND_CHARS_MIN <= len(word) <= COMPOUND_CHARS_MAX or not word.isascii() or not word.isalpha():
        return ()
    known = _dictionary()
    if word in known:
        return ()
    best: list[tuple[str, ...] | None] = [(), *([None] * len(word))]
    for end in range(PART_CHARS_MIN, len(word) + 1):
        for start in range(end - PART_CHARS_MIN + 1):
            head = best[start]
            if head is None or word[start:end] not in known:
                continue
            shortest = best[end]
            if shortest is None or len(head) + 1 < len(shortest):
                best[end] = (*head, word[start:end])
    return best[-1] or ()


def make_analyzer() -> tantivy.TextAnalyzer:
    """Split, fold, drop stop words, stem. For indexing and for queries alike."""
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    filters: tuple[Any, ...] = (
        tantivy.Filter.remove_long(TERM_CHARS_MAX),
        tantivy.Filter.lowercase(),
        tantivy.Filter.ascii_fold(),
        tantivy.Filter.custom_stopword(STOP_WORDS),
        tantivy.Filter.stemmer("english"),
    )
    for each in filters:
        builder = builder.filter(each)
    return builder.build()


def make_plain_analyzer() -> tantivy.TextAnalyzer:
    """Split and fold only: for prefixes of names, which a stemmer would cut short."""
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for each in (tantivy.Filter.remove_long(TERM_CHARS_MAX), tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold()):
        builder = builder.filter(each)
    return builder.build()


def _pairs(run: str) -> str:
    """The characters of a run and its overlapping pairs: pairs tell words apart, single characters are asked for too."""
    return " ".join((*run, *(run[at : at + 2] for at in range(len(run) - 1))))


@lru_cache(maxsize=1)
def _dictionary() -> frozenset[str]:
    """Whole English words of the embedding model's vocabulary; it is there, and it is ordered by how common they are."""
    pieces = VOCABULARY_PATH.read_text(encoding="utf-8").splitlines()
    return frozenset(piece for piece in pieces if len(piece) >= PART_CHARS_MIN and piece.isascii() and piece.isalpha())
