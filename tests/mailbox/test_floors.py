"""What a group confirmed stays confirmed over a restart, also when what came before it went in another way."""

from __future__ import annotations

import pytest

from mq9.testing.broker import InProcessBroker, InProcessClient

ALL = {"group_name": "g", "deliver": "earliest", "config": {"max_wait_ms": 0, "num_msgs": 100}}


def fetched(client: InProcessClient) -> list[int]:
    return [message["msg_id"] for message in client.command("MSG.FETCH.box", ALL)["messages"]]


@pytest.mark.parametrize("way", ["deleted", "replaced", "expired"])
def test_what_was_confirmed_before_the_first_message_went_does_not_come_again(broker: InProcessBroker, way: str) -> None:
    client = broker.client()
    client.send("box", b"first", key="k", ttl=5)
    for _ in range(3):
        client.send("box", b"more")
    assert fetched(client) == [1, 2, 3, 4]
    acks = {"group_name": "g", "msg_id": 3, "msg_ids": [2, 3], "mode": "single"}
    assert client.command("MSG.ACK.box", acks)["error"] == ""
    if way == "deleted":
        assert client.command("MSG.DELETE.box.1")["error"] == ""
    elif way == "replaced":
        client.send("box", b"second", key="k")
    else:
        broker.advance(10)
    client.send("box", b"last")
    broker.restart()
    again = fetched(broker.client())
    assert again == ([4, 5, 6] if way == "replaced" else [4, 5])
