"""A power cut of all meta nodes at any moment loses no acknowledged command; without fsync it does, and the replay sees it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support import powercut
from tests.support.powercut import Trace
from tests.support.server import ROOT

NODES = 3
COMMITS = 150
CUTS = 100
LONG_COMMITS = 1500
LONG_CUTS = 2000


@pytest.fixture(scope="module", autouse=True)
def _strace() -> None:
    reason = powercut.unavailable()
    if reason:
        pytest.skip(reason)


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.meta.programs", *arguments]


def record(directory: Path, commits: int, *options: str) -> Trace:
    trace_file = directory / "trace"
    storm = program("storm", str(directory / "data"), str(commits), str(NODES), *options)
    subprocess.run(powercut.strace_command(storm, trace_file), cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=600)
    return Trace.parse(trace_file, directory / "data")


class Checker:
    """The `check` program, started again when a damaged file has ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, directory: Path) -> tuple[str, str]:
        """Verdict and detail; `died` for a file that ends whoever reads it."""
        if self._process is None:
            self._process = subprocess.Popen(
                program("check", str(NODES)),
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{directory}\n")
        self._process.stdin.flush()
        verdict, _, rest = self._process.stdout.readline().strip().partition(" ")
        if not verdict:
            self.close()
        return verdict or "died", rest

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.communicate()


def replay(trace: Trace, directory: Path, cuts: int, seed: int) -> Counter[str]:
    """What the nodes have after each cut: `intact`, `lost`, `refused` or `died`, counted."""
    outcomes: Counter[str] = Counter()
    checker = Checker()
    for cut in powercut.power_cuts(trace, directory / "data", cuts, seed):
        cut.write_to(directory / "after")
        acknowledged = max((int(number) for number in re.findall(rb"ack (\d+)\n", cut.output())), default=0)
        verdict, rest = checker.ask(directory / "after")
        if verdict == "ok":
            verdict = "intact" if int(rest) >= acknowledged else "lost"
        outcomes[verdict] += 1
    checker.close()
    return outcomes


def test_a_power_cut_of_all_nodes_loses_nothing_acknowledged(tmp_path: Path) -> None:
    trace = record(tmp_path, COMMITS)
    assert replay(trace, tmp_path, CUTS, seed=1) == {"intact": CUTS}


def test_without_sync_the_replay_finds_losses(tmp_path: Path) -> None:
    """The positive control: a replay that finds nothing here would find nothing anywhere."""
    trace = record(tmp_path, COMMITS, "nosync")
    outcomes = replay(trace, tmp_path, CUTS // 2, seed=1)
    # Cuts before the first acknowledgement, and plans that keep everything, find nothing missing here either.
    assert outcomes["intact"] < CUTS // 2 * 0.8, outcomes


def test_followers_that_answer_before_their_fsync_are_found_out(tmp_path: Path) -> None:
    """The other positive control: every write is synced here, but one moment too late."""
    trace = record(tmp_path, COMMITS, "hasty")
    outcomes = replay(trace, tmp_path, CUTS, seed=1)
    assert outcomes["lost"] > 0, outcomes


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_power_cuts_lose_nothing_acknowledged(tmp_path: Path) -> None:
    trace = record(tmp_path, LONG_COMMITS)
    assert replay(trace, tmp_path, LONG_CUTS, seed=2) == {"intact": LONG_CUTS}
