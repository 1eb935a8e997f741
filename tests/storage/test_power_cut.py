"""A power cut at any moment loses nothing that was acknowledged, and one that ignores fsync does: the replay can tell."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.storage.processes import ROOT, Checker, command
from tests.support import powercut
from tests.support.powercut import Trace

COMMITS = 150
CUTS = 120
LONG_COMMITS = 1000
LONG_CUTS = 3000


@pytest.fixture(scope="module", autouse=True)
def _strace() -> None:
    reason = powercut.unavailable()
    if reason:
        pytest.skip(reason)


def record(directory: Path, commits: int, *options: str) -> Trace:
    """The trace of a store process that committed and acknowledged `commits` times."""
    trace_file = directory / "trace"
    storm = command("storm", str(directory / "data"), str(commits), *options)
    subprocess.run(powercut.strace_command(storm, trace_file), cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=600)
    return Trace.parse(trace_file, directory / "data")


def replay(trace: Trace, directory: Path, cuts: int, seed: int) -> Counter[str]:
    """What was found after each cut: `intact`, `lost`, `refused` (or died): counted by outcome."""
    outcomes: Counter[str] = Counter()
    after = directory / "after"
    with Checker() as checker:
        for cut in powercut.power_cuts(trace, directory / "data", cuts, seed):
            cut.write_to(after)
            acknowledged = [int(number) for number in re.findall(rb"ack (\d+)", cut.output())]
            [answer] = checker.ask(after)
            verdict, _, rest = answer.partition(" ")
            if verdict != "ok":
                outcomes["refused: " + rest.partition(" ")[0]] += 1
            elif int(rest) < max(acknowledged, default=0):
                outcomes["lost"] += 1
            else:
                outcomes["intact"] += 1
    return outcomes


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_power_cut_loses_nothing_acknowledged(tmp_path: Path, mode: str) -> None:
    trace = record(tmp_path, COMMITS, mode)
    assert replay(trace, tmp_path, CUTS, seed=1) == {"intact": CUTS}


def test_without_sync_the_replay_finds_losses(tmp_path: Path) -> None:
    """The positive control: a replay that finds nothing here would find nothing anywhere."""
    trace = record(tmp_path, COMMITS, "nosync")
    outcomes = replay(trace, tmp_path, CUTS // 4, seed=1)
    assert outcomes["intact"] < CUTS // 8, outcomes


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_power_cuts_lose_nothing_acknowledged(tmp_path: Path) -> None:
    trace = record(tmp_path, LONG_COMMITS, "inline")
    assert replay(trace, tmp_path, LONG_CUTS, seed=2) == {"intact": LONG_CUTS}
