"""What holds for one server holds for a cluster of three: the tests of one server, run against three with `pytest --cluster`.

The selection here is what a CI run has time for; `make cluster` runs every test that uses a server.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.server import ROOT

TIMEOUT_S = 600
# Commands, both dialects, core NATS, pushes, the Python client: most on the cluster of the whole run, which is started once.
SELECTION = (
    "tests/transcripts/test_transcripts.py",
    "tests/client/test_commands.py",
    "tests/client/test_compat.py",
    "tests/push/test_replay.py",
    "tests/push/test_claims.py",
    "tests/interop/test_both_dialects.py",
    # Brokers that stop together: nothing that a member took is handed out again.
    "tests/push/test_killed_server.py::test_a_server_that_is_stopped_hands_everything_out_once[quiet]",
)
OWN_SERVER = "auth or limits or naming or max-payload or encoding-pinned or agents-listing or public or extended"


def run(*arguments: str) -> str:
    """pytest in a process of its own; its output. Fails with it when a test failed."""
    command = [sys.executable, "-m", "pytest", "--cluster", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"
    return done.stdout


@pytest.mark.timeout(TIMEOUT_S)
def test_three_brokers_answer_as_one() -> None:
    said = run(*SELECTION, "-k", f"not ({OWN_SERVER})")
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) > 50, said
