"""What the rules allow keeps every acknowledged record, in thousands of schedules; without any one precaution it does not."""

from __future__ import annotations

import os

import pytest

from tests.meta.replication import RecordLost, run

STEPS = 3000
RUNS = 40
LONG_RUNS = int(os.environ.get("MQ9_META_SCHEDULES", "5000"))


def run_many(runs: int, broken: str = "") -> None:
    commits = elections = alters = 0
    for seed in range(runs):
        world = run(seed, STEPS, broken)
        commits += world.commits
        elections += world.elections
        alters += world.alters
    print(f"{runs} schedules: {commits} records acknowledged, {elections} elections, {alters} changes of in-sync sets")  # noqa: T201
    assert min(commits, elections, alters) > runs, "the schedules must let something happen"


def test_no_acknowledged_record_is_lost() -> None:
    run_many(RUNS)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_acknowledged_record_is_lost_in_many_schedules() -> None:
    run_many(LONG_RUNS)


@pytest.mark.parametrize(
    "broken",
    ["forgets who is added", "shrinks early", "no compare", "any incarnation", "same disk id"],
)
def test_the_schedules_find_a_broken_rule(broken: str) -> None:
    with pytest.raises(RecordLost):
        run_many(400, broken)
