"""Mailboxes full of numbered messages, and members that read them, over plain sockets."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Iterator

from tests.support.raw import Closed, Frame, RawClient
from tests.support.server import ServerProcess

PUSHED = b"$mq9.AI.MAILBOX.MSG."
SMALL_BUFFER_BYTES = 16 * 1024


def make(server: ServerProcess, box: str) -> None:
    assert server.raw().call(b"$mq9.AI.MAILBOX.CREATE", {"name": box})["error"] == ""


def fill(server: ServerProcess, box: str, numbers: Iterable[int], size_bytes: int = 16) -> None:
    """Store one message for each number; returns when all are on disk."""
    sender = server.raw()
    subject = b"$mq9.AI.MSG.SEND." + box.encode()
    *most, last = (b"%d" % number for number in numbers)
    for text in most:
        sender.pub(subject, text.ljust(size_bytes))
    answer = sender.call(subject, last.ljust(size_bytes))
    assert answer["error"] == "", answer  # they are stored in order


def member(server: ServerProcess, box: str, group: bytes = b"", *, is_slow: bool = False) -> tuple[RawClient, bytes]:
    """A new connection that subscribes to a mailbox, and its subscription's id. The kernel keeps little for a slow one."""
    client = server.raw()
    if is_slow:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    return client, client.sub(PUSHED + box.encode() + b".*", group)


def numbers(frames: Iterable[Frame]) -> list[int]:
    """The numbers of pushed messages."""
    return [int(frame.payload) for frame in frames if frame.verb in (b"MSG", b"HMSG") and frame.subject.startswith(PUSHED)]


def read(client: RawClient, count: int) -> list[int]:
    """The numbers of the next `count` pushed messages."""
    return [number for _ in range(count) for number in numbers([client.next_frame()])]


def read_all(client: RawClient, until: int) -> Iterator[int]:
    """The numbers of pushed messages up to the one with the number `until`."""
    while True:
        for number in numbers([client.next_frame()]):
            yield number
            if number == until:
                return


def frames_to_end(client: RawClient) -> list[Frame]:
    """The whole frames that are left on a connection whose server is gone."""
    found: list[Frame] = []
    try:
        while True:
            found.append(client.next_frame())
    except Closed:
        return found


def read_to_end(client: RawClient) -> list[int]:
    """The numbers of the messages among those."""
    return numbers(frames_to_end(client))


def is_marked(frame: Frame) -> bool:
    """Whether it says that the message may have been handed out before."""
    return int(frame.headers.get("mq9-deliveries", "1")) > 1


def difference(expected: Iterable[int], got: Iterable[int]) -> tuple[list[int], list[int]]:
    """(lost, duplicated)."""
    counts = Counter(got)
    return [number for number in expected if not counts[number]], sorted(number for number, times in counts.items() if times > 1)
