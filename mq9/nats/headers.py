"""Header blocks: `NATS/1.0[ status[ description]]`, lines of `Name: value`, a blank line.

Names compare without regard to case and keep the spelling they came with; values lose blanks around them. An empty block
is valid. Reading is lenient (a line without a colon is skipped, as clients do); writing refuses everything that another
reader could take for more than one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from mq9.nats.frames import INVALID_HEADER, ProtocolError

VERSION: Final = b"NATS/1.0"
EMPTY: Final = b"NATS/1.0\r\n\r\n"

_STATUS: Final = re.compile(rb"NATS/1\.0(?:[ \t]+([0-9]{3})(?:[ \t]+([^\r\n]*))?)?[ \t]*\r\n")
_FIELD: Final = re.compile(rb"([^:\r\n]+):[ \t]*([^\r\n]*)\r\n")
_NAME: Final = re.compile(rb"[!-9;-~]+").fullmatch  # visible ASCII without the colon
_UNSAFE: Final = re.compile(rb"[\r\n\x00]").search


class Headers(msgspec.Struct, frozen=True, gc=False):
    """A parsed block. `fields` keeps order, spelling and repetitions; `status` is 0 when the first line has none."""

    status: int
    description: bytes
    fields: tuple[tuple[bytes, bytes], ...]

    def get(self, name: bytes, default: bytes = b"") -> bytes:
        """The first value of `name` in any case."""
        wanted = name.lower()
        return next((value for key, value in self.fields if key.lower() == wanted), default)

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value of `name` in any case, in order."""
        wanted = name.lower()
        return [value for key, value in self.fields if key.lower() == wanted]


def parse(block: bytes) -> Headers:
    """The fields of a block. Raises ProtocolError when it does not begin like one or does not end in a blank line."""
    match = _STATUS.match(block)
    if match is None or not block.endswith(b"\r\n\r\n"):
        raise ProtocolError(INVALID_HEADER)
    fields = tuple(
        (name.strip(b" \t"), value.rstrip(b" \t")) for name, value in _FIELD.findall(block, match.end()) if name.strip(b" \t")
    )
    return Headers(int(match[1] or 0), (match[2] or b"").rstrip(b" \t"), fields)


def build(fields: Iterable[tuple[bytes, bytes]] = (), status: int = 0, description: bytes = b"") -> bytes:
    """A block with these fields. Raises ProtocolError (not closing) for a name or value that would break out of its line."""
    first = b"%b %d %b" % (VERSION, status, description) if status else VERSION
    lines = [first.rstrip(b" ")]
    for name, value in fields:
        if _NAME(name) is None or _UNSAFE(value):
            raise ProtocolError(INVALID_HEADER, closes=False)
        lines.append(b"%b: %b" % (name, value))
    if _UNSAFE(description):
        raise ProtocolError(INVALID_HEADER, closes=False)
    return b"\r\n".join(lines) + b"\r\n\r\n"
