"""Deadlines, and which failures of a call are worth another attempt inside it.

A call has one deadline. Inside it, an attempt that failed because the broker could not answer (`UnavailableError`: not
connected, connection lost, draining, no owner) is made again after a pause; pauses double, with full jitter, so that a
thousand clients of a restarted broker do not come back at the same instants. Everything else goes to the caller at once:
a wrong request does not get better, and whether to wait for a full mailbox is for the caller to say.

Repeating is safe: SEND carries an `mq9-msg-id`, the other commands change nothing when repeated. What cannot be told apart
after an unanswered attempt is listed with `Attempts.unanswered`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from mq9.errors import Mq9Error, UnavailableError, error

PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0

Result = TypeVar("Result")


class Unanswered(UnavailableError):
    """The connection broke while a request waited: it may or may not have happened."""


class Closed(UnavailableError):
    """The client is closed, or has given up reconnecting: no further attempt can help."""


def pauses(uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Seconds to wait before each further attempt: uniform between a tenth and the whole of a doubling step."""
    step = PAUSE_FIRST_S
    while True:
        yield uniform(step / 10, step)
        step = min(step * 2, PAUSE_MAX_S)


class Attempts:
    """The attempts of one call. `deadline` is a time of the event loop's clock.

    `unanswered` counts attempts that were sent and not answered. When it is not zero, "does not exist" from a DELETE means
    that the earlier attempt did it, and "already exists" from a CREATE may mean the same.
    `blocked` says why the running attempt could not be sent yet; the connection sets and clears it.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.deadline = asyncio.get_running_loop().time() + timeout_s
        self.unanswered = 0
        self.blocked = ""
        self._last: UnavailableError | None = None

    @property
    def remaining_s(self) -> float:
        return self.deadline - asyncio.get_running_loop().time()

    async def run(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """The result of the first attempt that succeeds.

        Raises what `attempt` raises, unless it is worth repeating. At the deadline: TIMEOUT when an answer was awaited,
        else the error that says why there was nothing to wait for.
        """
        try:
            async with asyncio.timeout_at(self.deadline):
                for pause_s in pauses():
                    try:
                        self._last = None
                        return await attempt()
                    except Closed:
                        raise
                    except UnavailableError as failure:
                        self._last = failure
                        self.unanswered += isinstance(failure, Unanswered)
                    await asyncio.sleep(pause_s)
        except TimeoutError as failure:
            raise self._too_late() from failure
        raise AssertionError("pauses never end")

    def _too_late(self) -> Mq9Error:
        if self.blocked:
            return error("UNAVAILABLE", reason=self.blocked)
        if self._last is None or isinstance(self._last, Unanswered):
            return error("TIMEOUT", seconds=self.timeout_s)
        return self._last
