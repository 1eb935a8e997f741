"""Which subjects are legal, and what a pattern matches."""

from __future__ import annotations

import pytest

from mq9.limits import SUBJECT_BYTES_MAX, SUBJECT_TOKENS_MAX
from mq9.nats import subjects

DEEPEST = b".".join([b"a"] * SUBJECT_TOKENS_MAX)
LONGEST = b"a" * SUBJECT_BYTES_MAX


@pytest.mark.parametrize(
    "subject", [b"a", b"a.b", b"$mq9.AI.x", "é.b".encode(), b"foo*", b"*foo.b", b"a.>b", b"a>.b", DEEPEST, LONGEST]
)
def test_legal_everywhere(subject: bytes) -> None:
    assert subjects.is_valid_publication(subject)
    assert subjects.is_valid_subscription(subject)
    assert not subjects.has_wildcard(subject)


@pytest.mark.parametrize("subject", [b"*", b">", b"a.*", b"a.*.c", b"*.*", b"a.>"])
def test_legal_to_subscribe_only(subject: bytes) -> None:
    assert subjects.is_valid_subscription(subject)
    assert not subjects.is_valid_publication(subject)
    assert subjects.has_wildcard(subject)


@pytest.mark.parametrize(
    "subject",
    [b"", b".", b".a", b"a.", b"a..b", b"a b", b"a\tb", b"a\r\nb", b"a\x00", b"a\x7f", DEEPEST + b".a", LONGEST + b"a"],
)
def test_legal_nowhere(subject: bytes) -> None:
    assert not subjects.is_valid_publication(subject)
    assert not subjects.is_valid_subscription(subject)


@pytest.mark.parametrize("subject", [b">.a", b"a.>.b", b">.>"])
def test_the_open_end_stands_at_the_end(subject: bytes) -> None:
    assert not subjects.is_valid_subscription(subject)
    assert not subjects.is_valid_publication(subject)


@pytest.mark.parametrize(
    ("pattern", "subject", "fits"),
    [
        (b"a.b", b"a.b", True),
        (b"a.b", b"a.c", False),
        (b"a.b", b"a", False),
        (b"a", b"a.b", False),
        (b"*", b"a", True),
        (b"*", b"a.b", False),
        (b"a.*", b"a.b", True),
        (b"a.*", b"a", False),
        (b"a.*", b"a.b.c", False),
        (b"a.*.c", b"a.b.c", True),
        (b"a.*.c", b"a.b.d", False),
        (b">", b"a", True),
        (b">", b"a.b.c", True),
        (b"a.>", b"a", False),
        (b"a.>", b"a.b", True),
        (b"a.>", b"a.b.c", True),
        (b"a.>", b"b.b", False),
        (b"*.>", b"a.b", True),
        (b"foo*", b"foobar", False),
        (b"foo*", b"foo*", True),
    ],
)
def test_matching(pattern: bytes, subject: bytes, fits: bool) -> None:
    assert subjects.matches(pattern, subject) is fits
