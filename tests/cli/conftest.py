"""`mq9` as a user runs it: a process of its own, with nothing of ours in its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mq9.settings import ENV_PREFIX
from tests.support.server import ServerProcess

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "mq9.cli"]
TIMEOUT_S = 60  # only a failing test waits this long


def environment(**values: str) -> dict[str, str]:
    """This process's environment without any MQ9_ or NATS_ variable, and with `values`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "NATS_"))}
    return {**env, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "COLUMNS": "120", **values}


@dataclass(frozen=True)
class Done:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """`cli("send", "a.box", "hello")` runs the command against `url` and returns what it did."""

    def __init__(self, url: str | None) -> None:
        self.env = environment(**({"MQ9_URL": url} if url else {}))

    def __call__(self, *arguments: str, stdin: str | bytes = b"", **env: str) -> Done:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*COMMAND, *arguments], input=data, capture_output=True, env={**self.env, **env}, timeout=TIMEOUT_S, check=False
        )
        result = Done(done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode())
        assert "Traceback" not in result.err, result.err
        return result

    def ok(self, *arguments: str, stdin: str | bytes = b"") -> Done:
        """The same, for a command that must succeed."""
        done = self(*arguments, stdin=stdin)
        assert done.code == 0, f"{' '.join(arguments)} exited {done.code}: {done.err}{done.out}"
        return done


@pytest.fixture
def cli(shared_server: ServerProcess) -> Cli:
    return Cli(shared_server.url)


@pytest.fixture
def offline() -> Cli:
    """Commands that need no server, or must not find one."""
    return Cli(None)


@pytest.fixture
def box(cli: Cli) -> str:
    """A mailbox of this test alone; it goes by itself."""
    return cli.ok("mailbox", "create", "--ttl", "1h").out.strip()
