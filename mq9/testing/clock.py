"""Time and a loop that move only when a test says so."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable


class ManualClock:
    """A Clock whose both readings advance together, by `advance`; `jump_wall` moves the calendar alone."""

    def __init__(self, wall_ms: int = 1_800_000_000_000) -> None:
        self._wall_ms = float(wall_ms)
        self._monotonic_s = 1000.0

    def wall_ms(self) -> int:
        return int(self._wall_ms)

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let that much time pass."""
        self._monotonic_s += seconds
        self._wall_ms += seconds * 1000

    def jump_wall(self, seconds: float) -> None:
        """Somebody set the calendar; no time has passed."""
        self._wall_ms += seconds * 1000


class _Later:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class ManualLoop:
    """The LoopHooks of a broker, turned by hand. Calls of other threads are taken in at the next turn."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._soon: deque[Callable[[], None]] = deque()
        self._later: list[tuple[float, int, _Later]] = []
        self._sequence = itertools.count()

    def call_soon(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> _Later:
        entry = _Later(call)
        heapq.heappush(self._later, (self.clock.monotonic_s() + seconds, next(self._sequence), entry))
        return entry

    def run(self) -> None:
        """Turn until nothing is left to do at this moment."""
        while True:
            while self._soon:
                self._soon.popleft()()
            if not self._later or self._later[0][0] > self.clock.monotonic_s():
                return
            call = heapq.heappop(self._later)[2].call
            if call is not None:
                call()

    def turn(self) -> bool:
        """One turn as a real loop makes it: what is ready and due now runs, and what that brings is for the next. Whether
        there is anything for the next."""
        now_s = self.clock.monotonic_s()
        while self._later and self._later[0][0] <= now_s:
            call = heapq.heappop(self._later)[2].call
            if call is not None:
                self._soon.append(call)
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        return bool(self._soon) or bool(self._later and self._later[0][0] <= now_s)

    def advance(self, seconds: float) -> None:
        """Let time pass, stopping at everything that falls due on the way."""
        end_s = self.clock.monotonic_s() + seconds
        self.run()
        while self._later and self._later[0][0] <= end_s:
            self.clock.advance(max(0.0, self._later[0][0] - self.clock.monotonic_s()))
            self.run()
        self.clock.advance(max(0.0, end_s - self.clock.monotonic_s()))
        self.run()
