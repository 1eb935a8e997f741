"""Time, passed in. Everything that needs to know the time takes a Clock, so tests can own it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Two readings, because they answer different questions."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970, UTC. Only for what users see and what must survive a restart."""

    def monotonic_s(self) -> float:
        """Seconds that never jump. For every wait, lease and deadline."""


class SystemClock:
    """The machine's clock, made steady: wall time is read once and then advanced by the monotonic clock.

    A jump of the machine's wall clock (NTP step, an operator's mistake) would otherwise expire every TTL at once.
    `resync` follows slow drift: it moves by at most `step_ms` a call, so a jump of an hour is followed over hours.
    """

    __slots__ = ("_calendar_s", "_monotonic_s", "_offset_s")

    def __init__(self, calendar_s: Callable[[], float] = time.time, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        """The machine's two clocks, in seconds: one that people set, one that never jumps."""
        self._calendar_s = calendar_s
        self._monotonic_s = monotonic_s
        self._offset_s = calendar_s() - monotonic_s()

    def wall_ms(self) -> int:
        return int((self._monotonic_s() + self._offset_s) * 1000)

    def monotonic_s(self) -> float:
        return self._monotonic_s()

    def resync(self, step_ms: int = 50) -> None:
        """Follow the machine's wall clock by at most `step_ms`; call it about once a second."""
        drift_s = self._calendar_s() - self._monotonic_s() - self._offset_s
        step_s = step_ms / 1000
        self._offset_s += max(-step_s, min(step_s, drift_s))
