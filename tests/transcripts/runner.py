r"""Golden transcripts: what a client says and what a server answers, line by line.

    # Title, then what this shows and why it is so. Lines that begin with a hash are comments.
    @server max_payload=2048        this transcript has a server of its own with these settings
    @mq9-only                       (core/ only) nats-server answers otherwise; the comment says why

    C> PUB greet *                  to the server; a size written `*` is counted from the payload line that follows
    C> hello
    S> MSG greet 1 *                from the server; any size will do (the frame's own size is always checked)
    S> hello
    C2> PING                        a second connection; connections open when they are first used
    S2> PONG
    C> (close)                      the client closes
    S2> (closed)                    the server has closed

A connection that does not begin with CONNECT sends a usual one with a PING and reads the PONG first; one whose first
line is not `S> INFO` reads INFO silently, and so are later ones that no line expects. Headers of HPUB and HMSG are lines
up to and with an empty one; a line `...` before that stands for any further headers. Escapes and placeholders: see
pattern.py. `S> ?` stands for one frame that --rewrite-transcripts fills in.

Nothing sleeps. "Nothing comes" is a PING and its PONG. Time passes inside a long poll: SEND with `mq9-delay` to a
mailbox and FETCH it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.raw import Closed, Frame, RawClient
from tests.transcripts.pattern import Mismatch, Variables, escape, match_payload, match_text, unescape

LINE = re.compile(r"(?P<side>[CS])(?P<connection>\d*)>(?: (?P<text>.*))?")
# What differs from run to run, and what a rewritten transcript says instead.
CHANGING = {
    "client_id": "<int>",
    "create_time": "<s>",
    "create_time_ms": "<ms>",
    "last_seen": "<s>",
    "port": "<int>",
    "server_id": "<str>",
    "server_name": "<str>",
    "ts": "<s>",
}
CHANGING_HEADER = re.compile(r"(mq9-create-time: )\d+")


@dataclass
class Step:
    """One frame said or heard: `lines` are its lines as written, without `C>` or `S>`."""

    side: str
    connection: str
    first_line: int  # in the file, from 0
    lines: list[str]

    @property
    def verb(self) -> str:
        return self.lines[0].split(" ", 1)[0]


@dataclass
class Transcript:
    path: Path
    lines: list[str]
    title: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    mq9_only: bool = False
    steps: list[Step] = field(default_factory=list)


class FormatError(Exception):
    """The transcript itself is wrong. Names file and line."""


def read(path: Path) -> Transcript:
    """Parse one file. Raises FormatError."""
    transcript = Transcript(path, path.read_text().splitlines())
    if not transcript.lines or not transcript.lines[0].startswith("# "):
        raise FormatError(f"{path}: the first line is no title (`# ...`)")
    transcript.title = transcript.lines[0][2:]
    number = 0
    while number < len(transcript.lines):
        line = transcript.lines[number]
        if line.startswith("@"):
            _directive(transcript, line)
        elif line and not line.startswith("#"):
            step = _step(transcript, number)
            transcript.steps.append(step)
            number += len(step.lines)
            continue
        number += 1
    return transcript


def _directive(transcript: Transcript, line: str) -> None:
    word, *values = line[1:].split()
    if word == "server" and values:
        transcript.settings.update((value.partition("=")[0], value.partition("=")[2]) for value in values)
    elif word == "mq9-only":
        transcript.mq9_only = True
    else:
        raise FormatError(f"{transcript.path}: no such directive: {line}")


def _step(transcript: Transcript, number: int) -> Step:
    """The step that begins at this line, with the header and payload lines that belong to it."""
    side, connection, text = _parse_line(transcript, number)
    step = Step(side, connection, number, [text])
    words = text.split(" ")
    counted = side == "S" or words[-1] == "*"
    if step.verb in ("PUB", "MSG") and counted:
        _take(transcript, step, 1)
    elif step.verb in ("HPUB", "HMSG") and counted:
        while step.lines[-1] != "":
            _take(transcript, step, 1)
        _take(transcript, step, 1)
    return step


def _take(transcript: Transcript, step: Step, count: int) -> None:
    for _ in range(count):
        number = step.first_line + len(step.lines)
        side, connection, text = _parse_line(transcript, number)
        if (side, connection) != (step.side, step.connection):
            raise FormatError(f"{transcript.path}:{number + 1}: the frame above is not complete")
        step.lines.append(text)


def _parse_line(transcript: Transcript, number: int) -> tuple[str, str, str]:
    line = transcript.lines[number] if number < len(transcript.lines) else ""
    match = LINE.fullmatch(line)
    if match is None:
        raise FormatError(f"{transcript.path}:{number + 1}: neither C> nor S>: {line!r}")
    return match["side"], match["connection"], match["text"] or ""


# --- running -----------------------------------------------------------------------------------------------------


def encode(step: Step, variables: Variables) -> bytes:
    """The bytes of a `C>` step, its `*` sizes counted."""
    lines = [unescape(variables.fill(line)) for line in step.lines]
    if len(lines) == 1:
        return lines[0] + b"\r\n"
    header = b"".join(line + b"\r\n" for line in lines[1:-1])
    payload = lines[-1]
    words = lines[0].split(b" ")
    if step.verb == "HPUB":
        words[-2] = b"%d" % len(header)
    words[-1] = b"%d" % (len(header) + len(payload))
    return b" ".join(words) + b"\r\n" + header + payload + b"\r\n"


def match_frame(step: Step, frame: Frame, variables: Variables) -> None:
    """Compare an `S>` step with the frame that came. Raises Mismatch."""
    verb, _, rest = step.lines[0].partition(" ")
    if verb != frame.verb.decode():
        raise Mismatch(f"expected {step.lines[0]!r}\n     got {render(frame)}")
    if verb == "INFO":
        match_payload(rest, frame.payload, variables)
    elif verb == "-ERR":
        match_text(rest, frame.payload, variables)
    elif verb in ("MSG", "HMSG"):
        _match_message(step, rest, frame, variables)
    elif rest:
        raise Mismatch(f"expected {step.lines[0]!r}, got {frame.verb!r}")


def _match_message(step: Step, rest: str, frame: Frame, variables: Variables) -> None:
    expected = rest.split(" ")
    if len(expected) != len(frame.args):
        raise Mismatch(f"expected {step.lines[0]!r}\n     got {render(frame)}")
    for one, other in zip(expected, frame.args, strict=True):
        if one != "*":
            match_text(one, other, variables)
    header = [escape(line) for line in frame.header.split(b"\r\n")[:-1]]
    expected_header = step.lines[1:-1]
    if "..." in expected_header:
        expected_header.remove("...")
        header = header[: len(expected_header) - 1] + header[-1:]
    if len(header) != len(expected_header):
        raise Mismatch(f"expected headers {expected_header}\n     got {header}")
    for one, line in zip(expected_header, header, strict=True):
        match_text(one, line.encode(), variables)
    match_payload(step.lines[-1], frame.payload, variables)


class Run:
    """One run of one transcript against one server. `open_client` connects and does not read INFO yet."""

    def __init__(self, transcript: Transcript, open_client: Callable[[], RawClient]) -> None:
        self.transcript = transcript
        self.variables = Variables()
        self.differences: dict[int, tuple[Step, list[str]]] = {}
        self._open_client = open_client
        self._clients: dict[str, RawClient] = {}

    def check(self) -> None:
        """Run it; raises AssertionError at the first line that differs."""
        for step in self.transcript.steps:
            try:
                self._do(step)
            except (Mismatch, Closed, TimeoutError) as failure:
                where = f"{self.transcript.path.name}:{step.first_line + 1}"
                said = "\n".join(f"{step.side}{step.connection}> {line}" for line in step.lines)
                raise AssertionError(f"{where}\n{said}\n{type(failure).__name__}: {failure}") from None
        self._check_rest()

    def rewrite(self) -> str:
        """Run it; the transcript's text with every frame that differs as it came."""
        for step in self.transcript.steps:
            if step.side == "S" and not step.lines[0].startswith("("):
                frame = self._hear(step)
                try:
                    match_frame(step, frame, self.variables)
                except Mismatch:
                    self.differences[step.first_line] = (step, render(frame))
            else:
                self._do(step)
        return self._rewritten()

    def _rewritten(self) -> str:
        lines = list(self.transcript.lines)
        for first, (step, came) in sorted(self.differences.items(), reverse=True):
            prefix = f"S{step.connection}>"
            lines[first : first + len(step.lines)] = [f"{prefix} {line}".rstrip() for line in came]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _do(self, step: Step) -> None:
        client = self._client(step)
        text = step.lines[0]
        if text == "(close)":
            client.close()
            del self._clients[step.connection]
        elif text == "(closed)":
            rest = client.expect_closed()
            if rest:
                raise Mismatch(f"before the end came {rest}")
        elif step.side == "C":
            client.send(encode(step, self.variables))
        else:
            match_frame(step, self._hear(step), self.variables)

    def _hear(self, step: Step) -> Frame:
        """The next frame, without an INFO that was not asked about: servers send one whenever they like."""
        client = self._client(step)
        frame = client.frame()
        while frame.verb == b"INFO" and step.verb != "INFO":
            frame = client.frame()
        return frame

    def _client(self, step: Step) -> RawClient:
        client = self._clients.get(step.connection)
        if client is None:
            client = self._clients[step.connection] = self._open_client()
            if step.verb != "INFO":
                client.read_info()
            if step.side == "C" and step.verb != "CONNECT":
                client.connect()
        return client

    def _check_rest(self) -> None:
        """What came and was not written down is a difference too."""
        for name, client in self._clients.items():
            try:
                rest = client.flush()
            except (Closed, OSError):
                continue
            assert not rest, f"{self.transcript.path.name}: at the end, S{name} had more: {[render(frame) for frame in rest]}"


# --- writing -----------------------------------------------------------------------------------------------------


def render(frame: Frame) -> list[str]:
    """The lines of a frame as they stand in a transcript, with placeholders for what differs from run to run."""
    verb = frame.verb.decode()
    if verb in ("INFO", "-ERR"):
        return [f"{verb} {_render_payload(frame.payload)}"]
    if verb not in ("MSG", "HMSG"):
        return [verb]
    sizes = 2 if verb == "HMSG" else 1
    words = [verb, *(escape(arg) for arg in frame.args[:-sizes]), *(["*"] * sizes)]
    header = [CHANGING_HEADER.sub(r"\1<ms>", escape(line)) for line in frame.header.split(b"\r\n")[:-1]]
    return [" ".join(words), *header, _render_payload(frame.payload)]


def _render_payload(payload: bytes) -> str:
    if not payload.startswith(b"{"):
        return escape(payload)
    return json.dumps(_without_changing(json.loads(payload)), separators=(",", ":"), ensure_ascii=False)


def _without_changing(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_changing(item) for item in value]
    if isinstance(value, dict):
        return {key: CHANGING.get(key, _without_changing(item)) for key, item in value.items()}
    return value
