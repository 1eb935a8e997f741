"""A server as a child process: start it, wait until it is ready, stop it, kill it, read its log.

Nothing here sleeps: every wait is a read or a `wait` with a deadline.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from pathlib import Path

START_TIMEOUT_S = 30.0  # a machine under load takes seconds to start a Python process
STOP_TIMEOUT_S = 30.0


class StartError(Exception):
    """The process ended, or said nothing, before it was ready. Carries its exit code and its log."""

    def __init__(self, command: list[str], code: int | None, log: str) -> None:
        ended = "did not say it was ready" if code is None else f"exited {code}"
        super().__init__(f"{' '.join(command)} {ended}; its log:\n{log}")
        self.code = code
        self.log = log


class Process:
    """One child process whose log goes to a file. Used through `ServerProcess` and `NatsServer`."""

    def __init__(self, command: list[str], log_path: Path, env: dict[str, str], *, log_to_output: bool = False) -> None:
        """With `log_to_output` standard error comes with standard output, for `read_line`, instead of in the log."""
        self.command = command
        self.log_path = log_path
        self._env = env
        self._log_to_output = log_to_output
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._popen is not None, "not started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def log(self) -> str:
        """Everything the process wrote to its log so far, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def spawn(self) -> None:
        """Start the process with its standard output on a pipe and its standard error in the log."""
        assert not self.running, "already running"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            # Its own session: a Ctrl-C in the terminal reaches pytest alone, which then stops the server properly.
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if self._log_to_output else log,
                env=self._env,
                start_new_session=True,
            )

    def read_line(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """The next line of standard output. Raises StartError at the end of output or when nothing comes."""
        assert self._popen is not None
        assert self._popen.stdout is not None
        deadline = time.monotonic() + timeout_s
        line = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._popen.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._start_error(None)
                byte = os.read(self._popen.stdout.fileno(), 1)
                if not byte:
                    raise self._start_error(self.wait())
                line += byte
        return line.decode()

    def drain_output(self) -> None:
        """Let standard output flow away, so that a talkative process never blocks on a full pipe."""
        assert self._popen is not None
        threading.Thread(target=_discard, args=(self._popen,), daemon=True).start()

    def _start_error(self, code: int | None) -> StartError:
        if code is None:
            self.kill()
        return StartError(self.command, code, self.log)

    def signal(self, number: int) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for the process to end by itself; its exit code (negative: the signal that ended it)."""
        assert self._popen is not None
        code = self._popen.wait(timeout_s)
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        return code

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, wait, and the exit code. Raises TimeoutExpired after killing a process that does not go."""
        assert self._popen is not None
        if self.running:
            self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> int:
        """SIGKILL and wait: what a crash looks like."""
        assert self._popen is not None
        if self.running:
            self.signal(signal.SIGKILL)
        return self.wait()


def _discard(popen: subprocess.Popen[bytes]) -> None:
    assert popen.stdout is not None
    try:
        while popen.stdout.read1(65536):  # type: ignore[attr-defined]  # a pipe of Popen is a BufferedReader
            pass
    except (OSError, ValueError):
        return  # closed by `wait`: the process is gone
