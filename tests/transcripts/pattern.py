"""What a transcript says a server answers, compared with what it answered.

Texts hold placeholders, `<kind>` or `<kind:name>`. A named one keeps what it matched first: later on it must match the
same again, and in a `C>` line it is replaced by it.

    <int>      a whole number                     <mailbox>  26 characters of a-z and 0-9
    <ms>       now, in milliseconds since 1970    <str>      any text
    <s>        now, in seconds since 1970         <any>      anything
    <s+60>     60 seconds from now (also <ms+N>)  <float>    a number

"Now" is within two minutes. A text that begins with `{` is JSON: order and white space are free, the keys are not,
unless the object has the key "..."; numbers are written as strings of one placeholder ("msg_id":"<int>").
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

NOW_TOLERANCE_S = 120
PLACEHOLDER = re.compile(r"<(?P<kind>int|ms|s|mailbox|str|any|float)(?P<shift>[+-]\d+)?(?::(?P<name>\w+))?>")
TEXT_PATTERNS = {
    "int": r"-?\d+",
    "ms": r"\d+",
    "s": r"\d+",
    "mailbox": r"[a-z0-9]{26}",
    "str": ".*?",
    "any": ".*?",
    "float": "[-+.0-9e]+",
}
ESCAPES = re.compile(r"\\(r|n|t|\\|x[0-9a-fA-F]{2})")
CONTROL = re.compile(r"[\\\x00-\x1f\x7f-\xff]")


class Mismatch(Exception):
    """What was expected and what came, as text."""


class Variables:
    """The named placeholders of one run of one transcript."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def fill(self, text: str) -> str:
        """`text` with its named placeholders replaced, and `<s>`, `<ms>`, `<s+N>`, `<ms+N>` by the time."""

        def value(match: re.Match[str]) -> str:
            if match["name"] and match["name"] in self.values:
                return self.values[match["name"]]
            assert match["kind"] in ("s", "ms"), f"{match[0]} has no value yet"
            filled = str(_now(match["kind"]) + _shift(match))
            if match["name"]:
                self.values[match["name"]] = filled
            return filled

        return PLACEHOLDER.sub(value, text)

    def take(self, match: re.Match[str], actual: str) -> None:
        """Note `actual` for a named placeholder. Raises Mismatch when it had another value before."""
        name = match["name"]
        if name and self.values.setdefault(name, actual) != actual:
            raise Mismatch(f"{match[0]} was {self.values[name]!r} before and is {actual!r} now")
        if match["kind"] in ("s", "ms"):
            _check_time(match, int(actual))


def _now(kind: str) -> int:
    return int(time.time() * (1000 if kind == "ms" else 1))


def _shift(match: re.Match[str]) -> int:
    return int(match["shift"] or 0)


def _check_time(match: re.Match[str], actual: int) -> None:
    scale = 1000 if match["kind"] == "ms" else 1
    if abs(actual - _now(match["kind"]) - _shift(match)) > NOW_TOLERANCE_S * scale:
        raise Mismatch(f"{actual} is not {match[0]}")


def unescape(text: str) -> bytes:
    r"""The bytes of a line: \r, \n, \t, \\ and \xNN are what they are in Python; everything else is UTF-8."""

    def byte(match: re.Match[str]) -> str:
        code = match[1]
        named = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}
        return named[code] if code in named else chr(int(code[1:], 16))

    parts = ESCAPES.split(text)
    # split() alternates plain text and the escape's code.
    whole = b""
    for index, part in enumerate(parts):
        whole += part.encode() if index % 2 == 0 else ESCAPES.sub(byte, "\\" + part).encode("latin-1")
    return whole


def escape(data: bytes) -> str:
    """The line that stands for these bytes: the inverse of `unescape`."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
        return CONTROL.sub(_escaped, text)
    return re.sub(r"[\\\x00-\x1f\x7f]", _escaped, text)


def _escaped(match: re.Match[str]) -> str:
    named = {"\r": r"\r", "\n": r"\n", "\t": r"\t", "\\": "\\\\"}
    return named.get(match[0], f"\\x{ord(match[0]):02x}")


def match_text(expected: str, actual: bytes, variables: Variables) -> None:
    """Compare one line. Raises Mismatch."""
    pieces: list[str] = []
    placeholders: list[re.Match[str]] = []
    end = 0
    for found in PLACEHOLDER.finditer(expected):
        pieces += [re.escape(expected[end : found.start()]), f"({TEXT_PATTERNS[found['kind']]})"]
        placeholders.append(found)
        end = found.end()
    pieces.append(re.escape(expected[end:]))
    text = escape(actual)
    match = re.fullmatch("".join(pieces), text)
    if match is None:
        raise Mismatch(f"expected {expected!r}\n     got {text!r}")
    for placeholder, value in zip(placeholders, match.groups(), strict=True):
        variables.take(placeholder, value)


def match_payload(expected: str, actual: bytes, variables: Variables) -> None:
    """Compare a payload: as JSON when the expectation begins with a brace, else as a line. Raises Mismatch."""
    if not expected.startswith("{"):
        match_text(expected, actual, variables)
        return
    try:
        value = json.loads(actual)
    except ValueError:
        raise Mismatch(f"expected JSON {expected}\n     got {actual!r}") from None
    try:
        match_json(json.loads(expected), value, variables, "$")
    except Mismatch as mismatch:
        raise Mismatch(f"{mismatch}\nexpected {expected}\n     got {json.dumps(value)}") from None


def match_json(expected: Any, actual: Any, variables: Variables, where: str) -> None:
    """Compare two JSON values. Raises Mismatch that says where they differ."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        _match_object(expected, actual, variables, where)
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            raise Mismatch(f"{where}: {len(expected)} expected, {len(actual)} there")
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            match_json(one, other, variables, f"{where}[{index}]")
    elif isinstance(expected, str) and (placeholder := PLACEHOLDER.fullmatch(expected)):
        _match_value(placeholder, actual, variables, where)
    elif isinstance(expected, str) and isinstance(actual, str):
        match_text(escape(expected.encode()), actual.encode(), variables)
    elif type(expected) is not type(actual) or expected != actual:
        raise Mismatch(f"{where}: expected {json.dumps(expected)}, got {json.dumps(actual)}")


def _match_object(expected: dict[str, Any], actual: dict[str, Any], variables: Variables, where: str) -> None:
    open_ended = "..." in expected
    missing = expected.keys() - actual.keys() - {"..."}
    extra = set() if open_ended else actual.keys() - expected.keys()
    if missing or extra:
        raise Mismatch(f"{where}: without {sorted(missing)}, unexpectedly with {sorted(extra)}")
    for key in expected.keys() - {"..."}:
        match_json(expected[key], actual[key], variables, f"{where}.{key}")


def _match_value(placeholder: re.Match[str], actual: Any, variables: Variables, where: str) -> None:
    kind = placeholder["kind"]
    whole = isinstance(actual, int) and not isinstance(actual, bool)
    fits = {
        "int": whole,
        "ms": whole,
        "s": whole,
        "float": whole or isinstance(actual, float),
        "str": isinstance(actual, str),
        "mailbox": isinstance(actual, str) and re.fullmatch(TEXT_PATTERNS["mailbox"], actual) is not None,
        "any": True,
    }
    if not fits[kind]:
        raise Mismatch(f"{where}: {json.dumps(actual)} is not {placeholder[0]}")
    variables.take(placeholder, actual if isinstance(actual, str) else json.dumps(actual))
