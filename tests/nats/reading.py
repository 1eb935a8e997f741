"""Feeding a parser in different ways; what it made of the bytes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from mq9.nats.frames import Frame, ProtocolError
from mq9.nats.parser import Parser

MAX_PAYLOAD = 8192


def read(chunks: Iterable[bytes], max_payload: int = MAX_PAYLOAD) -> tuple[list[Frame], str]:
    """(the frames, the text of the error that ended it or empty)."""
    parser = Parser(max_payload)
    frames: list[Frame] = []
    try:
        for chunk in chunks:
            frames.extend(parser.feed(chunk))
    except ProtocolError as error:
        return frames, error.text
    return frames, ""


def connected(*chunks: bytes, max_payload: int = MAX_PAYLOAD) -> tuple[list[Frame], str]:
    """The same for what comes after a CONNECT."""
    frames, error = read((b"CONNECT {}\r\n", *chunks), max_payload)
    return frames[1:], error


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at these places."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]
