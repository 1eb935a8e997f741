"""Keyword search: what finds what, and that no user text is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9.registry.analysis import TERMS_MAX, compound_words, split_humps, widen, widen_name
from mq9.registry.flatten import CardText, SkillText
from mq9.registry.text_index import TextIndex, strength

CARDS = {
    1: CardText("airqualityforecast", "Get the forecast of air pollution for any zip code"),
    2: CardText(
        "GitHubIssues",
        "Triage bugs",
        tags=("dev-tools",),
        skills=(SkillText("close_issue", "Closes an issue. Argument: reason"),),
    ),
    3: CardText("übersetzer", "Übersetzt Verträge ins Französische", other="rechtsanwalt"),
    4: CardText("bazi", "八字算命和天气预报服务"),
    5: CardText("translator", "Translates contracts between languages"),
}


@pytest.fixture(scope="module")
def index() -> TextIndex:
    built = TextIndex()
    built.change(CARDS.items(), ())
    return built


def found(index: TextIndex, query: str, *, prefixes: bool = True) -> list[int]:
    return [doc for doc, _ in index.search(query, 10, prefixes=prefixes)[0]]


@pytest.mark.parametrize(
    ("query", "docs"),
    [
        ("polluted forecasting", [1]),  # stemmed
        ("air quality", [1]),  # dictionary words of a name in one piece
        ("github", [2]),  # a camel-case name whole
        ("git hub", [2]),  # and in parts
        ("tools", [2]),  # tags
        ("closing", [2]),  # skills
        ("reason", [2]),  # what follows a skill's first sentence
        ("rechtsanwalt", [3]),  # any other string
        ("ubersetzt", [3]),  # accents folded
        ("天气", [4]),  # scripts without spaces
        ("算", [4]),
        ("transl", [5]),  # a name's beginning
        ("the and of with", []),  # stop words alone
    ],
)
def test_what_finds_what(index: TextIndex, query: str, docs: list[int]) -> None:
    assert found(index, query) == docs


def test_a_beginning_of_a_name_ranks_below_the_word_itself(index: TextIndex) -> None:
    assert found(index, "translator triage") == [5, 2] or found(index, "translator triage") == [2, 5]
    scores = dict(index.search("transl", 10, prefixes=True)[0])
    assert scores[5] < dict(index.search("translator", 10, prefixes=True)[0])[5]
    assert found(index, "transl", prefixes=False) == []


@pytest.mark.parametrize(
    "query",
    [
        "it's",
        "c++:",
        'an "unbalanced quote',
        "AND",
        "OR NOT (",
        "name:x",
        "[1 TO 2]",
        "a^b~2 *?",
        "\\",
        "\x00",
        "",
        "   ",
        "+" * 5000,
    ],
)
def test_no_query_is_a_syntax_error(index: TextIndex, query: str) -> None:
    index.search(query, 10, prefixes=True)


@pytest.mark.fuzz
@given(st.text(), st.integers(0, 5))
def test_any_text_can_be_asked(index: TextIndex, query: str, limit: int) -> None:
    hits, total = index.search(query, limit, prefixes=True)
    assert len(hits) <= max(1, limit)
    assert total >= len(hits)


def test_a_query_of_a_megabyte_costs_what_a_short_one_does(index: TextIndex) -> None:
    words = " ".join(f"word{n}" for n in range(150_000))
    assert found(index, words) == []
    assert TERMS_MAX < 1000


def test_documents_are_replaced_and_removed() -> None:
    index = TextIndex()
    index.change([(1, CardText("a", "apples")), (2, CardText("b", "bananas"))], ())
    index.change([(3, CardText("a", "cherries"))], [1])
    assert found(index, "apples") == []
    assert found(index, "cherries bananas") == [2, 3] or found(index, "cherries bananas") == [3, 2]
    index.change((), [2, 3, 99])
    assert index.documents == 0


def test_strength_grows_from_nothing_to_one() -> None:
    assert strength(0, 100) == 0
    assert strength(-1, 100) == 0
    values = [strength(bm25, 100) for bm25 in (1, 5, 20, 1000)]
    assert values == sorted(values)
    assert 0 < values[0] < values[-1] < 1
    assert strength(10, 100_000) < strength(10, 10)


def test_words_of_names() -> None:
    assert split_humps("getAirQuality_v2-beta") == "get Air Quality v2 beta"
    assert widen("a HTTPServer") == "a HTTPServer HTTP Server"
    assert widen("plain words") == "plain words"
    assert compound_words("airqualityforecast") == ("air", "quality", "forecast")
    assert compound_words("weather") == ()
    assert compound_words("xqzzyk") == ()
    assert compound_words("a" * 5000) == ()
    assert "stellar explorer" in widen_name("stellarexplorer")
