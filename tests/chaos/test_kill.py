"""kill -9 under load and restart, many rounds: what was acknowledged is there, once, and stays acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from statistics import median

import pytest

from tests.chaos.actors import Consumer, Editor, Member, Pinner, Registrar, Sender
from tests.chaos.audit import Call, find, repeat, sample
from tests.chaos.ledger import judge
from tests.chaos.tally import Tally, report
from tests.chaos.world import World, caller, create
from tests.conftest import MakeServer
from tests.support.server import ServerProcess

ROUNDS = 6
LONG_ROUNDS = 200
WORK = ("work.a", "work.b", "work.c")
GROUPS = ("builders", "testers")
LATER = "later"
JOBS = "jobs"
NOTES = "notes"
PINNED = "pinned"
DAY_S = 86_400


def populate(world: World, received: Counter[int]) -> None:
    """Senders and consumers of every kind."""
    ledger = world.ledger
    for seed, mailbox in enumerate(WORK):
        world.add(Sender(ledger, seed, mailbox, window=32), Sender(ledger, 50 + seed, mailbox, window=1))
        world.add(*(Consumer(ledger, seed, mailbox, group) for group in GROUPS for _ in range(2)))
    world.add(Sender(ledger, 100, LATER, window=8, delay_s=3.0), Consumer(ledger, 101, LATER, GROUPS[0]))
    world.add(Sender(ledger, 200, JOBS, window=8), *(Member(ledger, seed, JOBS, "crew", received) for seed in range(3)))
    world.add(Editor(ledger, 300, NOTES), Registrar(ledger, 400), Pinner(ledger, 500, PINNED, "late"))


async def storm(server: ServerProcess, rounds: int, seed: int) -> tuple[World, list[float], Counter[int]]:
    rng = random.Random(seed)
    world = World(server)
    received: Counter[int] = Counter()
    populate(world, received)
    await world.connect()
    restarts_s = []
    for _ in range(rounds):
        await world.acknowledged(rng.randint(50, 4000))
        restarts_s.append(await world.crash())
    await world.finish()
    return world, restarts_s, received


def until_due(call: Call) -> None:
    """Return when no message is delayed any more."""
    body = {"deliver": "latest", "config": {"max_wait_ms": 500}}
    while call(f"MAILBOX.INFO.{LATER}", None, None)["delayed"]:
        call(f"MSG.FETCH.{LATER}", body, None)  # answered when the next one is due


def check(world: World, received: Counter[int]) -> tuple[Tally, str]:
    """The tally over everything, and what the queue group saw, in words."""
    client = world.server.raw()
    call = caller(client)
    until_due(call)
    again = [each for actor in world.actors if isinstance(actor, Consumer) for each in actor.again]
    groups = [(mailbox, group) for mailbox in WORK for group in GROUPS]
    groups += [(LATER, GROUPS[0]), (PINNED, "late")]
    found = find(call, (*WORK, LATER, JOBS, NOTES, PINNED), groups, agents=True)
    claims = world.ledger.claims()
    repeat(call, sample(claims, (*WORK, LATER)), found)
    tally = judge(claims, found)
    for each in again:
        tally.wrong("again", each)
    jobs = [msg_id for msg_id, _ in found.messages[JOBS]]
    missing = sum(received[msg_id] == 0 for msg_id in jobs)
    repeated = sum(received[msg_id] > 1 for msg_id in jobs)
    return tally, f"queue group: {len(jobs):,} jobs, {missing} pushed to nobody, {repeated} pushed twice"


def kill_rounds(server: ServerProcess, rounds: int, seed: int) -> None:
    create(server, *WORK, LATER, JOBS, NOTES, PINNED)
    world, restarts_s, received = asyncio.run(storm(server, rounds, seed))
    tally, jobs = check(world, received)
    times = f"restart median {median(restarts_s):.2f} s, longest {max(restarts_s):.2f} s"
    report(f"kill -9, {rounds} rounds", tally, jobs, times)
    assert not world.ledger.refusals, dict(world.ledger.refusals)
    assert tally.acknowledged > 100 * rounds, str(tally)
    tally.check()


def test_kill_9_under_load_loses_nothing_and_repeats_nothing_acknowledged(start_server: MakeServer) -> None:
    kill_rounds(start_server(dedup_window_s=DAY_S), ROUNDS, seed=1)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_kills_lose_nothing_and_repeat_nothing_acknowledged(start_server: MakeServer) -> None:
    kill_rounds(start_server(dedup_window_s=DAY_S), LONG_ROUNDS, seed=2)
