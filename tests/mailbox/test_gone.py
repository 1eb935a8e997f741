"""A connection that closes while its FETCH waits for a commit is given nothing."""

from __future__ import annotations

import pytest

from mq9.testing.broker import InProcessBroker

BODY = {"group_name": "g", "deliver": "earliest", "config": {"max_wait_ms": 5000}}


@pytest.mark.parametrize("sends_first", [False, True])
def test_a_fetch_whose_connection_closed_before_its_commit_leases_nothing(broker: InProcessBroker, *, sends_first: bool) -> None:
    """Its group is being pinned, or what was sent just before it is being stored."""
    gone, other = broker.client(), broker.client()
    if sends_first:
        gone.publish("MSG.SEND.box", b"a")
    gone.publish("MSG.FETCH.box", BODY)
    gone.close()
    broker.loop.run()
    if not sends_first:
        other.send("box", b"a")
    assert [message["payload"] for message in other.command("MSG.FETCH.box", BODY)["messages"]] == ["a"]
    fetching = broker.broker.partition.fetching
    assert not fetching.deferred
    assert not fetching.gone
    assert not fetching.waiting
