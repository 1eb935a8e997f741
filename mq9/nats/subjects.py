"""What a legal subject is, and which subjects a pattern matches.

Subjects are tokens joined by dots. A subscription may use `*` for one whole token and `>` for one or more at the end.
Bytes in any encoding are allowed in a token, except blanks and control characters, which the parser refuses already.
"""

from __future__ import annotations

import re
from typing import Final

from mq9.limits import SUBJECT_BYTES_MAX, SUBJECT_TOKENS_MAX

_LITERAL: Final = re.compile(rb"[^\x00-\x20\x7f.]+(?:\.[^\x00-\x20\x7f.]+)*").fullmatch
_WILDCARD_TOKEN: Final = re.compile(rb"(?:^|\.)[*>](?:\.|$)").search
_OPEN_END: Final = re.compile(rb"(?:^|\.)>\.").search


def is_valid_subscription(subject: bytes) -> bool:
    """Whether `subject` may be subscribed to: no empty token, `>` only at the end, inside the limits."""
    return _is_tokens(subject) and _OPEN_END(subject) is None


def is_valid_publication(subject: bytes) -> bool:
    """Whether `subject` may be published to: as for a subscription, but every token is taken literally."""
    return _is_tokens(subject) and _WILDCARD_TOKEN(subject) is None


def _is_tokens(subject: bytes) -> bool:
    return len(subject) <= SUBJECT_BYTES_MAX and subject.count(b".") < SUBJECT_TOKENS_MAX and _LITERAL(subject) is not None


def has_wildcard(subject: bytes) -> bool:
    """Whether a subscription can match more than the one subject it spells. `foo*` and `a>b` are plain tokens."""
    return _WILDCARD_TOKEN(subject) is not None


def matches(pattern: bytes, subject: bytes) -> bool:
    """Whether a valid subscription `pattern` matches a valid published `subject`."""
    wanted, tokens = pattern.split(b"."), subject.split(b".")
    for index, token in enumerate(wanted):
        if token == b">":
            return index < len(tokens)
        if index >= len(tokens) or token not in {b"*", tokens[index]}:
            return False
    return len(wanted) == len(tokens)
