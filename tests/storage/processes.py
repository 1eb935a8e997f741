"""Starting the programs of programs.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.storage.programs", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, however it ends."""
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


class Checker:
    """The `check` or `inspect` program, started again when a damaged directory has ended it."""

    def __init__(self, program: str = "check") -> None:
        self._program = program
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def ask(self, directory: Path, lines: int = 1) -> list[str]:
        """The lines the program answers with; the one during which it died is `died CODE`, and the last."""
        if self._process is None:
            self._process = subprocess.Popen(
                command(self._program),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{directory}\n")
        self._process.stdin.flush()
        answers: list[str] = []
        while len(answers) < lines:
            answers.append(self._process.stdout.readline().strip())
            if not answers[-1]:
                return [*answers[:-1], f"died {self._stop()}"]
        return answers

    def _stop(self) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        with process:
            if process.stdin is not None:
                process.stdin.close()
        return process.returncode
