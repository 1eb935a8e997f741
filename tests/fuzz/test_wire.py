"""The same requests over a real socket, cut anywhere, and with bytes changed: answers or an end, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import MakeServer
from tests.fuzz.requests import CONVERSATIONS, Asked
from tests.support.raw import Closed, Frame, RawClient
from tests.support.server import ServerProcess

CUTS = st.lists(st.integers(0, 1 << 20), max_size=4)
DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4)
QUIET = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture
def witness(start_server: MakeServer) -> Iterator[tuple[ServerProcess, RawClient]]:
    """A server, and a client of it that does nothing wrong. The server must end with 0 and without a traceback."""
    server = start_server(embedding="none", monitor_port=-1)
    client = server.raw()
    for name in ("box", "work", "witness"):
        client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": name})
    yield server, client
    client.close()


def written(conversation: list[Asked]) -> bytes:
    """The conversation as a client would write it; request N is answered on _INBOX.N."""
    parts = [b"SUB _INBOX.* 1\r\n"]
    for number, (command, header, body) in enumerate(conversation):
        head = b"$mq9.AI.%b _INBOX.%d" % (command, number)
        if header:
            parts.append(b"HPUB %b %d %d\r\n" % (head, len(header), len(header) + len(body)) + header + body + b"\r\n")
        else:
            parts.append(b"PUB %b %d\r\n" % (head, len(body)) + body + b"\r\n")
    return b"".join(parts)


def say(client: RawClient, data: bytes, places: list[int]) -> None:
    """Write it in pieces."""
    ends = sorted(place % (len(data) + 1) for place in places)
    for begin, end in zip([0, *ends], [*ends, len(data)], strict=True):
        client.send(data[begin:end])


def heard(client: RawClient) -> list[Frame]:
    """Everything up to the PONG of a PING, or up to the end of the connection."""
    frames: list[Frame] = []
    with contextlib.suppress(Closed, OSError):
        client.send(b"PING\r\n")
        while (frame := client.next_frame()).verb != b"PONG":
            frames.append(frame)
    return frames


def check(frames: list[Frame]) -> None:
    streamed = {frame.subject for frame in frames if frame.status == b"204"}
    answers = Counter(frame.subject for frame in frames if frame.verb in (b"MSG", b"HMSG"))
    for frame in frames:
        if frame.verb not in (b"MSG", b"HMSG") or frame.subject in streamed or frame.header:
            continue
        assert answers[frame.subject] == 1, frame
        answer = msgspec.json.decode(frame.payload)
        assert answer.get("code") not in ("INTERNAL", 410), answer


def unharmed(client: RawClient) -> None:
    assert client.call(b"$mq9.AI.MSG.SEND.witness", b"still here")["error"] == ""


@pytest.mark.fuzz
@given(CONVERSATIONS, CUTS)
@QUIET
def test_conversations_over_a_socket(
    witness: tuple[ServerProcess, RawClient], conversation: list[Asked], places: list[int]
) -> None:
    """Fuzz target: at most one answer each by the time of a PONG (the others wait), and none of them INTERNAL."""
    server, other = witness
    with RawClient(server.host, server.port) as client:
        client.connect()
        say(client, written(conversation), places)
        check(heard(client))
    unharmed(other)


@pytest.mark.fuzz
@given(CONVERSATIONS, CUTS, DAMAGE)
@QUIET
def test_damaged_conversations_end_or_go_on(
    witness: tuple[ServerProcess, RawClient], conversation: list[Asked], places: list[int], damage: list[tuple[int, int]]
) -> None:
    """Fuzz target: some bytes are others than they should be."""
    server, other = witness
    data = bytearray(written(conversation))
    for place, value in damage:
        data[place % len(data)] = value
    with RawClient(server.host, server.port) as client:
        client.connect()
        with contextlib.suppress(OSError):  # it may have hung up before the end
            say(client, bytes(data), places)
            client.socket.shutdown(socket.SHUT_WR)
        for frame in client.expect_closed():
            if frame.verb == b"MSG" and frame.subject.startswith(b"_INBOX."):
                assert b'"INTERNAL"' not in frame.payload
    unharmed(other)
