"""What the server says -> bytes.

Arguments are trusted to hold no CR, LF or blank where the protocol has none: everything a client sent was checked by the
parser, header blocks made here come from `headers.build`, and texts of errors are checked below.
"""

from __future__ import annotations

from typing import Final

OK: Final = b"+OK\r\n"
PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"
NO_RESPONDERS: Final = b"NATS/1.0 503\r\n\r\n"  # the header block that answers a request nobody listens to


def info(document: bytes) -> bytes:
    """INFO with a JSON object."""
    return b"INFO %b\r\n" % document


def error(text: str) -> bytes:
    """-ERR. Control characters in `text` (it may quote a subject) become blanks: the line must stay one line."""
    return b"-ERR '%b'\r\n" % "".join(char if char.isprintable() else " " for char in text).encode()


def msg(subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> bytes:
    """MSG; `reply` may be empty."""
    if reply:
        return b"MSG %b %b %b %d\r\n%b\r\n" % (subject, sid, reply, len(payload), payload)
    return b"MSG %b %b %d\r\n%b\r\n" % (subject, sid, len(payload), payload)


def hmsg(subject: bytes, sid: bytes, reply: bytes, header: bytes, payload: bytes) -> bytes:
    """HMSG; `header` is a whole block, `reply` may be empty."""
    size = len(header)
    total = size + len(payload)
    if reply:
        return b"HMSG %b %b %b %d %d\r\n%b%b\r\n" % (subject, sid, reply, size, total, header, payload)
    return b"HMSG %b %b %d %d\r\n%b%b\r\n" % (subject, sid, size, total, header, payload)
