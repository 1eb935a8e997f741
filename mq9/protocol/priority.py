"""Priorities and the tiers they are stored in. A lower tier is read first."""

from __future__ import annotations

from typing import Final

CRITICAL: Final = 0
URGENT: Final = 1
NORMAL: Final = 2
LOW: Final = 3

# What a FETCH or QUERY reply calls a tier.
NAMES: Final = ("critical", "urgent", "normal", "low")

# `high` and `low` are the words of the older dialect; there they are the outer two of three.
_TIERS: Final = {b"critical": CRITICAL, b"high": CRITICAL, b"urgent": URGENT, b"normal": NORMAL, b"low": LOW}


def tier_of(word: bytes) -> int:
    """The tier of a priority word, whatever its case; an unknown word is normal."""
    return _TIERS.get(word.lower(), NORMAL)
