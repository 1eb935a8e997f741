"""The whole server loses power at any moment: what it had answered by then holds. Without fsync the replay sees losses.

The real server runs under strace while clients load it. Every cut is judged by the answers that had been written to sockets
before it, and by what a broker finds that is started on what the disk then holds.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.chaos.actors import Consumer, Editor, Pinner, Registrar, Sender
from tests.chaos.audit import sample
from tests.chaos.ledger import Ledger, judge
from tests.chaos.programs import DAY_S, Looker, Task
from tests.chaos.tally import Tally, report
from tests.chaos.world import World, create
from tests.support import powercut
from tests.support.powercut import Cut, Output, Trace
from tests.support.server import COMMAND, ServerProcess

SENDS = 60
CUTS = 40
LONG_SENDS = 400
LONG_CUTS = 1500
MAILBOXES = ("work", "later", "notes", "pinned")
GROUPS = (("work", "builders"), ("later", "builders"), ("pinned", "late"))
ANSWER = re.compile(rb"MSG (_INBOX\.\d+\.\d+) 1 (\d+)\r\n")


@pytest.fixture(scope="module", autouse=True)
def _strace() -> None:
    reason = powercut.unavailable()
    if reason:
        pytest.skip(reason)


class Run(NamedTuple):
    """A server's life under strace."""

    ledger: Ledger
    trace: Trace
    root: Path
    ended_ms: int


class TracedServer(ServerProcess):
    """A server under strace. Signals are for the server; strace ends when it does."""

    def stop(self) -> int:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGTERM)
        return self.process.wait()


def record(directory: Path, sends: int, **settings: Any) -> Run:
    """Load a traced server for a while, and stop it."""
    trace_file = directory / "trace"
    command = powercut.strace_command(COMMAND, trace_file)
    server = TracedServer(
        directory, command=command, monitor_port=-1, dedup_window_s=DAY_S, embedding="none", **settings
    )
    ledger = Ledger()
    server.start()
    try:
        asyncio.run(load(World(server, ledger), sends))
    finally:
        server.close_clients()
        code = server.stop()
    assert code == 0, server.log
    server.check_log()
    return Run(ledger, Trace.parse(trace_file, server.data_dir), server.data_dir, int(time.time() * 1000))


async def load(world: World, sends: int) -> None:
    ledger = world.ledger
    create(world.server, *MAILBOXES)
    world.add(Sender(ledger, 1, "work", window=8, count=2 * sends), Sender(ledger, 2, "work", window=1, count=sends))
    world.add(*(Consumer(ledger, seed, "work", "builders", most=10) for seed in (3, 4)))
    world.add(Sender(ledger, 5, "later", window=2, delay_s=1.0, count=sends // 2), Consumer(ledger, 6, "later", "builders"))
    world.add(Editor(ledger, 7, "notes", count=sends), Registrar(ledger, 8, count=sends // 3))
    world.add(Pinner(ledger, 9, "pinned", "late"))
    await world.connect()
    await world.until(lambda: all(actor.idle for actor in world.actors if not isinstance(actor, Consumer)))
    await world.finish()


def answers_of(run: Run, cut: Cut) -> dict[bytes, Any]:
    """What the server had answered before the cut, of what is in the ledger."""
    said = cut.output()
    answers = {}
    for match in ANSWER.finditer(said):
        reply = match[1]
        if reply in run.ledger.answers:
            answers[reply] = msgspec.json.decode(said[match.end() : match.end() + int(match[2])])
    return answers


def cuts_of(run: Run, count: int, seed: int) -> Iterator[Cut]:
    """Most cuts while the server serves, and some while it starts."""
    ready = next(event for event in run.trace.events if isinstance(event.change, Output) and b" ready nats:" in event.change.data)
    yield from powercut.power_cuts(run.trace, run.root, count // 10, seed)
    yield from powercut.power_cuts(run.trace, run.root, count - count // 10, seed, first_moment=ready.end)


def replay(run: Run, directory: Path, cuts: int, seed: int) -> tuple[Tally, Counter[str]]:
    """Judge each cut. The tally is over all of them; the counter says how they came out."""
    total = Tally()
    outcomes: Counter[str] = Counter()
    after = directory / "after"
    with Looker() as looker:
        for cut in cuts_of(run, cuts, seed):
            claims = run.ledger.claims(answers_of(run, cut))
            cut.write_to(after)
            wall_ms = run.ended_ms + 3_600_000  # whatever was delayed is due
            task = Task(str(after), list(MAILBOXES), list(GROUPS), wall_ms, True, sample(claims, ("work", "later")))
            result = looker.look(task)
            if result.found is None:
                outcomes[f"refused: {result.error.partition(' ')[0]}"] += 1
                total.details.append(f"cut at {cut.moment} ({cut.plan}): {result.error}")
                continue
            tally = judge(claims, result.found)
            outcomes["broken" if tally.broken else "intact"] += 1
            total += tally
    return total, outcomes


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Traces and copies of data files are large: none is kept."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.parametrize("commit", ["inline", "thread"])
def test_a_power_cut_of_the_server_breaks_no_promise(directory: Path, commit: str) -> None:
    run = record(directory, SENDS, commit=commit)
    tally, outcomes = replay(run, directory, CUTS, seed=1)
    report(f"power cut, commits {commit}, {CUTS} cuts", dict(outcomes), tally)
    assert run.ledger.acknowledged >= 3 * SENDS
    assert outcomes == {"intact": CUTS}, str(tally)


def test_without_sync_the_replay_finds_broken_promises(directory: Path) -> None:
    """The positive control: a replay that finds nothing here would find nothing anywhere."""
    run = record(directory, SENDS, sync=False)
    tally, outcomes = replay(run, directory, CUTS // 2, seed=1)
    report(f"power cut without sync, {CUTS // 2} cuts", dict(outcomes), tally)
    assert outcomes["intact"] < CUTS // 4, str(tally)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("commit", ["inline", "thread"])
def test_many_power_cuts_of_the_server_break_no_promise(directory: Path, commit: str) -> None:
    run = record(directory, LONG_SENDS, commit=commit)
    tally, outcomes = replay(run, directory, LONG_CUTS, seed=2)
    report(f"power cut, commits {commit}, {LONG_CUTS} cuts", dict(outcomes), tally)
    assert outcomes == {"intact": LONG_CUTS}, str(tally)
