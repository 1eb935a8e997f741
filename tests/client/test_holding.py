"""What a consumer holds: rules as examples, and all of them together against arbitrary histories."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from mq9.client.holding import UNCONFIRMED_MAX, Holding
from mq9.client.message import Message, Priority


def _messages(msg_ids: Iterable[int]) -> list[Message]:
    return [Message(msg_id, b"", Priority.NORMAL, 0) for msg_id in msg_ids]


def _ids(messages: Iterable[Message]) -> list[int]:
    return [message.msg_id for message in messages]


def _next(holding: Holding, now_s: float = 0.0) -> int | None:
    message = holding.next(now_s)
    return None if message is None else message.msg_id


def test_fetches_come_in_batches_and_never_above_the_capacity() -> None:
    holding = Holding(4, manual=False)
    assert holding.room(0) == 4
    holding.take(_messages([1, 2, 3, 4]), 30)
    assert holding.room(0) == 0
    assert _next(holding) == 1
    holding.finish(1)
    assert holding.room(0) == 0  # one place: not worth a request yet
    assert _next(holding) == 2
    holding.finish(2)
    assert holding.room(0) == 2  # what is done keeps nothing from anybody
    assert Holding(1, manual=False).room(0) == 1


def test_work_stops_when_confirmations_do_not_get_through() -> None:
    holding = Holding(100, manual=False)
    for first in range(0, UNCONFIRMED_MAX, 100):
        holding.take(_messages(range(first, first + 100)), 30)
        for msg_id in range(first, first + 100):
            assert _next(holding) == msg_id
            holding.finish(msg_id)
    assert holding.room(0) == 0
    holding.confirmed(holding.to_confirm(1000))
    assert holding.room(0) == 100


def test_a_buffered_message_whose_lease_ended_is_not_handed_out() -> None:
    holding = Holding(4, manual=False)
    holding.take(_messages([1, 2]), 30)
    assert _next(holding, 29.9) == 1
    assert _next(holding, 30) is None
    assert holding.in_hand() == [1]
    assert _ids(holding.take(_messages([2]), 60)) == [2]


def test_a_message_in_hand_is_not_handed_out_again() -> None:
    holding = Holding(4, manual=False)
    holding.take(_messages([1]), 30)
    assert _next(holding) == 1
    assert holding.take(_messages([1]), 90) == []
    assert _next(holding, 60) is None
    assert holding.lease_end_s() == 90


def test_a_message_confirmed_while_a_fetch_was_under_way_is_not_new() -> None:
    holding = Holding(4, manual=False)
    holding.take(_messages([1]), 30)
    assert _next(holding) == 1
    holding.asked()
    holding.finish(1)
    holding.confirmed([1])
    assert holding.take(_messages([1, 2]), 30)[0].msg_id == 2
    holding.asked()
    assert _ids(holding.take(_messages([1]), 30)) == [1]  # sent after the confirmation: so it is a new delivery


def test_a_message_that_was_given_back_may_come_again() -> None:
    holding = Holding(4, manual=False)
    holding.take(_messages([1]), 30)
    assert _next(holding) == 1
    holding.release(1)
    assert _ids(holding.take(_messages([1]), 30)) == [1]


def test_manual_messages_are_forgotten_when_their_lease_ends() -> None:
    holding = Holding(2, manual=True)
    holding.take(_messages([1, 2]), 30)
    assert (_next(holding), _next(holding)) == (1, 2)
    assert holding.room(29) == 0
    assert holding.room(30) == 2
    assert _ids(holding.take(_messages([1]), 60)) == [1]


def test_confirmations_go_in_order_and_in_batches() -> None:
    holding = Holding(5, manual=False)
    holding.take(_messages([5, 3, 9]), 30)
    for _ in range(3):
        holding.finish(_next(holding) or 0)
    assert holding.to_confirm(2) == [5, 3]
    holding.confirmed([5, 3])
    assert holding.to_confirm(2) == [9]


def test_the_end_gives_back_what_nobody_began() -> None:
    holding = Holding(5, manual=False)
    holding.take(_messages([1, 2, 3]), 30)
    assert _next(holding) == 1
    assert holding.empty_buffer() == [2, 3]
    assert holding.in_hand() == [1]
    assert _next(holding) is None


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("fetch"), st.lists(st.integers(1, 12), max_size=6, unique=True)),
        st.tuples(st.sampled_from(["next", "finish", "confirm", "release", "reconnect"]), st.just([])),
        st.tuples(st.just("time"), st.lists(st.integers(1, 40), min_size=1, max_size=1)),
    ),
    max_size=60,
)


@given(EVENTS, st.booleans())
def test_no_history_hands_a_held_message_out_twice(events: list[tuple[str, list[int]]], manual: bool) -> None:
    """Whatever comes in whatever order: a worker never gets what another worker has, nor anything whose lease ended."""
    holding = Holding(5, manual=manual)
    now_s = 0.0
    leases: dict[int, float] = {}
    working: list[int] = []
    for event, values in events:
        if event == "fetch":
            holding.asked()
            holding.take(_messages(values), now_s + 30)
            leases.update(dict.fromkeys(values, now_s + 30))
        elif event == "next":
            got = _next(holding, now_s)
            if got is not None:
                assert leases[got] > now_s
                assert manual or got not in working
                working.append(got)
        elif event == "finish" and working:
            holding.finish(working.pop(0))
        elif event == "confirm":
            holding.confirmed(holding.to_confirm(3))
        elif event == "release" and working:
            holding.release(working.pop(0))
        elif event == "reconnect":
            holding.empty_buffer()
        elif event == "time":
            now_s += values[0]
        assert 0 <= holding.room(now_s) <= 5
