"""SIGTERM under load: the server says goodbye to everybody, keeps what it acknowledged, and exits 0."""

from __future__ import annotations

import asyncio
from collections import Counter
from statistics import median

import pytest

from tests.chaos.actors import Consumer, Editor, Member, Registrar, Sender
from tests.chaos.audit import find, repeat, sample
from tests.chaos.ledger import judge
from tests.chaos.tally import report
from tests.chaos.world import World, caller, create
from tests.conftest import MakeServer
from tests.support.server import ServerProcess

ROUNDS = 3
LONG_ROUNDS = 60
DAY_S = 86_400


async def storm(server: ServerProcess, rounds: int, received: Counter[int]) -> tuple[World, list[float]]:
    world = World(server)
    ledger = world.ledger
    for seed in range(4):
        world.add(Sender(ledger, seed, "work", window=32), Consumer(ledger, seed, "work", "builders"))
    world.add(Sender(ledger, 10, "jobs", window=8), *(Member(ledger, seed, "jobs", "crew", received) for seed in range(3)))
    world.add(Editor(ledger, 20, "notes"), Registrar(ledger, 30))
    await world.connect()
    times_s = []
    for _ in range(rounds):
        await world.acknowledged(2000)
        took_s, code = await world.drain()
        assert code == 0, server.log
        times_s.append(took_s)
    await world.finish()
    return world, times_s


def drains(server: ServerProcess, rounds: int) -> None:
    create(server, "work", "jobs", "notes")
    received: Counter[int] = Counter()
    world, times_s = asyncio.run(storm(server, rounds, received))
    call = caller(server.raw())
    claims = world.ledger.claims()
    found = find(call, ["work", "jobs", "notes"], [("work", "builders")], agents=True)
    repeat(call, sample(claims, ["work", "jobs"]), found)
    tally = judge(claims, found)
    for actor in world.actors:
        for each in actor.again if isinstance(actor, Consumer) else ():
            tally.wrong("again", each)
    jobs = [msg_id for msg_id, _ in found.messages["jobs"]]
    left = len([msg_id for msg_id in jobs if not received[msg_id]])
    twice = sum(received[msg_id] > 1 for msg_id in jobs)
    figures = f"queue group: {len(jobs):,} jobs, {left} pushed to nobody, {twice} pushed twice"
    times = f"SIGTERM to exit: median {median(times_s):.2f} s, longest {max(times_s):.2f} s"
    report(f"SIGTERM under load, {rounds} rounds", tally, figures, times, dict(world.ledger.refusals))
    tally.check()
    assert world.ledger.refusals.keys() <= {"UNAVAILABLE"}, dict(world.ledger.refusals)
    assert twice == 0


def test_sigterm_under_load_ends_cleanly_and_loses_nothing(start_server: MakeServer) -> None:
    drains(start_server(dedup_window_s=DAY_S, embedding="none"), ROUNDS)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_drains_lose_nothing(start_server: MakeServer) -> None:
    drains(start_server(dedup_window_s=DAY_S, embedding="none"), LONG_ROUNDS)
