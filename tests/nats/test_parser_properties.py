"""However a stream is cut, the same frames come out; and whatever the bytes are, nothing but a ProtocolError does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9.nats.frames import Frame
from tests.nats import strategies
from tests.nats.reading import cut, read
from tests.nats.strategies import Piece

PLACES = st.lists(st.integers(0, 1 << 30), max_size=20)


@given(strategies.CONVERSATIONS, PLACES)
def test_frames_do_not_depend_on_where_the_stream_is_cut(pieces: list[Piece], places: list[int]) -> None:
    data = b"".join(data for data, _ in pieces)
    expected: tuple[list[Frame], str] = ([frame for _, frame in pieces], "")
    assert read([data]) == expected
    assert read(data[i : i + 1] for i in range(len(data))) == expected
    assert read(cut(data, places)) == expected


@pytest.mark.fuzz
@given(strategies.JUNK, PLACES)
def test_junk_ends_the_same_way_however_it_is_cut(junk: bytes, places: list[int]) -> None:
    """Fuzz target: only ProtocolError may leave the parser, and the same one for every way to cut the stream."""
    for data in (junk, b"CONNECT {}\r\n" + junk):
        whole = read([data])
        by_byte = read(data[i : i + 1] for i in range(len(data)))
        assert read(cut(data, places)) == whole == by_byte


@pytest.mark.fuzz
@given(strategies.CONVERSATIONS, st.integers(0, 1 << 30), st.integers(0, 255))
def test_one_wrong_byte_ends_the_same_way_however_it_is_cut(pieces: list[Piece], place: int, value: int) -> None:
    """Fuzz target: a valid stream with one byte changed is read, or refused, alike in one piece and byte by byte."""
    data = bytearray(b"".join(data for data, _ in pieces))
    data[place % len(data)] = value
    assert read([bytes(data)]) == read(bytes(data[i : i + 1]) for i in range(len(data)))
