"""The transcripts' own runner: what it accepts, what it catches, what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.raw import Frame
from tests.transcripts.pattern import Mismatch, Variables, escape, match_payload, match_text, unescape
from tests.transcripts.runner import FormatError, Step, encode, match_frame, read, render

MAILBOX = "abcdefghijklmnopqrstuvwx01"


@given(st.binary(max_size=60))
def test_escape_and_unescape_are_inverse(data: bytes) -> None:
    assert unescape(escape(data)) == data


def test_a_named_placeholder_keeps_its_first_value() -> None:
    variables = Variables()
    match_payload('{"a":"<mailbox:m>"}', f'{{"a":"{MAILBOX}"}}'.encode(), variables)
    match_payload('{"b":"at <mailbox:m>"}', f'{{"b":"at {MAILBOX}"}}'.encode(), variables)
    assert variables.fill("PUB x.<mailbox:m> 1") == f"PUB x.{MAILBOX} 1"
    with pytest.raises(Mismatch, match="before"):
        match_payload('{"a":"<mailbox:m>"}', f'{{"a":"{MAILBOX[::-1]}"}}'.encode(), variables)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ('{"a":1}', '{"a":"1"}'),
        ('{"a":1}', '{"a":true}'),
        ('{"a":1}', '{"a":1.0}'),
        ('{"a":1}', '{"a":1,"b":2}'),
        ('{"a":1,"...":0}', '{"b":2}'),
        ('{"a":[1]}', '{"a":[1,2]}'),
        ('{"a":"<int>"}', '{"a":"7"}'),
        ('{"a":"<int>"}', '{"a":true}'),
        ('{"a":"<str>"}', '{"a":null}'),
        ('{"a":"<mailbox>"}', '{"a":"short"}'),
        ('{"a":"<s>"}', '{"a":5}'),
        ('{"a":1}', "not JSON"),
        ("hello", "hello "),
        ("count <int>", "count x"),
        ("a.b", "aXb"),
    ],
)
def test_what_differs_is_a_mismatch(expected: str, actual: str) -> None:
    with pytest.raises(Mismatch):
        match_payload(expected, actual.encode(), Variables())


def test_an_open_object_may_have_more() -> None:
    match_payload('{"a":{"b":1,"...":0},"...":0}', b'{"z":9,"a":{"b":1,"c":[]}}', Variables())


def test_time_is_now_or_shifted() -> None:
    variables = Variables()
    now = int(variables.fill("<s>"))
    match_text("at <s>, <s+3600>, <ms-5>", f"at {now}, {now + 3600}, {now * 1000}".encode(), variables)
    with pytest.raises(Mismatch):
        match_text("<s+3600>", str(now).encode(), variables)


def test_sizes_are_counted() -> None:
    step = Step("C", "", 0, ["HPUB a.b reply * *", "NATS/1.0", "K: v", "", r"\x00\r\n"])
    assert encode(step, Variables()) == b"HPUB a.b reply 18 21\r\nNATS/1.0\r\nK: v\r\n\r\n\x00\r\n\r\n"


def test_a_rendered_frame_matches_itself() -> None:
    frame = Frame(b"HMSG", (b"a.b", b"1", b"reply", b"18", b"20"), b"NATS/1.0\r\nK: v\r\n\r\n", b'{"create_time_ms":5}')
    assert render(frame) == ["HMSG a.b 1 reply * *", "NATS/1.0", "K: v", "", '{"create_time_ms":"<ms>"}']
    plain = Frame(b"MSG", (b"a", b"1", b"2"), b"", b"\xff\\")
    match_frame(Step("S", "", 0, render(plain)), plain, Variables())


def test_further_headers_may_be_left_open() -> None:
    frame = Frame(b"HMSG", (b"a", b"1", b"0", b"0"), b"NATS/1.0 503\r\nNats-Subject: x\r\n\r\n", b"")
    match_frame(Step("S", "", 0, ["HMSG a 1 * *", "NATS/1.0 503", "...", "", ""]), frame, Variables())
    with pytest.raises(Mismatch):
        match_frame(Step("S", "", 0, ["HMSG a 1 * *", "NATS/1.0 503", "", ""]), frame, Variables())


@pytest.mark.parametrize(
    "text",
    ["C> PING\n", "# title\nX> PING\n", "# title\n@unknown\n", "# title\nC> PUB a *\n", "# title\nS> MSG a 1 1\nC> x\n"],
)
def test_a_malformed_transcript_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(FormatError):
        read(path)
