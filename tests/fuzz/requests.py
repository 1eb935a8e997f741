"""Requests a careless or hostile client could make, as hypothesis strategies: (command with its tail, headers, body)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from hypothesis import strategies as st

from broker_node.router.dispatch import command_table
from mq9.protocol import requests as bodies
from mq9.registry.requests import DiscoverRequest


class Asked(NamedTuple):
    """One request: what follows `$mq9.AI.`, the raw header block, the body."""

    command: bytes
    header: bytes
    body: bytes


TABLE = command_table()
NAMES = st.sampled_from(["box", "work", "public.box", "gone", "a", "agent", "b" * 128])
TAILS = st.one_of(
    NAMES.map(str.encode),
    st.sampled_from([b"", b".", b"..", b"box.1", b"box.2", b"box.999999999999999999999", b"box.*", b">", b"box.high"]),
    st.sampled_from([b"box.high.1", b"box.\xff\xfe", "büx".encode(), b"BOX", b"box-1", b"x" * 300, b"box.-1", b"box.1.2"]),
    st.just(b".".join([b"t"] * 30)),
    st.binary(min_size=1, max_size=40).map(lambda raw: bytes(byte for byte in raw if byte > 32 and byte != 127)),
)

# Values of every JSON kind, at the edges of what numbers, texts and nesting can be.
NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e12, 1e15, 1e16, 1e308, 1e-300]),
)
TEXTS = st.one_of(
    NAMES,
    st.sampled_from(["", "earliest", "latest", "from_id", "from_time", "text", "base64", "single", "cumulative", "memory"]),
    st.sampled_from(["lmdb", "mq9://host/box", "mq9://", "a,b,,c", "online", "any", "auto", "semantic"]),
    st.sampled_from(["\x00", "\ud7ff", "𝒳" * 50, "x" * 600]),
    st.text(max_size=20),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)

# The fields a command knows, and a few it does not.
AGENT_FIELDS = (
    "name", "mailbox", "payload", "agent_card", "ttl", "heartbeat", "status", "state", "tags", "agent_id", "description",
    "skills", "mail_address", "agent_info",
)  # fmt: skip
FIELDS = {
    (b"MAILBOX", b"CREATE"): bodies.CreateRequest.__struct_fields__,
    (b"MAILBOX", b"LS"): bodies.ListRequest.__struct_fields__,
    (b"MSG", b"FETCH"): bodies.FetchRequest.__struct_fields__,
    (b"MSG", b"ACK"): bodies.AckRequest.__struct_fields__,
    (b"MSG", b"QUERY"): bodies.QueryRequest.__struct_fields__,
    (b"AGENT", b"DISCOVER"): DiscoverRequest.__struct_fields__,
    (b"AGENT", b"REGISTER"): AGENT_FIELDS,
    (b"AGENT", b"REPORT"): AGENT_FIELDS,
    (b"AGENT", b"UNREGISTER"): AGENT_FIELDS,
}
CONFIG = st.dictionaries(st.sampled_from(bodies.FetchConfig.__struct_fields__), SCALARS, max_size=6)

HEADER_NAMES = st.sampled_from(
    ["mq9-priority", "mq9-key", "mq9-delay", "mq9-ttl", "mq9-tags", "mq9-msg-id", "MQ9-KEY", "mq9-key ", "traceparent", "mq9-"]
)
HEADER_VALUES = st.one_of(
    st.sampled_from(["critical", "high", "low", "", " ", "0", "1", "1.5", "-1", "nan", "inf", "1e9", "31536001"]),
    st.sampled_from(["99999999999999", "a,b", "," * 100, "x" * 300, "k", "k2", "é", ":", "a:b", "\t"]),
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20),
)
HEADERS = st.one_of(
    st.just(b""),
    st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=5).map(
        lambda lines: b"NATS/1.0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in lines) + b"\r\n"
    ),
    st.binary(max_size=60).map(lambda raw: b"NATS/1.0" + raw + b"\r\n\r\n"),
)


def dumped(value: Any) -> bytes:
    """JSON as Python writes it, which goes beyond JSON: NaN, Infinity, lone surrogates."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def json_bodies(draw: st.DrawFn, command: tuple[bytes, bytes]) -> bytes:
    known = FIELDS.get(command, ())
    fields: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(known), unique=True, max_size=6)) if known else ():
        fields[name] = draw(CONFIG | VALUES if name == "config" else VALUES)
    if draw(st.booleans()):
        fields |= draw(st.dictionaries(TEXTS, VALUES, max_size=3))
    return dumped(fields)


DEEP = st.sampled_from([b"[" * 5000, b'{"config":' * 3000, b'{"a":' * 200 + b"1" + b"}" * 200, b"[" * 70 + b"]" * 70])
NOT_OBJECTS = st.sampled_from(
    [b"", b" ", b"null", b"[]", b"0", b'"x"', b"{", b"}", b'{"a"', b"\xff", b"\xef\xbb\xbf{}", b"{}x"]
)
WORDS = st.sampled_from([b"MSG", b"SEND", b"x", b"", b"MAILBOX", b"AGENT", b"PUBLIC", b"LIST"])


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """Mostly commands of the table with bodies that are nearly right; some that are neither."""
    noun, verb = command = draw(st.sampled_from(sorted(TABLE)))
    body = draw(json_bodies(command) | json_bodies(command) | NOT_OBJECTS | DEEP | st.binary(max_size=60))
    words = [noun, verb]
    if draw(st.integers(0, 30)) == 0:
        words = draw(st.lists(WORDS, max_size=4))
    elif TABLE[command].has_tail or draw(st.integers(0, 9)) == 0:
        words.append(draw(NAMES.map(str.encode) | TAILS))
    return Asked(b".".join(words), draw(HEADERS), body)


CONVERSATIONS = st.lists(asked(), min_size=1, max_size=12)
