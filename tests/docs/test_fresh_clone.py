"""What a new user does first: clone, `make run`. Installs for real, so it belongs to the long tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import Process
from tests.support.server import parse_ready

ROOT = Path(__file__).parents[2]
INSTALL_TIMEOUT_S = 900.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]


def _make(clone: Path, *arguments: str) -> Process:
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS", "PYTHONPATH")}
    command = ["make", "-C", str(clone), *arguments, f"PYTHON={sys.executable}"]
    return Process(command, clone / "make.log", env, log_to_output=True)


def _run_until_ready(clone: Path, timeout_s: float) -> None:
    """`make run`, until the ready line; then SIGTERM as from a terminal, and exit code 0."""
    run = _make(clone, "run", "ARGS=--port 0 --monitor-port 0")
    run.spawn()
    line = ""
    while "ready nats://" not in line:
        line = run.read_line(timeout_s)
    ready = parse_ready(line)
    assert ready.data == str(clone / "mq9-data")
    run.drain_output()
    # make is the server's parent: the signal goes to the whole process group, as Ctrl-C does.
    os.killpg(run.pid, 2)
    run.wait()


def test_make_run_from_a_clean_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, timeout=60)
    _run_until_ready(clone, INSTALL_TIMEOUT_S)
    # The second time nothing is installed.
    stamp = (clone / ".venv" / ".installed").stat().st_mtime_ns
    _run_until_ready(clone, 30.0)
    assert (clone / ".venv" / ".installed").stat().st_mtime_ns == stamp
