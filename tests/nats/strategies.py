"""Streams a client could send, as hypothesis strategies: (bytes, the frames they are)."""

from __future__ import annotations

from hypothesis import strategies as st

from mq9.nats.frames import Connect, Frame, Ping, Pong, Publish, Subscribe, Unsubscribe

Piece = tuple[bytes, Frame]

TOKENS = st.text("abcdefXYZ0123456789_-$é", min_size=1, max_size=8).map(str.encode)
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=5).map(b".".join)
PATTERNS = st.lists(TOKENS | st.sampled_from([b"*", b">"]), min_size=1, max_size=5).map(b".".join)
BLANKS = st.text(" \t", min_size=1, max_size=3).map(str.encode)
ENDS = st.sampled_from([b"\r\n", b"\n"])
PAYLOADS = st.binary(max_size=60) | st.sampled_from([b"", b"\r\n", b"PUB a 1\r\nx\r\n", b"x" * 5000])
HEADER_LINES = st.lists(st.tuples(TOKENS, st.text("abc :=", max_size=8).map(str.encode)), max_size=3)


def header_block(lines: list[tuple[bytes, bytes]]) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n"


@st.composite
def verbs(draw: st.DrawFn, verb: bytes) -> bytes:
    """The verb in some mixture of cases; most often as clients write it."""
    if draw(st.booleans()):
        return verb
    text = verb.decode()
    return "".join(draw(st.sampled_from([char.lower(), char.upper()])) for char in text).encode()


@st.composite
def _line(draw: st.DrawFn, verb: bytes, words: list[bytes]) -> bytes:
    line = draw(verbs(verb))
    for word in words:
        line += (draw(BLANKS) if draw(st.booleans()) else b" ") + word
    if draw(st.booleans()):
        return line + b"\r\n"
    return line + draw(st.sampled_from([b"", b" ", b"\t "])) + draw(ENDS)


@st.composite
def publishes(draw: st.DrawFn) -> Piece:
    subject, reply, payload = draw(SUBJECTS), draw(SUBJECTS | st.just(b"")), draw(PAYLOADS)
    header = header_block(draw(HEADER_LINES)) if draw(st.booleans()) else b""
    words = [subject, reply] if reply else [subject]
    if header:
        words.append(b"%d" % len(header))
    words.append(b"%d" % (len(header) + len(payload)))
    line = draw(_line(b"HPUB" if header else b"PUB", words))
    return line + header + payload + b"\r\n", Publish(subject, reply, header, payload)


@st.composite
def others(draw: st.DrawFn) -> Piece:
    kind = draw(st.sampled_from(["PING", "PONG", "SUB", "UNSUB", "CONNECT"]))
    if kind == "PING":
        return draw(_line(b"PING", [])), Ping()
    if kind == "PONG":
        return draw(_line(b"PONG", [])), Pong()
    if kind == "SUB":
        subject, queue, sid = draw(PATTERNS), draw(TOKENS | st.just(b"")), draw(TOKENS)
        return draw(_line(b"SUB", [subject, queue, sid] if queue else [subject, sid])), Subscribe(subject, queue, sid)
    if kind == "UNSUB":
        sid, most = draw(TOKENS), draw(st.integers(0, 10**6))
        return draw(_line(b"UNSUB", [sid, b"%d" % most] if most else [sid])), Unsubscribe(sid, most)
    return b'CONNECT {"verbose":false}\r\n', Connect(b'{"verbose":false}')


PIECES = publishes() | others()
GREETING: Piece = (b"CONNECT {}\r\n", Connect(b"{}"))
CONVERSATIONS = st.lists(PIECES, max_size=12).map(lambda pieces: [GREETING, *pieces])

# Almost protocol: what a careless or hostile peer makes of it.
VERBS_AND_WORDS = b"PUB HPUB SUB UNSUB CONNECT PING PONG pub a a.b * > {} 0 1 12 -1 5 99999999999 +OK".split()
BETWEEN = [b" ", b"  ", b"\t", b"\r", b"\n", b"\r\n", b"\x00", b"NATS/1.0\r\n\r\n", b"x" * 1100, b"x" * 4100]
WORDS = st.sampled_from([*VERBS_AND_WORDS, *BETWEEN])
JUNK = st.lists(WORDS | st.binary(max_size=20), max_size=40).map(b"".join)
