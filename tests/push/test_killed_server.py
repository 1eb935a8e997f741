"""kill -9 of the server under a queue group: no job comes twice; what was just being handed out may reach nobody, and is
still in the mailbox.

A job is confirmed before it is written (docs/decisions/0006). Killed in between, what one commit carried is confirmed and
was not said. That is the price of never handing a job out twice; these tests hold its bound and report what it comes to.
"""

from __future__ import annotations

import random

import pytest

from mq9.limits import PUSH_WINDOW_MESSAGES
from tests.chaos.tally import report
from tests.push.mail import difference, fill, make, member, read, read_all, read_to_end
from tests.support.server import ServerProcess

MEMBERS = 3
JOBS = 3000  # a round; more than three members are given at once
ROUNDS = 3
LONG_ROUNDS = 50

# A member is given 1, 2, 4, ... 128 in one turn, and the next turn's share may be on its way to the disk.
IN_FLIGHT_MAX = 2 * MEMBERS * 2 * PUSH_WINDOW_MESSAGES


def handed_out_before_the_kill(server: ServerProcess, box: str, count: int) -> list[int]:
    """Let a group work until one member has read `count` jobs, kill the server, and take what its kernel still delivers."""
    members = [member(server, box, b"workers")[0] for _ in range(MEMBERS)]
    got = read(members[0], count)
    server.kill()
    got += [number for each in members for number in read_to_end(each)]
    server.close_clients()
    server.start()
    return got


def rounds_of_kills(server: ServerProcess, rounds: int) -> None:
    rng = random.Random(7)
    make(server, "killed")
    got: list[int] = []
    for number in range(rounds):
        fill(server, "killed", range(number * JOBS, (number + 1) * JOBS))
        got += handed_out_before_the_kill(server, "killed", rng.randrange(1, JOBS // MEMBERS))
    last = rounds * JOBS
    fill(server, "killed", [last])
    got += read_all(member(server, "killed", b"workers")[0], last)
    lost, duplicated = difference(range(last), got)
    report(f"queue group of {MEMBERS}, {rounds} kills, {last} jobs", f"not handed out {len(lost)}", f"twice {len(duplicated)}")
    assert duplicated == []
    assert len(lost) <= rounds * IN_FLIGHT_MAX
    # They are not gone: another group gets every one.
    assert sorted(read_all(member(server, "killed", b"auditors")[0], last)) == list(range(last + 1))


def test_kill_9_under_a_queue_group_hands_nothing_out_twice(server: ServerProcess) -> None:
    rounds_of_kills(server, ROUNDS)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_kill_9_under_a_queue_group(server: ServerProcess) -> None:
    rounds_of_kills(server, LONG_ROUNDS)


def test_a_group_that_is_idle_when_the_server_is_killed_loses_nothing(server: ServerProcess) -> None:
    make(server, "idle")
    fill(server, "idle", range(100))
    one, _ = member(server, "idle", b"workers")
    got = read(one, 100)
    for number in range(3):
        server.kill()
        server.start()
        server.close_clients()
        fill(server, "idle", range(100 + number * 10, 110 + number * 10))
        got += read(member(server, "idle", b"workers")[0], 10)
    assert got == list(range(130))
