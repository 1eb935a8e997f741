"""Deadlines and repeats, without a server."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest

from mq9.client.retry import PAUSE_MAX_S, Attempts, Closed, Unanswered, pauses
from mq9.errors import CapacityError, Mq9Error, NotFound, RequestTimeout, UnavailableError, error


def _unanswered() -> Mq9Error:
    return Unanswered("UNAVAILABLE", "unavailable: broke", retryable=True, status=503)


class _Script:
    """An attempt that fails with each of these in turn and then succeeds."""

    def __init__(self, *failures: Mq9Error) -> None:
        self._failures = list(failures)
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        if self._failures:
            raise self._failures.pop(0)
        return "done"


def test_pauses_double_up_to_a_bound_and_are_spread() -> None:
    assert list(islice(pauses(lambda _, high: high), 8)) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, PAUSE_MAX_S, PAUSE_MAX_S]
    assert list(islice(pauses(lambda low, _: low), 2)) == [0.005, 0.01]
    assert len({next(pauses()) for _ in range(20)}) > 1


@pytest.mark.anyio
async def test_what_may_get_better_is_repeated() -> None:
    script = _Script(error("UNAVAILABLE", reason="draining"), _unanswered())
    attempts = Attempts(30)
    assert await attempts.run(script) == "done"
    assert (script.made, attempts.unanswered) == (3, 1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "failure",
    [
        error("MAILBOX_NOT_FOUND", name="x"),
        error("MAILBOX_FULL", name="x", reason="messages"),
        error("STORAGE_FULL"),
        Closed("UNAVAILABLE", "unavailable: closed"),
    ],
)
async def test_what_does_not_get_better_by_itself_is_raised_at_once(failure: Mq9Error) -> None:
    script = _Script(failure)
    with pytest.raises((NotFound, CapacityError, Closed)) as caught:
        await Attempts(30).run(script)
    assert caught.value is failure
    assert script.made == 1


@pytest.mark.anyio
async def test_at_the_deadline_the_reason_is_told_if_there_is_one() -> None:
    async def refuse() -> None:
        raise error("UNAVAILABLE", reason="draining")

    with pytest.raises(UnavailableError, match="draining") as caught:
        await Attempts(0.02).run(refuse)
    assert not isinstance(caught.value, RequestTimeout)


@pytest.mark.anyio
async def test_at_the_deadline_silence_is_a_timeout() -> None:
    async def silence() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RequestTimeout, match=r"no answer within 0\.02 s"):
        await Attempts(0.02).run(silence)

    async def breaks() -> None:
        raise _unanswered()

    with pytest.raises(RequestTimeout):
        await Attempts(0.02).run(breaks)


@pytest.mark.anyio
async def test_at_the_deadline_an_attempt_that_could_not_be_sent_says_why() -> None:
    attempts = Attempts(0.02)

    async def blocked() -> None:
        attempts.blocked = "not connected to nats://a"
        await asyncio.Event().wait()

    with pytest.raises(UnavailableError, match="not connected to nats://a") as caught:
        await attempts.run(blocked)
    assert not isinstance(caught.value, RequestTimeout)


@pytest.mark.anyio
async def test_a_cancelled_call_is_cancelled_and_nothing_else() -> None:
    begun = asyncio.Event()

    async def silence() -> None:
        begun.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(Attempts(30).run(silence))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
