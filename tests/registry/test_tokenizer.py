"""WordPiece against ids the reference tokenizer gave (tokenizers 0.22, tokenizer.json of all-MiniLM-L6-v2)."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9.registry.tokenizer import VOCABULARY_PATH, WordPiece

TOKENIZER = WordPiece.load()
REFERENCE: list[tuple[str, list[int]]] = [
    ("", [101, 102]),
    ("Hello, World!", [101, 7592, 1010, 2088, 999, 102]),
    ("it's 3.14 c++: don't", [101, 2009, 1005, 1055, 1017, 1012, 2403, 1039, 1009, 1009, 1024, 2123, 1005, 1056, 102]),
    ("Ünïcödé naïve façade", [101, 27260, 15743, 8508, 102]),
    ("airqualityforeast getWeather_v2", [101, 2250, 26426, 3012, 29278, 5243, 3367, 2131, 28949, 1035, 1058, 2475, 102]),
    ("机器翻译 service", [101, 100, 100, 100, 100, 2326, 102]),
    ("データ分析", [101, 1713, 30265, 30235, 1775, 100, 102]),
    ("한국어 번역", [101, 1469, 30006, 30021, 29991, 30014, 30020, 29999, 30008, 1460, 30008, 30021, 29999, 30010, 30020, 102]),
    ("تحليل البيانات", [101, 1273, 29820, 23673, 14498, 23673, 1270, 23673, 29816, 14498, 18511, 25573, 29817, 102]),
    ("tab\tnew\nline\r\x00\x07 end", [101, 21628, 2047, 2240, 2203, 102]),
    ("emoji 🚀 rocket", [101, 7861, 29147, 2072, 100, 7596, 102]),
    ("a" * 101, [101, 100, 102]),
    ("étude \u200b zero", [101, 3802, 12672, 5717, 102]),
    ("ALL CAPS İstanbul", [101, 2035, 9700, 9960, 102]),
    (
        "$5 ~x^y` |pipe| «quoted» — dash",
        [101, 1002, 1019, 1066, 1060, 1034, 1061, 1036, 1064, 8667, 1064, 1077, 9339, 1090, 1517, 11454, 102],
    ),
]


@pytest.mark.parametrize(("text", "ids"), REFERENCE)
def test_ids_are_those_of_the_reference(text: str, ids: list[int]) -> None:
    assert TOKENIZER.encode(text, 512) == ids


def test_marks_of_the_model_in_a_text_are_plain_text() -> None:
    """Unlike the reference: what a user writes must not act as a control token."""
    assert TOKENIZER.encode("[SEP]", 16) == [101, 1031, 19802, 1033, 102]


def test_the_vocabulary_is_the_published_one() -> None:
    found = hashlib.sha256(VOCABULARY_PATH.read_bytes()).hexdigest()
    assert found == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


def test_texts_are_cut_to_the_given_number_of_tokens() -> None:
    ids = TOKENIZER.encode("word " * 1000, 16)
    assert len(ids) == 16
    assert ids[0] == 101
    assert ids[-1] == 102
    assert TOKENIZER.encode("word", 2) == [101, 102]


def test_a_megabyte_without_a_space_is_one_unknown_token() -> None:
    assert TOKENIZER.encode("x" * (1 << 20), 128) == [101, 100, 102]


@pytest.mark.fuzz
@given(st.text(), st.integers(2, 40))
def test_any_text_encodes(text: str, tokens_max: int) -> None:
    ids = TOKENIZER.encode(text, tokens_max)
    assert 2 <= len(ids) <= tokens_max
    assert all(0 <= each < 30_522 for each in ids)
