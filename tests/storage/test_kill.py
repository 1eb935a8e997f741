"""kill -9 under load: what was acknowledged is there at the next start, and nothing half done."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.storage.processes import ROOT, Checker, command

ROUNDS = 12
LONG_ROUNDS = 300


def kill_rounds(directory: Path, rounds: int, *options: str) -> int:
    """Start the storm, let it acknowledge a while, kill it, check: again and again. Returns the commits acknowledged."""
    rng = random.Random(3)
    acknowledged = 0
    with Checker() as checker:
        for _ in range(rounds):
            storm = subprocess.Popen(
                command("storm", str(directory), "1000000", *options), cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            with storm:
                assert storm.stdout is not None
                for _ in range(rng.randint(1, 80)):
                    acknowledged = int(storm.stdout.readline().removeprefix("ack "))
                storm.kill()
                for line in storm.stdout:  # acknowledged between the last line read and the end
                    if line.endswith("\n"):
                        acknowledged = int(line.removeprefix("ack "))
            [answer] = checker.ask(directory)
            assert answer.startswith("ok "), answer
            found = int(answer.removeprefix("ok "))
            assert found >= acknowledged, f"{acknowledged - found} acknowledged commits are lost"
    return acknowledged


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_kill_9_under_load_loses_nothing_acknowledged(tmp_path: Path, mode: str) -> None:
    assert kill_rounds(tmp_path / "data", ROUNDS // 2, mode) > ROUNDS


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_kill_9_lose_nothing_acknowledged(tmp_path: Path) -> None:
    assert kill_rounds(tmp_path / "data", LONG_ROUNDS, "inline") > LONG_ROUNDS
