"""A program of the chaos tests, a process of its own because a damaged file may end it: python -m tests.chaos.programs

For each line of input, a JSON object {directory, mailboxes, groups, agents, repeats, wall_ms}: opens a broker on that
directory at that time and answers with one line, a JSON object: what `audit` found there, or {"error": text}.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from mq9.errors import Mq9Error
from mq9.testing.broker import InProcessBroker
from mq9.testing.clock import ManualClock
from tests.chaos.audit import find, repeat
from tests.chaos.ledger import Found
from tests.support.raw import header_block

ROOT = Path(__file__).resolve().parents[2]
DAY_S = 86_400


class Task(msgspec.Struct):
    """One directory to look at. `repeats`: (mailbox, name) of messages to send again."""

    directory: str
    mailboxes: list[str]
    groups: list[tuple[str, str]]
    wall_ms: int
    agents: bool = True
    repeats: list[tuple[str, str]] = []


class Result(msgspec.Struct):
    """What was found, or why nothing could be."""

    found: Found | None = None
    error: str = ""


def look(task: Task) -> Found:
    broker = InProcessBroker(task.directory, clock=ManualClock(task.wall_ms), dedup_window_s=DAY_S, embedding="none", sync=False)
    try:
        client = broker.client()

        def call(command: str, body: Any, headers: dict[str, str] | None) -> dict[str, Any]:
            return client.command(command, b"" if body is None else body, header_block(headers) if headers else b"")

        found = find(call, task.mailboxes, task.groups, agents=task.agents)
        repeat(call, task.repeats, found)
        return found
    finally:
        broker.close()


def main() -> None:
    for line in sys.stdin:
        try:
            result = Result(look(msgspec.json.decode(line, type=Task)))
        except Mq9Error as failure:
            result = Result(error=f"{failure.code} {failure.text}")
        os.write(1, msgspec.json.encode(result) + b"\n")


class Looker:
    """The program, started again when a directory has ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def look(self, task: Task) -> Result:
        if self._process is None:
            command = [sys.executable, "-m", "tests.chaos.programs"]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(task) + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            return Result(error=f"died {self._stop()}")
        return msgspec.json.decode(answer, type=Result)

    def _stop(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with process:
            if process.stdin is not None:
                process.stdin.close()
        return process.returncode


if __name__ == "__main__":
    main()
