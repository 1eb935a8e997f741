"""The parser on chosen input: every verb, every limit, every way to be wrong."""

from __future__ import annotations

import tracemalloc

import pytest

from mq9.limits import CONTROL_LINE_BYTES_MAX, HEADERS_BYTES_MAX, SUBSCRIPTION_ID_BYTES_MAX
from mq9.nats.frames import Connect, Frame, Ping, Pong, Publish, Subscribe, Unsubscribe
from mq9.nats.parser import Parser
from tests.nats.reading import connected, read

UNKNOWN = "Unknown Protocol Operation"
WRONG = "Parser Error"
TOO_LONG = "maximum control line exceeded"
TOO_LARGE = "Maximum Payload Violation"
H12 = b"NATS/1.0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "frame"),
    [
        (b"PING\r\n", Ping()),
        (b"ping\n", Ping()),
        (b"PING whatever\r\n", Ping()),
        (b"PONG\r\n", Pong()),
        (b"SUB a 1\r\n", Subscribe(b"a", b"", b"1")),
        (b"SUB a.* workers 1\r\n", Subscribe(b"a.*", b"workers", b"1")),
        (b"sub\ta  \t1 \r\n", Subscribe(b"a", b"", b"1")),
        (b"  SUB a 1\r\n", Subscribe(b"a", b"", b"1")),
        (b"UNSUB 1\r\n", Unsubscribe(b"1", 0)),
        (b"UNSUB 1 5\r\n", Unsubscribe(b"1", 5)),
        (b"PUB a 0\r\n\r\n", Publish(b"a", b"", b"", b"")),
        (b"PUB a 5\r\nhello\r\n", Publish(b"a", b"", b"", b"hello")),
        (b"PUB a 0005\r\nhello\r\n", Publish(b"a", b"", b"", b"hello")),
        (b"PUB a b 5\r\nhello\r\n", Publish(b"a", b"b", b"", b"hello")),
        (b"PUB a 17 5\r\nhello\r\n", Publish(b"a", b"17", b"", b"hello")),
        (b"pUb  a\t b   5 \r\nhello\r\n", Publish(b"a", b"b", b"", b"hello")),
        (b"PUB a 5\nhello\r\n", Publish(b"a", b"", b"", b"hello")),
        (b"PUB a 2\r\n\r\n\r\n", Publish(b"a", b"", b"", b"\r\n")),
        (b"PUB \xc3\xa9.b 1\r\nx\r\n", Publish("é.b".encode(), b"", b"", b"x")),
        (b"HPUB a 12 12\r\n" + H12 + b"\r\n", Publish(b"a", b"", H12, b"")),
        (b"HPUB a 12 14\r\n" + H12 + b"hi\r\n", Publish(b"a", b"", H12, b"hi")),
        (b"HPUB a b 12 14\r\n" + H12 + b"hi\r\n", Publish(b"a", b"b", H12, b"hi")),
        (b"HPUB a 7 12 14\r\n" + H12 + b"hi\r\n", Publish(b"a", b"7", H12, b"hi")),
        (b"hpub a  12 14\r\n" + H12 + b"hi\r\n", Publish(b"a", b"", H12, b"hi")),
        (b"HPUB a 0 2\r\nhi\r\n", Publish(b"a", b"", b"", b"hi")),
        (b"CONNECT {}\r\n", Connect(b"{}")),
    ],
)
def test_a_frame_is_read(data: bytes, frame: Frame) -> None:
    assert connected(data) == ([frame], "")
    assert connected(*(data[i : i + 1] for i in range(len(data)))) == ([frame], "")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\r\n", UNKNOWN),
        (b"FOO bar\r\n", UNKNOWN),
        (b"PUBA a 1\r\nx\r\n", UNKNOWN),
        (b"MSG a 1 1\r\nx\r\n", UNKNOWN),
        (b"INFO {}\r\n", UNKNOWN),
        (b"+OK\r\n", UNKNOWN),
        (b"PUB\r\n", WRONG),
        (b"PUB a\r\n", WRONG),
        (b"PUB a x\r\n", WRONG),
        (b"PUB a -1\r\n", WRONG),
        (b"PUB a +1\r\n", WRONG),
        (b"PUB a 1_0\r\n", WRONG),
        (b"PUB a \xd9\xa1\r\n", WRONG),  # an Arabic digit one: int() would take the text
        (b"PUB a b c 1\r\n", WRONG),
        (b"PUB a b 1 1\r\n", WRONG),
        (b"PUB a\rb 1\r\n", WRONG),
        (b"PUB a\x00b 1\r\n", WRONG),
        (b"PUB a 99999999999999999999\r\n", TOO_LARGE),
        (b"PUB a 8193\r\n", TOO_LARGE),
        (b"pub a 8193\r\n", TOO_LARGE),
        (b"HPUB a 1\r\n", WRONG),
        (b"HPUB a b 1\r\n", WRONG),
        (b"HPUB a 5 3\r\n", WRONG),
        (b"HPUB a b 5 3\r\n", WRONG),
        (b"HPUB a b 12 8193\r\n", TOO_LARGE),
        (b"HPUB a 3 5\r\nabcde\r\n", "Invalid Message Header"),
        (b"HPUB a 10 12\r\n" + H12 + b"\r\n", "Invalid Message Header"),
        (b"SUB a\r\n", WRONG),
        (b"SUB a b c d\r\n", WRONG),
        (b"SUB a\x01b 1\r\n", WRONG),
        (b"SUB a " + b"1" * (SUBSCRIPTION_ID_BYTES_MAX + 1) + b"\r\n", WRONG),
        (b"UNSUB\r\n", WRONG),
        (b"UNSUB 1 x\r\n", WRONG),
        (b"UNSUB 1 2 3\r\n", WRONG),
        (b"PUB a 1\r\nxyz\r\n", UNKNOWN),  # the length says less than there is
        (b"PUB a 5\r\nhi\r\nPING\r\n", UNKNOWN),  # and here more
        (b"PUB a 1\r\nx\nPING\r\n", UNKNOWN),  # a payload ends in CRLF, as for nats-server
    ],
)
def test_what_is_wrong_is_said(data: bytes, error: str) -> None:
    assert connected(data) == ([], error)
    assert connected(*(data[i : i + 1] for i in range(len(data)))) == ([], error)


@pytest.mark.parametrize(
    "data", [b"PING\r\n", b"SUB a 1\r\n", b"PUB a 1\r\nx\r\n", b"PUB a 9999999\r\n", b"\r\n", b"GET / HTTP/1.1\r\n"]
)
def test_any_verb_before_connect_is_refused(data: bytes) -> None:
    assert read([data]) == ([], "Authorization Violation")


def test_a_payload_before_connect_is_not_buffered() -> None:
    parser = Parser(1 << 20)
    assert list(parser.feed(b"PUB a 1000000")) == []
    assert parser.buffered == len(b"PUB a 1000000")


def test_frames_before_an_error_are_delivered() -> None:
    assert connected(b"PING\r\nPUB a 1\r\nx\r\nBAD\r\nPING\r\n") == ([Ping(), Publish(b"a", b"", b"", b"x")], UNKNOWN)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_the_longest_control_line(end: bytes) -> None:
    subject = b"s" * (CONTROL_LINE_BYTES_MAX - len(b"PUB  1"))
    line = b"PUB " + subject + b" 1" + end
    assert connected(line + b"x\r\n") == ([Publish(subject, b"", b"", b"x")], "")
    longer = line.replace(b"PUB ", b"PUB  ")
    assert connected(longer + b"x\r\n") == ([], TOO_LONG)
    assert connected(*(longer[i : i + 1] for i in range(len(longer)))) == ([], TOO_LONG)


def test_a_control_line_without_end_is_refused_when_it_is_too_long() -> None:
    assert connected(b"SUB " + b"x" * 10_000) == ([], TOO_LONG)
    assert connected(*[b"x" * 100] * 41) == ([], TOO_LONG)
    assert read([b"x" * 10_000]) == ([], TOO_LONG)


def test_the_longest_header() -> None:
    block = b"NATS/1.0\r\na: " + b"v" * (HEADERS_BYTES_MAX - 17) + b"\r\n\r\n"
    assert len(block) == HEADERS_BYTES_MAX
    most = 2 * HEADERS_BYTES_MAX
    frame = b"HPUB a %d %d\r\n%b\r\n" % (len(block), len(block), block)
    assert connected(frame, max_payload=most) == ([Publish(b"a", b"", block, b"")], "")
    assert connected(b"HPUB a %d %d\r\n" % (len(block) + 1, len(block) + 1), max_payload=most) == (
        [],
        "Maximum Header Size Exceeded",
    )


def test_the_largest_payload() -> None:
    frame = b"PUB a 8192\r\n" + b"x" * 8192 + b"\r\n"
    assert connected(frame) == ([Publish(b"a", b"", b"", b"x" * 8192)], "")


def test_a_length_that_lies_allocates_nothing() -> None:
    """Ten thousand clients that announce a mebibyte and send nothing must not cost ten gibibytes."""
    parsers = [Parser(8 << 20) for _ in range(50)]
    for parser in parsers:
        list(parser.feed(b"CONNECT {}\r\n"))
    tracemalloc.start()
    for parser in parsers:
        assert list(parser.feed(b"PUB a 8388608\r\nx")) == []
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 50 * 2000


def test_a_large_payload_byte_by_byte_takes_linear_work() -> None:
    """The bytes that are looked at again are counted, not the time: a rescan would make the buffer's past come by again."""
    size = 1 << 20
    data = b"PUB a %d\r\n" % size + b"x" * size + b"\r\n"
    parser = Parser(size)
    list(parser.feed(b"CONNECT {}\r\n"))
    head = data.index(b"\n") + 1
    for index in range(head):
        assert list(parser.feed(data[index : index + 1])) == []
    frames: list[Frame] = []
    for index in range(head, len(data)):
        assert parser.buffered == index - head
        frames += parser.feed(data[index : index + 1])
    assert frames == [Publish(b"a", b"", b"", b"x" * size)]
    assert parser.buffered == 0


def test_frames_are_read_only_as_they_are_asked_for() -> None:
    parser = Parser(100)
    list(parser.feed(b"CONNECT {}\r\n"))
    frames = parser.feed(b"PING\r\nPONG\r\nBAD\r\n")
    assert next(frames) == Ping()
    assert next(frames) == Pong()


def test_frames_own_their_bytes() -> None:
    chunk = bytearray(b"PUB a b 5\r\nhello\r\n")
    (frame,), _ = connected(bytes(chunk))
    chunk[:] = b"\0" * len(chunk)
    assert frame == Publish(b"a", b"b", b"", b"hello")
