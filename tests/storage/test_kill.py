"""kill -9 under load: what was acknowledged is there at the next start, and nothing half done."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.storage.processes import ROOT, Checker, command

ROUNDS = 12
LONG_ROUNDS = 100


def storm_and_kill(directory: Path, acknowledgements: int, *options: str) -> int:
    """Kill a storm that has acknowledged so many commits; the number of the last one it acknowledged."""
    storm = subprocess.Popen(command("storm", str(directory), "1000000", *options), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with storm:
        assert storm.stdout is not None
        try:
            lines = [storm.stdout.readline() for _ in range(acknowledgements)]
        finally:
            storm.kill()
        lines += storm.stdout  # what it acknowledged before the signal came
    return max(int(line.removeprefix("ack ")) for line in lines if line.endswith("\n"))


def kill_rounds(directory: Path, rounds: int, *options: str) -> int:
    """Storm, kill, check: again and again. Returns the commits acknowledged."""
    rng = random.Random(3)
    acknowledged = 0
    with Checker() as checker:
        for _ in range(rounds):
            acknowledged = storm_and_kill(directory, rng.randint(1, 80), *options)
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
