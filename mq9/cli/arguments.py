"""How the words of a command line become values: durations, headers, payloads."""

from __future__ import annotations

import re
import sys
from typing import Final

import typer

_UNITS_S: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw]?)")


def duration(text: str) -> float:
    """Seconds: `90`, `90s`, `1.5h`, `7d`."""
    match = _DURATION.fullmatch(str(text).strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration like 90, 90s, 15m, 1.5h or 7d")
    return float(match[1]) * _UNITS_S[match[2]]


def header(text: str) -> str:
    """A header as `Name: value`, checked."""
    name, colon, _ = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"{text!r} is not a header like 'Name: value'")
    return text


def headers(texts: list[str] | None) -> dict[str, str]:
    """Headers given one by one, as a dict."""
    split = (text.partition(":") for text in texts or [])
    return {name.strip(): value.strip() for name, _, value in split}


def payload(given: str | None) -> bytes:
    """The payload of a message: the argument, or standard input when there is none or it is `-`."""
    if given is not None and given != "-":
        return given.encode()
    if sys.stdin.isatty():
        sys.stderr.write("reading the payload from the terminal; end with Ctrl-D\n")
    return sys.stdin.buffer.read()


def moment(text: str) -> float:
    """A time as seconds since 1970: `15m` ago, `2026-01-31` or `2026-01-31T12:00+01:00`, or the seconds themselves.

    A date without a zone is in local time; a number of 1e12 and more is milliseconds, which the broker tells by itself.
    """
    from datetime import datetime  # noqa: PLC0415  # few commands take a time

    given = str(text).strip()
    match = _DURATION.fullmatch(given.lower())
    if match is not None and match[2]:
        return datetime.now().astimezone().timestamp() - duration(given)
    try:
        return float(given) if match is not None else datetime.fromisoformat(given).astimezone().timestamp()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time like 15m (ago), 2026-01-31T12:00 or 1767225600") from None
