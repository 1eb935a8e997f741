"""Header blocks: read leniently, written strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9.nats import headers
from mq9.nats.frames import ProtocolError

NAMES = st.text("abcXYZ-_.!", min_size=1, max_size=8).map(str.encode)
VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12).map(lambda text: text.strip().encode())


def test_an_empty_block() -> None:
    assert headers.parse(headers.EMPTY) == headers.Headers(0, b"", ())
    assert headers.build() == headers.EMPTY


def test_names_match_in_any_case_and_values_are_trimmed() -> None:
    block = headers.parse(b"NATS/1.0\r\nMQ9-Key:  a b \t\r\nmq9-key:second\r\nother:\r\n\r\n")
    assert block.fields == ((b"MQ9-Key", b"a b"), (b"mq9-key", b"second"), (b"other", b""))
    assert block.get(b"mq9-KEY") == b"a b"
    assert block.get_all(b"Mq9-Key") == [b"a b", b"second"]
    assert block.get(b"Other", b"default") == b""
    assert block.get(b"absent", b"default") == b"default"


@pytest.mark.parametrize(
    ("first", "status", "description"),
    [
        (b"NATS/1.0", 0, b""),
        (b"NATS/1.0 503", 503, b""),
        (b"NATS/1.0 503 ", 503, b""),
        (b"NATS/1.0   404  No Messages ", 404, b"No Messages"),
    ],
)
def test_the_status_line(first: bytes, status: int, description: bytes) -> None:
    block = headers.parse(first + b"\r\n\r\n")
    assert (block.status, block.description, block.fields) == (status, description, ())


def test_a_line_without_a_colon_or_a_name_is_skipped() -> None:
    assert headers.parse(b"NATS/1.0\r\nnonsense\r\n : x\r\na: b:c\r\n\r\n").fields == ((b"a", b"b:c"),)


@pytest.mark.parametrize(
    "block", [b"", b"NATS/1.0", b"NATS/1.0\r\n", b"NATS/1.1\r\n\r\n", b"HTTP/1.0\r\n\r\n", b"NATS/1.0\r\na: b\r\n"]
)
def test_what_is_not_a_block(block: bytes) -> None:
    with pytest.raises(ProtocolError, match="Invalid Message Header"):
        headers.parse(block)


@pytest.mark.parametrize(
    "field",
    [
        (b"a", b"x\r\nb: y"),
        (b"a", b"x\ny"),
        (b"a", b"x\ry"),
        (b"a\r\nb", b"x"),
        (b"a:b", b"x"),
        (b"a b", b"x"),
        (b"", b"x"),
        (b"a", b"\x00"),
    ],
)
def test_a_field_that_would_break_out_of_its_line_is_refused(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ProtocolError) as refusal:
        headers.build([field])
    assert not refusal.value.closes
    with pytest.raises(ProtocolError):
        headers.build(status=503, description=field[1] if field[1] != b"x" else b"\r\n")


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), st.sampled_from([0, 100, 204, 503]))
def test_what_is_built_is_read_back(fields: list[tuple[bytes, bytes]], status: int) -> None:
    block = headers.parse(headers.build(fields, status))
    assert (list(block.fields), block.status) == (fields, status)


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_only_a_protocol_error_leaves_the_reader(junk: bytes) -> None:
    """Fuzz target: any bytes between a good first line and a good end."""
    for block in (junk, b"NATS/1.0\r\n" + junk + b"\r\n\r\n"):
        try:
            headers.parse(block)
        except ProtocolError:
            continue
