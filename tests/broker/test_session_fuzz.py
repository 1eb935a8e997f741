"""Whatever a client says after (or instead of) CONNECT, its session answers or ends, and leaves nothing behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.broker.rig import Rig
from tests.nats import strategies
from tests.nats.reading import cut
from tests.nats.strategies import Piece

COMMANDS = st.sampled_from(
    [
        b"MAILBOX.CREATE",
        b"MSG.SEND.a",
        b"MSG.FETCH.a",
        b"MSG.ACK.a",
        b"MSG.QUERY.a",
        b"MSG.DELETE.a.1",
        b"AGENT.REGISTER",
        b"AGENT.DISCOVER",
    ]
)
BODIES = st.sampled_from(
    [b"", b"{}", b'{"name":"a"}', b'{"group_name":"g","msg_id":1}', b"[", b"null", b'{"config":{"max_wait_ms":1}}']
)


def _command(name: bytes, body: bytes) -> bytes:
    return b"PUB $mq9.AI.%b _INBOX.x.1 %d\r\n%b\r\n" % (name, len(body), body)


STREAMS = st.lists(
    st.builds(_command, COMMANDS, BODIES | st.binary(max_size=30))
    | strategies.PIECES.map(lambda piece: piece[0])
    | strategies.JUNK,
    max_size=8,
).map(lambda parts: b"CONNECT {}\r\nSUB _INBOX.x.* i\r\n" + b"".join(parts))


@pytest.mark.fuzz
@given(stream=STREAMS, places=st.lists(st.integers(0, 1 << 20), max_size=6), full=st.booleans())
def test_a_session_survives_whatever_it_hears(stream: bytes, places: list[int], full: bool) -> None:
    """Fuzz target: no exception leaves the connection, nothing is logged as a bug, and nothing is left behind."""
    rig = Rig()
    for number, chunk in enumerate(cut(stream, places)):
        rig.wire.is_full = full and number % 2 == 1
        rig.feed(chunk)
        rig.loop.run()
        if not rig.wire.is_full:
            rig.wire.take()
            rig.loop.run()
    rig.loop.advance(1)
    rig.hub.sweep()
    said = rig.finish()
    assert said.startswith(b"INFO ")
    assert not rig.bugs.lines


@given(st.lists(strategies.PIECES, max_size=10), st.lists(st.integers(0, 1 << 20), max_size=8))
def test_a_full_socket_changes_nothing_but_the_time(pieces: list[Piece], places: list[int]) -> None:
    """What is held back while the client does not read is done and said all the same, in the same order."""
    stream = b'CONNECT {"headers":true,"verbose":true}\r\nSUB > everything\r\n' + b"".join(data for data, _ in pieces)
    said: list[bytes] = []
    for is_full in (False, True):
        rig = Rig()
        for chunk in cut(stream, places):
            rig.wire.is_full = is_full
            rig.feed(chunk)
            rig.loop.run()
            rig.wire.take()
            rig.loop.run()
        said.append(rig.finish())
    assert said[0] == said[1]
