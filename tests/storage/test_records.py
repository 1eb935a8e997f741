"""The short road of a record leads where the long one does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mq9.protocol.message import StoredMessage
from mq9.storage.records import message_size, pack_message, pack_plain_message, unpack_message

BYTES = st.binary(max_size=40)


@given(st.integers(0, 1 << 60), BYTES, BYTES, BYTES, BYTES)
def test_a_plain_message_is_the_same_record(create_ms: int, header: bytes, reply: bytes, payload: bytes, key: bytes) -> None:
    message = StoredMessage(create_ms, 0, header, b"", b"", reply, payload)
    record = pack_plain_message(key, create_ms, header, reply, payload)
    assert record == pack_message(key, message)
    assert unpack_message(key, record) == message
    assert len(record) == message_size(message)
