"""Coverage-guided fuzzing of the parser with atheris: run by test_fuzz_long.py, or by hand for as long as you like:

    python -m tests.nats.fuzz_parser -max_total_time=3600 [CORPUS_DIRECTORY]

Only ProtocolError may leave the parser, and a stream must be read alike whole, byte by byte, and cut in three.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["mq9.nats"]):
    from mq9.nats import connect, headers
    from mq9.nats.frames import Connect, ProtocolError, Publish
    from tests.nats.reading import read


def one_input(data: bytes) -> None:
    """The target. The first two bytes say where to cut; half of the inputs begin as clients do."""
    places, stream = data[:2], data[2:]
    if places and places[0] & 1:
        stream = b"CONNECT {}\r\n" + stream
    whole = read([stream])
    assert read(stream[i : i + 1] for i in range(len(stream))) == whole
    first, second = sorted(place % (len(stream) + 1) for place in (*places, 0, 0)[:2])
    assert read([stream[:first], stream[first:second], stream[second:]]) == whole
    for frame in whole[0]:
        try:
            if isinstance(frame, Connect):
                connect.decode(frame.body)
            elif isinstance(frame, Publish) and frame.header:
                headers.parse(frame.header)
        except ProtocolError:
            continue


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
