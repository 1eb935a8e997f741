"""The examples and `mq9` as a user runs them: as processes, and at a terminal of their own."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.support.process import Process, StartError
from tests.support.server import ROOT, environment

EXAMPLES = ROOT / "docs" / "examples"
MQ9 = [sys.executable, "-m", "mq9.cli"]
TIMEOUT_S = 60.0  # only a failing test waits this long

# Makes the terminal on standard input the controlling one, so that its Ctrl-C becomes a SIGINT, and becomes the command.
AT_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


def user_environment(url: str) -> dict[str, str]:
    """What a user who talks to the server at `url` has set."""
    return {**environment({}), "MQ9_URL": url}


def mq9_lines(url: str, *arguments: str) -> list[str]:
    """Run one `mq9` command that succeeds; the lines it printed."""
    done = subprocess.run(
        [*MQ9, *arguments], env=user_environment(url), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"mq9 {' '.join(arguments)} exited {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout.splitlines()


class Example:
    """One example as a process, with everything it starts. `lines` is what it printed, as far as it was read."""

    def __init__(self, name: str, url: str, directory: Path, *arguments: str) -> None:
        # Warnings are errors: an example that leaves a task or a connection behind is a bad one.
        command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]
        self._process = Process(command, directory / f"{name}.log", user_environment(url))
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self._process.spawn()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def read_to(self, pattern: str) -> str:
        """Read on to a line in which `pattern` is found, and return it."""
        while True:
            try:
                line = self._process.read_line(TIMEOUT_S).rstrip("\n")
            except StartError as end:
                said = "\n".join(self.lines)
                raise AssertionError(f"no line with {pattern!r}, but\n{said}\n{end}") from None
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def finish(self) -> str:
        """Let it end by itself, with exit code 0; its last line, which is its result."""
        self.read_to("^result: ")
        code = self._process.wait()
        assert code == 0, f"exit code {code}\n" + "\n".join(self.lines) + self.log
        return self.lines[-1]

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return self._process.log


class Terminal:
    """A command at a pseudo-terminal, as a person sits in front of one."""

    def __init__(self, url: str, *command: str) -> None:
        self._command = command
        self._url = url
        self._screen = bytearray()

    def __enter__(self) -> Self:
        self._keyboard, other_side = os.openpty()
        self._popen = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, *self._command],
            stdin=other_side, stdout=other_side, stderr=other_side,
            env={**user_environment(self._url), "TERM": "xterm"}, start_new_session=True,
        )  # fmt: skip
        os.close(other_side)
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        os.close(self._keyboard)

    @property
    def screen(self) -> str:
        """All that was shown so far."""
        return self._screen.decode(errors="replace").replace("\r\n", "\n")

    def read_to(self, text: str, timeout_s: float = TIMEOUT_S) -> str:
        """Wait until `text` is on the screen; what is there then."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._keyboard, selectors.EVENT_READ)
            while text not in self.screen:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                assert ready, f"{text!r} did not come; the screen:\n{self.screen}"
                self._screen += self._read()
        return self.screen

    def _read(self) -> bytes:
        try:
            data = os.read(self._keyboard, 4096)
        except OSError:  # how Linux says that nobody has the other side open any more
            data = b""
        assert data, f"the command ended with {self._popen.wait(TIMEOUT_S)}; the screen:\n{self.screen}"
        return data

    def type(self, keys: bytes) -> None:
        """What the person types; b"\\x03" is Ctrl-C."""
        os.write(self._keyboard, keys)

    def wait(self) -> int:
        """The exit code, once the command has ended."""
        return self._popen.wait(TIMEOUT_S)
