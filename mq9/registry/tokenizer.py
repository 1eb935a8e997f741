"""WordPiece, as the MiniLM family expects it: text in, lists of token ids out.

The three steps and their order are those of the BERT reference: clean, lower-case and strip accents; split on
white space, punctuation and CJK characters; greedy longest match against the vocabulary. `data/minilm_vocab.txt` is the
published bert-base-uncased vocabulary (Apache-2.0, see the notice beside it); the id of a piece is its line number.

The number of characters looked at is bounded before anything else happens, so a text of any size costs the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

VOCABULARY_PATH: Final = Path(__file__).parent / "data" / "minilm_vocab.txt"
WORD_CHARS_MAX: Final = 100  # as the reference: a longer word is one unknown token
CHARS_PER_TOKEN_MAX: Final = 24  # text beyond tokens_max * this cannot matter for ordinary words; bounds hostile ones

_ACCENT = "Mn"
_WORDS_CACHED: Final = 20_000  # splitting a word costs about 10 us; texts repeat their words


class WordPiece:
    """A tokenizer over one vocabulary. Stateless apart from a bounded cache of words already split."""

    def __init__(self, pieces: list[str]) -> None:
        self._ids = {piece: index for index, piece in enumerate(pieces)}
        self._unknown = self._ids["[UNK]"]
        self._start = self._ids["[CLS]"]
        self._end = self._ids["[SEP]"]
        self._word_ids = lru_cache(maxsize=_WORDS_CACHED)(self._split_word)

    @classmethod
    def load(cls, path: Path = VOCABULARY_PATH) -> WordPiece:
        """Read a vocabulary file of one piece a line."""
        return cls(path.read_text(encoding="utf-8").splitlines())

    def encode(self, text: str, tokens_max: int) -> list[int]:
        """Ids of `text` between the start and end marks, cut to `tokens_max` ids in all (at least 2)."""
        room = tokens_max - 2
        ids: list[int] = [self._start]
        for word in split_words(text[: tokens_max * CHARS_PER_TOKEN_MAX]):
            ids.extend(self._word_ids(word))
            if len(ids) > room:
                break
        del ids[room + 1 :]
        ids.append(self._end)
        return ids

    def _split_word(self, word: str) -> tuple[int, ...]:
        """Greedy longest match first; a word with any part outside the vocabulary is one unknown token."""
        if len(word) > WORD_CHARS_MAX:
            return (self._unknown,)
        ids = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                found = self._ids.get(prefix + word[start:end])
                if found is not None:
                    break
            else:
                return (self._unknown,)
            ids.append(found)
            start = end
        return tuple(ids)


def split_words(text: str) -> Iterator[str]:
    """Lower-cased words without accents; every punctuation mark and every CJK character is a word of its own."""
    if text.isascii():
        yield from _split_ascii(text.lower())
        return
    spaced = "".join(_clean(char) for char in text)
    # Accents are stripped before lower-casing, as the reference does: for a few capitals the order matters.
    stripped = "".join(char for char in unicodedata.normalize("NFD", spaced) if unicodedata.category(char) != _ACCENT)
    for word in stripped.lower().split():
        yield from _split_punctuation(word)


def _split_ascii(text: str) -> Iterator[str]:
    for word in text.translate(_ASCII_CLEAN).split():
        if word.isalnum():
            yield word
        else:
            yield from _split_punctuation(word)


def _split_punctuation(word: str) -> Iterator[str]:
    start = 0
    for index, char in enumerate(word):
        if _is_punctuation(char):
            if start < index:
                yield word[start:index]
            yield char
            start = index + 1
    if start < len(word):
        yield word[start:]


def _clean(char: str) -> str:
    """What one character becomes before splitting: itself, a space, itself between spaces, or nothing."""
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
        return " "
    # Unassigned code points stay: which ones are assigned depends on the Unicode version of the interpreter.
    if char in "\0\ufffd" or unicodedata.category(char) in {"Cc", "Cf", "Co"}:
        return ""
    if _is_cjk(ord(char)):
        return f" {char} "
    return char


@lru_cache(maxsize=4096)
def _is_punctuation(char: str) -> bool:
    """ASCII symbols count as punctuation too, although Unicode calls some of them symbols."""
    code = ord(char)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(char).startswith("P")


def _is_cjk(code: int) -> bool:
    """Ideographs only: Hangul, Hiragana and Katakana words have spaces or are in the vocabulary as they are."""
    return any(low <= code <= high for low, high in _CJK_RANGES)


_CJK_RANGES: Final = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)

# ASCII control characters vanish, except the white space among them.
_ASCII_CLEAN: Final = {code: (" " if chr(code) in "\t\n\r" else None) for code in (*range(32), 127)}
