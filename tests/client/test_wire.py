"""Requests and replies as bytes and records."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

import mq9
from mq9.client import wire
from mq9.client.message import Mailbox, Message, Priority


def _item(**changes: Any) -> dict[str, Any]:
    """A message of a JSON reply as the broker writes it."""
    return {
        "msg_id": 7, "payload": base64.b64encode(b"hi\xff").decode(), "payload_encoding": "base64", "priority": "urgent",
        "create_time": 1700000000, "create_time_ms": 1700000000123, "headers": {"X-A": "1", "mq9-key": "k"}, "deliveries": 2,
        "key": "k", "tags": ["a"], "expires_at": 1700000100, **changes,
    }  # fmt: skip


def _reply(*items: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({"error": "", "messages": list(items), **changes}).encode()


EXPECTED = Message(7, b"hi\xff", Priority.URGENT, 1700000000, 1700000000123, {"X-A": "1"}, "k", ["a"], 2, 1700000100)


def test_a_json_reply() -> None:
    assert wire.json_messages(_reply(_item())) == [EXPECTED]


def test_a_text_reply_is_text_even_where_it_could_be_base64() -> None:
    text = _item(payload="abcd", payload_encoding="text", header=[1, 2])
    assert [message.payload for message in wire.json_messages(_reply(text, _item()))] == [b"abcd", b"hi\xff"]
    assert [message.payload for message in wire.json_messages(_reply(_item(payload="a b", payload_encoding="text")))] == [b"a b"]


def test_a_reply_of_a_broker_that_says_less() -> None:
    """The published ones: base64 without saying so, seconds only, no headers."""
    bare = {"msg_id": 1, "payload": "aGk=", "priority": "high", "create_time": 1700000000}
    (message,) = wire.json_messages(_reply(bare))
    assert message == Message(1, b"hi", Priority.CRITICAL, 1700000000, 1700000000000)
    odd: dict[str, Any] = {"msg_id": "1", "payload": "aGk=", "priority": None, "create_time": 1700000000.5, "extra": {}}
    assert wire.json_messages(_reply(odd)) == [Message(1, b"hi", Priority.NORMAL, 1700000000, 1700000000000)]


@pytest.mark.parametrize(
    "reply",
    [
        b"", b"nonsense", b"[]", b"null", _reply({"payload": "aGk="}), _reply(_item(payload="?")), _reply(_item(payload=5)),
        _reply(_item(headers="?")), b'{"error":"","messages":[5]}',
    ],
)  # fmt: skip
def test_a_reply_that_is_none(reply: bytes) -> None:
    with pytest.raises(mq9.RequestError) as caught:
        wire.json_messages(reply)
    assert caught.value.code == "INVALID_REQUEST"


@pytest.mark.parametrize("read", [wire.json_messages, wire.reply_fields])
def test_an_error_reply(read: Any) -> None:
    with pytest.raises(mq9.NotFound, match="gone"):
        read(b'{"error":"gone","code":"MAILBOX_NOT_FOUND","messages":[]}')
    with pytest.raises(mq9.UnavailableError) as caught:
        read(b'{"error":"wait","code":503}')
    assert caught.value.retryable
    with pytest.raises(mq9.CapacityError, match="limit exceeded"):
        read(b'{"error":"limit exceeded: 5 mailboxes","code":409,"error_code":"LIMIT_EXCEEDED"}')
    with pytest.raises(mq9.RequestError) as other:
        read(b'{"error":"what we never heard of","code":"NEW_CODE"}')
    assert (other.value.code, other.value.text) == ("NEW_CODE", "what we never heard of")


def test_a_streamed_message() -> None:
    headers = {
        "X-A": "1", "mq9-key": "k", "mq9-tags": "a, ,b", "mq9-msg-id": "7", "mq9-priority": "urgent",
        "mq9-create-time": "1700000000123", "mq9-deliveries": "2", "mq9-expires-at": "1700000100",
    }  # fmt: skip
    assert wire.is_streamed(headers)
    message = wire.streamed_message(headers, b"hi\xff")
    assert message == Message(
        7, b"hi\xff", Priority.URGENT, 1700000000, 1700000000123, {"X-A": "1"}, "k", ["a", "b"], 2, 1700000100
    )
    assert not wire.is_streamed(None)
    assert not wire.is_streamed({"Status": "204", "mq9-count": "1"})


def test_dead_letter_headers_are_the_readers_to_see() -> None:
    headers = {"mq9-msg-id": "7", "mq9-dead-letter-from": "jobs", "mq9-dead-letter-reason": "max_deliver"}
    assert wire.streamed_message(headers, b"").headers == {
        "mq9-dead-letter-from": "jobs", "mq9-dead-letter-reason": "max_deliver",
    }  # fmt: skip


# --- Requests ---------------------------------------------------------------------------------------------------


def test_send_headers_say_only_what_was_asked_for() -> None:
    assert wire.send_headers({}, "id") == {"mq9-msg-id": "id"}
    nothing: wire.SendOptions = {"priority": "normal", "delay": 0, "ttl": None, "tags": [], "headers": {}}
    assert wire.send_headers(nothing, "id") == {"mq9-msg-id": "id"}
    everything: wire.SendOptions = {
        "priority": Priority.CRITICAL, "key": "k", "delay": 1.5, "ttl": 60, "tags": ("a", "b"), "headers": {"X": "1"},
        "msg_id": "m",
    }  # fmt: skip
    assert wire.send_headers(everything, "id") == {
        "mq9-msg-id": "m", "mq9-priority": "critical", "mq9-key": "k", "mq9-delay": "1.500", "mq9-ttl": "60", "mq9-tags": "a,b",
        "X": "1",
    }  # fmt: skip
    assert wire.send_headers({"tags": "one"}, "id")["mq9-tags"] == "one"


def test_bodies_take_what_users_have() -> None:
    """A Mailbox is a `str`, a Receipt an `int`; settings come as mappings of all kinds."""
    mailbox = Mailbox.made("a.b", is_new=True, ttl=0, expires_at=0)
    inner: Mapping[str, Any] = MappingProxyType({"mailbox": mailbox, "id": mq9.Receipt.made(3, duplicate=False)})
    assert json.loads(wire.json_body({"x": inner, "none": None})) == {"x": {"mailbox": "a.b", "id": 3}}


def test_idempotency_ids_are_unique_and_rise() -> None:
    source = wire.IdSource()
    ids = [source.next() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    assert wire.IdSource().next()[:-8] != ids[0][:-8]
    assert max(map(len, ids)) <= 64


def test_subjects() -> None:
    assert wire.subject("MAILBOX.CREATE") == "$mq9.AI.MAILBOX.CREATE"
    assert wire.subject("MSG.DELETE", "a.b", "7") == "$mq9.AI.MSG.DELETE.a.b.7"


def test_the_form_of_a_reply_follows_the_size_of_the_messages() -> None:
    form = wire.ReplyForm()
    small, large = [Message(1, bytes(100), Priority.NORMAL, 0)], [Message(1, bytes(10_000), Priority.NORMAL, 0)]
    assert not form.stream("a")
    form.learn("a", large)
    assert form.stream("a")
    form.learn("a", [])
    assert form.stream("a")
    form.learn("a", small)
    assert not form.stream("a")
    for number in range(form.MAILBOXES_MAX + 10):
        form.learn(str(number), large)
    assert not form.stream("9")
    assert form.stream("10")


def test_priorities() -> None:
    assert [str(priority) for priority in Priority] == ["critical", "urgent", "normal", "low"]
    assert (Priority("high"), Priority("whatever")) == (Priority.CRITICAL, Priority.NORMAL)


def test_messages_read_their_payload() -> None:
    message = Message(1, b'{"a": 1}', Priority.NORMAL, 0)
    assert message.json() == {"a": 1}
    assert message.text == '{"a": 1}'
    assert Message(1, b"\xff", Priority.NORMAL, 0).text == "\ufffd"
    with pytest.raises(ValueError, match="Expecting value"):
        Message(1, b"no", Priority.NORMAL, 0).json()
