"""What the server says, byte for byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mq9.nats import encoder


def test_messages() -> None:
    assert encoder.msg(b"a", b"1", b"", b"hi") == b"MSG a 1 2\r\nhi\r\n"
    assert encoder.msg(b"a", b"1", b"r", b"") == b"MSG a 1 r 0\r\n\r\n"
    block = b"NATS/1.0\r\nk: v\r\n\r\n"
    assert encoder.hmsg(b"a", b"1", b"", block, b"hi") == b"HMSG a 1 18 20\r\n" + block + b"hi\r\n"
    assert encoder.hmsg(b"a", b"1", b"r", block, b"hi") == b"HMSG a 1 r 18 20\r\n" + block + b"hi\r\n"


def test_no_responders() -> None:
    assert encoder.hmsg(b"r", b"1", b"", encoder.NO_RESPONDERS, b"") == b"HMSG r 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"


def test_info_and_errors() -> None:
    assert encoder.info(b"{}") == b"INFO {}\r\n"
    assert encoder.error("Stale Connection") == b"-ERR 'Stale Connection'\r\n"


@given(st.text(max_size=30))
def test_an_error_stays_one_line(text: str) -> None:
    line = encoder.error(text)
    assert line.endswith(b"'\r\n")
    assert b"\r" not in line[:-2]
    assert b"\n" not in line[:-2]
