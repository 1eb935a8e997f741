"""Bytes of one client connection -> frames, in one pass.

Almost every frame of a busy connection is a PUB or HPUB that lies whole in the chunk just read and was written by a
client library: upper case, single blanks, CRLF. One regular expression matched at the current position reads its control
line, and the payload slice is the only copy made. Everything else (other verbs, odd spacing, a frame cut by the end of
the chunk) takes the slow road below, which accepts exactly what nats-server accepts: verbs in any case, runs of blanks
and tabs, lines that end in CRLF or LF. A payload must be followed by CRLF: a length that lies is caught right there.

Cut frames: at most one control line (bounded by the control line limit) or one payload (bounded by max payload, and never
allocated before it arrives) is kept. Neither is scanned twice, so input that comes byte by byte costs linear time.

The first frame must be CONNECT; nothing else is read, let alone buffered, before it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import Final

from mq9.limits import CONTROL_LINE_BYTES_MAX, HEADERS_BYTES_MAX, SUBSCRIPTION_ID_BYTES_MAX
from mq9.nats.frames import (
    CONNECT_FIRST,
    CONTROL_LINE_TOO_LONG,
    HEADER_TOO_LARGE,
    INVALID_HEADER,
    PARSER_ERROR,
    PAYLOAD_TOO_LARGE,
    UNKNOWN_OPERATION,
    Connect,
    Frame,
    Ping,
    Pong,
    ProtocolError,
    Publish,
    Subscribe,
    Unsubscribe,
)

# (H)(subject)(reply)(size)(second size). Without a reply an HPUB shifts left by one: reply holds the first size. The token
# lengths keep an accepted line under the control line limit; anything longer goes the slow road.
_PUBLISH: Final = re.compile(
    rb"(H?)PUB ([!-~\x80-\xff]{1,1024}+) (?:([!-~\x80-\xff]{1,1024}+) )?([0-9]{1,9}+)(?: ([0-9]{1,9}+))?\r\n"
).match
_WORDS: Final = re.compile(rb"[^ \t]+").findall  # bytes.split() would also split at CR, VT and FF
# Subjects end up in log lines and in other clients' control lines, so control characters never get past here.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_CONNECT: Final = re.compile(rb"(?i)CONNECT(?:[ \t]+(.*))?\Z", re.DOTALL).match
_HEADER_START: Final = b"NATS/1.0"
_HEADER_END: Final = b"\r\n\r\n"
_CR: Final = 13
_LF: Final = 10
_SIZE_DIGITS_MAX: Final = 9  # more than the hard cap on payloads by far, and int() stays cheap
_VERBS: Final = frozenset((b"PUB", b"HPUB", b"SUB", b"UNSUB"))
_PING: Final = Ping()
_PONG: Final = Pong()


class _Head:
    """A PUB or HPUB whose control line has been read and whose payload has not."""

    __slots__ = ("header_size", "reply", "size", "subject")

    def __init__(self, subject: bytes, reply: bytes, header_size: int, size: int) -> None:
        self.subject = subject
        self.reply = reply
        self.header_size = header_size
        self.size = size  # header and payload together


class Parser:
    """The reading side of one connection. After a ProtocolError it is of no further use."""

    __slots__ = ("_body", "_connected", "_head", "_line", "max_payload")

    def __init__(self, max_payload: int) -> None:
        """`max_payload` bounds header and payload together, in bytes."""
        self.max_payload = max_payload
        self._connected = False
        self._line = bytearray()  # the beginning of a control line
        self._head: _Head | None = None
        self._body: bytearray | None = None  # the beginning of the payload of _head

    @property
    def buffered(self) -> int:
        """Bytes of incomplete input held."""
        return len(self._line) + (len(self._body) if self._body is not None else 0)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes, in order. Raises ProtocolError after the last good one.

        The iterator must be used up before the next `feed`. Frames are read only as they are asked for, so whoever must
        stop (the peer does not take its replies, the store is behind) can leave the rest unread and go on later.
        """
        position = 0
        end = len(data)
        if self._head is not None or self._line or not self._connected:
            position = yield from self._resume(data)
        while position < end:
            match = _PUBLISH(data, position)
            if match is None:
                position = yield from self._slow(data, position)
                continue
            h, subject, reply, first, second = match.groups(b"")
            start = match.end()
            if not h and not second:
                header_end, size = start, int(first)
            elif h and second:
                header_end, size = start + int(first), int(second)
            else:
                reply, header_size, size = _header_sizes(h, reply, first, second)
                header_end = start + header_size
            stop = start + size
            if header_end != start:
                _check_sizes(header_end - start, size)
            if size > self.max_payload:
                raise ProtocolError(PAYLOAD_TOO_LARGE)
            if stop + 2 > end:
                self._head = _Head(subject, reply, header_end - start, size)
                self._body = bytearray(data[start:])
                return
            if data[stop] != _CR or data[stop + 1] != _LF:
                raise ProtocolError(UNKNOWN_OPERATION)
            if header_end == start:
                yield Publish(subject, reply, b"", data[start:stop])
            else:
                yield Publish(subject, reply, _checked(data[start:header_end]), data[header_end:stop])
            position = stop + 2

    def _resume(self, data: bytes) -> Generator[Frame, None, int]:
        """Finish what the last chunk began, or read the CONNECT that must come first. Returns the position after it."""
        position = 0
        if not self._connected or self._line:
            position = yield from self._slow(data, 0)
        if self._head is not None:
            position = yield from self._fill(data, position)
        return position

    def _slow(self, data: bytes, position: int) -> Generator[Frame, None, int]:
        """One control line of any kind, begun in `_line` or at `position`, and the payload if it announces one."""
        kept = len(self._line)
        stop = data.find(b"\n", position, position + CONTROL_LINE_BYTES_MAX + 2 - kept)
        if stop < 0:
            if kept + len(data) - position >= CONTROL_LINE_BYTES_MAX + 2:
                raise ProtocolError(CONTROL_LINE_TOO_LONG)
            self._line += data[position:]
            return len(data)
        line = data[position:stop]
        if kept:
            line = bytes(self._line) + line
            self._line.clear()
        line = line.removesuffix(b"\r")
        if len(line) > CONTROL_LINE_BYTES_MAX:
            raise ProtocolError(CONTROL_LINE_TOO_LONG)
        if not self._connected:
            yield _first_frame(line)
            self._connected = True
            return stop + 1
        frame = _read_line(line)
        if not isinstance(frame, _Head):
            yield frame
            return stop + 1
        _check_sizes(frame.header_size, frame.size)
        if frame.size > self.max_payload:
            raise ProtocolError(PAYLOAD_TOO_LARGE)
        self._head = frame
        self._body = bytearray()
        return (yield from self._fill(data, stop + 1))

    def _fill(self, data: bytes, position: int) -> Generator[Frame, None, int]:
        """Take what the payload begun in `_body` still wants; the frame when that is all of it."""
        head, body = self._head, self._body
        assert head is not None
        assert body is not None
        stop = position + head.size + 2 - len(body)
        body += data[position:stop]
        if len(body) < head.size + 2:
            return len(data)
        self._head = self._body = None
        if not body.endswith(b"\r\n"):
            raise ProtocolError(UNKNOWN_OPERATION)
        with memoryview(body) as view:
            header, payload = bytes(view[: head.header_size]), bytes(view[head.header_size : head.size])
        yield Publish(head.subject, head.reply, _checked(header) if header else b"", payload)
        return stop


def _first_frame(line: bytes) -> Connect:
    match = _CONNECT(line)
    if match is None:
        raise ProtocolError(CONNECT_FIRST)
    return Connect(match[1] or b"")


def _read_line(line: bytes) -> Frame | _Head:
    """A control line of any shape, without its line end."""
    words = _WORDS(line)
    verb = words[0].upper() if words else b""
    if verb == b"CONNECT":
        return _first_frame(line)
    if _CONTROL(line):
        raise ProtocolError(PARSER_ERROR if verb in _VERBS else UNKNOWN_OPERATION)
    count = len(words)
    if verb == b"PUB" and count in {3, 4}:
        return _Head(words[1], words[2] if count == 4 else b"", 0, _size(words[-1]))
    if verb == b"HPUB" and count in {4, 5}:
        reply, header_size, size = _header_sizes(b"H", words[2], *words[3:], *([b""] if count == 4 else []))
        return _Head(words[1], reply, header_size, size)
    if verb == b"PING":
        return _PING
    if verb == b"PONG":
        return _PONG
    if verb == b"SUB" and count in {3, 4} and len(words[-1]) <= SUBSCRIPTION_ID_BYTES_MAX:
        return Subscribe(words[1], words[2] if count == 4 else b"", words[-1])
    if verb == b"UNSUB" and count in {2, 3}:
        return Unsubscribe(words[1], _size(words[2]) if count == 3 else 0)
    raise ProtocolError(PARSER_ERROR if verb in _VERBS else UNKNOWN_OPERATION)


def _header_sizes(h: bytes, reply: bytes, first: bytes, second: bytes) -> tuple[bytes, int, int]:
    """(reply, header size, total size) of an HPUB from the words after its subject; see _PUBLISH for their order."""
    if not h:
        raise ProtocolError(PARSER_ERROR)  # a PUB with two sizes
    if second:
        header_size, size = _size(first), _size(second)
    else:
        header_size, size = _size(reply), _size(first)
        reply = b""
    return reply, header_size, size


def _check_sizes(header_size: int, size: int) -> None:
    if header_size > size:
        raise ProtocolError(PARSER_ERROR)
    if header_size > HEADERS_BYTES_MAX:
        raise ProtocolError(HEADER_TOO_LARGE)


def _size(word: bytes) -> int:
    # int() would also take signs, underscores and blanks.
    if not word.isdigit():
        raise ProtocolError(PARSER_ERROR)
    if len(word) > _SIZE_DIGITS_MAX:
        raise ProtocolError(PAYLOAD_TOO_LARGE)
    return int(word)


def _checked(header: bytes) -> bytes:
    """A header block that has the shape of one: it is passed on to other clients, whose parsers may be less careful."""
    if not (header.startswith(_HEADER_START) and header.endswith(_HEADER_END)):
        raise ProtocolError(INVALID_HEADER)
    return header
