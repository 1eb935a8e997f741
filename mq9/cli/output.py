"""What commands print: tables for people, tab-separated lines for pipes, JSON for programs.

Standard output has the answer and nothing else; progress and problems go to standard error. Colours and boxes are for
terminals, and not even there when NO_COLOR is set.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mq9.errors import Mq9Error

if TYPE_CHECKING:
    from rich.progress import Progress

    from mq9.client.message import Message


def line(text: str) -> None:
    """One line of the answer."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line beside the answer, on standard error."""
    sys.stderr.write(text + "\n")


def as_json(value: object) -> None:
    """One JSON object on one line, written at once: a reader of a pipe sees it when it happens."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def problem(failure: Mq9Error, *, as_json: bool) -> None:
    """An error: in JSON mode as a reply of the broker would carry it."""
    if as_json:
        sys.stdout.write(json.dumps({"error": failure.text, "code": failure.code}) + "\n")
        return
    note(f"error: {failure}")
    for extra in getattr(failure, "__notes__", ()):
        note(extra)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under column titles; for a pipe tab-separated and without titles."""
    if not sys.stdout.isatty():
        for row in rows:
            line("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console  # noqa: PLC0415  # only terminals pay for it
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    shown = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(escape(str(cell)) for cell in row))
    Console().print(shown)


def fields(values: dict[str, object]) -> None:
    """Names and values, one a line."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        line(f"{name:<{width}}  {value}" if sys.stdout.isatty() else f"{name}\t{value}")


def progress(description: str, total: int | None) -> Progress:
    """A progress bar on standard error, silent off a terminal; use it as a context."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    bar.add_task(description, total=total)
    return bar


def time_text(seconds: float) -> str:
    """A time since 1970 for people, in local time; 0 is never."""
    from datetime import UTC, datetime  # noqa: PLC0415

    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(sep=" ", timespec="seconds") if seconds else "never"


def span_text(seconds: float) -> str:
    """A span of time for people, in its two largest units: 3m12s."""
    rest, text = int(seconds), ""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if text:
            return f"{text}{count}{unit}"
        text = f"{count}{unit}" if count else ""
    return text or "0s"


def size_text(size_bytes: float) -> str:
    """A size for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


# --- Messages ---------------------------------------------------------------------------------------------------


def message_json(message: Message) -> dict[str, Any]:
    """A message as JSON. A payload that is UTF-8 is text, any other base64; `payload_encoding` says which."""
    try:
        payload, encoding = message.payload.decode(), "text"
    except UnicodeDecodeError:
        payload, encoding = base64.b64encode(message.payload).decode(), "base64"
    return {
        "msg_id": message.msg_id,
        "priority": str(message.priority),
        "create_time": message.create_time,
        "create_time_ms": message.create_time_ms,
        "payload": payload,
        "payload_encoding": encoding,
        "headers": message.headers,
        "key": message.key,
        "tags": message.tags,
        "deliveries": message.deliveries,
        "expires_at": message.expires_at,
    }


def message_text(message: Message) -> None:
    """A message for people: one line of what is known about it, its headers, its payload."""
    known = [f"#{message.msg_id}", str(message.priority), time_text(message.create_time)]
    if message.key:
        known.append(f"key={message.key}")
    if message.tags:
        known.append(f"tags={','.join(message.tags)}")
    if message.deliveries > 1:
        known.append(f"deliveries={message.deliveries}")
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    line(f"{bold}{'  '.join(known)}{plain}")
    for name, value in message.headers.items():
        line(f"{name}: {_printable(value)}")
    line(_printable(message.text) + "\n")
    sys.stdout.flush()


def _printable(text: str) -> str:
    """Text of a stranger for a terminal: control characters could repaint it."""
    if not sys.stdout.isatty():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)


def message_raw(message: Message) -> None:
    """The payload as it is, ended by a newline."""
    sys.stdout.buffer.write(message.payload + b"\n")
    sys.stdout.buffer.flush()
