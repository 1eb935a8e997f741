"""What a fault cost, counted: the same columns for every test, so that their reports can be read side by side."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from typing import Self


@dataclass(slots=True)
class Tally:
    """Messages. A promise is broken when anything in `BROKEN` is not zero."""

    attempted: int = 0  # sends that were written to a socket
    acknowledged: int = 0  # of those, answered with an id
    found: int = 0  # messages that were there at the end
    lost: int = 0  # acknowledged and not found
    duplicated: int = 0  # one mq9-msg-id, several messages; or several ids said for one message
    unexpected: int = 0  # found and never sent, in the wrong place, or not what was sent
    unknown: int = 0  # not answered: both outcomes are right
    again: int = 0  # given again to a group after the answer to its acknowledgement
    missed: int = 0  # stored, and neither confirmed by a group nor offered to it
    details: list[str] = field(default_factory=list)  # the first few of what is wrong, in words

    BROKEN = ("lost", "duplicated", "unexpected", "again", "missed")

    def wrong(self, column: str, text: str) -> None:
        """Count one breach and keep what it was, if it is among the first."""
        setattr(self, column, getattr(self, column) + 1)
        if len(self.details) < 20:
            self.details.append(f"{column}: {text}")

    def __iadd__(self, other: Tally) -> Self:
        for each in fields(self):
            if each.name != "details":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        self.details += other.details[: max(0, 20 - len(self.details))]
        return self

    @property
    def broken(self) -> bool:
        return any(getattr(self, column) for column in self.BROKEN)

    def __str__(self) -> str:
        numbers = ", ".join(f"{each.name} {getattr(self, each.name):,}" for each in fields(self) if each.name != "details")
        return "\n    ".join([numbers, *self.details])

    def check(self) -> None:
        """Fail with the whole tally when a promise was broken."""
        assert not self.broken, str(self)


def report(what: str, *figures: object) -> None:
    """Say what a test measured; `pytest -s` and failing tests show it."""
    sys.stdout.write(f"\n{what}: {', '.join(map(str, figures))}\n")
