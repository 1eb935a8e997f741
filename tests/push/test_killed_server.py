"""The end of the server under a queue group: stopped, it loses nothing; killed, it hands nothing out twice.

A job is confirmed before it is written (docs/decisions/0006). Killed in between, what one commit carried is confirmed and
was not said. That is the price of never handing a job out twice; these tests hold its bound and report what it comes to.
"""

from __future__ import annotations

import random
from collections.abc import Callable

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


def work_and_end(server: ServerProcess, box: str, count: int, end: Callable[[], object]) -> list[int]:
    """Let a group work until one member has read `count` jobs, end the server, take what its kernel still delivers, and start
    it again."""
    members = [member(server, box, b"workers")[0] for _ in range(MEMBERS)]
    got = read(members[0], count)
    end()
    got += [number for each in members for number in read_to_end(each)]
    server.close_clients()
    server.start()
    return got


def rounds_of(end: Callable[[], object], server: ServerProcess, rounds: int) -> tuple[list[int], list[int]]:
    """Work and end, again and again; which jobs were handed to nobody, and which twice."""
    rng = random.Random(7)
    make(server, "ends")
    got: list[int] = []
    for number in range(rounds):
        fill(server, "ends", range(number * JOBS, (number + 1) * JOBS))
        got += work_and_end(server, "ends", rng.randrange(1, JOBS // MEMBERS), end)
    last = rounds * JOBS
    fill(server, "ends", [last])
    got += read_all(member(server, "ends", b"workers")[0], last)
    # Whatever happened to this group, the mailbox has them all.
    assert sorted(read_all(member(server, "ends", b"auditors")[0], last)) == list(range(last + 1))
    lost, twice = difference(range(last), got)
    report(f"queue group of {MEMBERS}, {rounds} ends, {last} jobs", f"handed to nobody {len(lost)}", f"twice {len(twice)}")
    return lost, twice


# Known and open (docs/decisions/0006): while three members take jobs at full speed and the machine is busy, a stop can
# still leave what one commit carried with a connection that is closing. It holds when the machine is quiet.
@pytest.mark.xfail(strict=False, reason="a stop at full speed can leave a commit's jobs with a closing member")
def test_a_server_that_is_stopped_hands_everything_out_once(server: ServerProcess) -> None:
    """What it had confirmed for members that it was closing reached nobody."""
    assert rounds_of(server.stop, server, ROUNDS) == ([], [])


def test_a_server_that_is_killed_hands_nothing_out_twice(server: ServerProcess) -> None:
    lost, twice = rounds_of(server.kill, server, ROUNDS)
    assert twice == []
    assert len(lost) <= ROUNDS * IN_FLIGHT_MAX


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_ends(server: ServerProcess, make_server: Callable[[], ServerProcess]) -> None:
    assert rounds_of(server.stop, server, LONG_ROUNDS) == ([], [])
    killed = make_server().start()
    lost, twice = rounds_of(killed.kill, killed, LONG_ROUNDS)
    assert twice == []
    assert len(lost) <= LONG_ROUNDS * IN_FLIGHT_MAX


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
