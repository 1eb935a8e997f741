"""A failed test's leftovers are no other test's failure: a run of pytest inside, with the plugin and, as a control, without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT

# What happened in CI: a test ran into its deadline with connections open, another failed later, which freed the traceback of
# the first, and the collector met the connections in a test that has neither.
RUN = """
import asyncio, gc, socket

async def leave():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    links = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    raise TimeoutError("as on a slow machine")

def test_that_runs_into_its_deadline():
    asyncio.run(leave())

def test_innocent():
    gc.collect()

def test_that_fails_by_itself():
    left = socket.create_server(("127.0.0.1", 0))
    assert False

def test_also_innocent():
    gc.collect()

def test_that_leaves_something_and_passes():
    socket.create_server(("127.0.0.1", 0))
"""


@pytest.mark.parametrize(("plugin", "passed"), [(["-p", "tests.support.leftovers"], 2), ([], 0)])
def test_only_the_test_that_left_something_fails(plugin: list[str], passed: int, tmp_path: Path) -> None:
    (tmp_path / "test_run.py").write_text(RUN)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:randomly", "-p", "no:cacheprovider", *plugin]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    counted = re.search(r"3 failed, (\d) passed", done.stdout)
    assert (int(counted[1]) if counted else 0) == passed, done.stdout
