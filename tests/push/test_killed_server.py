"""The end of the server under a queue group: stopped, it loses and repeats nothing; killed, it loses nothing.

A job is claimed on disk before it is written to a socket, noted when the socket has taken it, and confirmed on disk with the
next commit (docs/decisions/0006). A kill that falls between a write and its note repeats that one write, marked; nothing else
comes twice. These tests hold that and report what it comes to.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from mq9.limits import PUSH_WINDOW_MESSAGES
from tests.chaos.tally import report
from tests.push.mail import difference, fill, frames_to_end, is_marked, make, member, numbers, read, read_all
from tests.support.raw import Frame, RawClient
from tests.support.server import ServerProcess

MEMBERS = 3
JOBS = 3000  # a round; more than three members are given at once
ROUNDS = 3
LONG_ROUNDS = 50
PAUSE_S = 0.0005

# A member is given 1, 2, 4, ... 128 in one turn, at most, and that is written to its socket at once.
WRITE_MAX = 2 * PUSH_WINDOW_MESSAGES


class Outcome(NamedTuple):
    lost: list[int]
    twice: list[int]
    marked: int  # messages that came with the word that they may have come before
    unmarked_again: list[int]  # those that had come before, and came without it


@contextmanager
def load_beside(is_wanted: bool) -> Iterator[None]:
    """Keep the machine busy."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * is_wanted)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def work_and_end(server: ServerProcess, box: str, count: int, end: Callable[[], object]) -> list[Frame]:
    """Let a group work until one member has read `count` jobs, end the server, take what its kernel still delivers, and start
    it again."""
    members = [member(server, box, b"workers")[0] for _ in range(MEMBERS)]
    got = [members[0].next_frame() for _ in range(count)]
    end()
    got += [frame for each in members for frame in frames_to_end(each)]
    server.close_clients()
    server.start()
    return got


def rounds_of(end: Callable[[], object], server: ServerProcess, rounds: int, *, is_busy: bool = False) -> Outcome:
    """Work and end, again and again."""
    rng = random.Random(7)
    make(server, "ends")
    got: list[Frame] = []
    with load_beside(is_busy):
        for number in range(rounds):
            fill(server, "ends", range(number * JOBS, (number + 1) * JOBS))
            got += work_and_end(server, "ends", rng.randrange(1, JOBS // MEMBERS), end)
    last = rounds * JOBS
    fill(server, "ends", [last])
    heir, _ = member(server, "ends", b"workers")
    while last not in numbers(got[-1:]):
        got.append(heir.next_frame())
    # Whatever happened to this group, the mailbox has them all.
    assert sorted(read_all(member(server, "ends", b"auditors")[0], last)) == list(range(last + 1))
    lost, twice = difference(range(last), numbers(got))
    marked = sum(map(is_marked, got))
    title = f"queue group of {MEMBERS}, {rounds} ends{' of a busy machine' * is_busy}, {last} jobs"
    report(title, f"handed to nobody {len(lost)}", f"twice {len(twice)}", f"marked {marked}")
    return Outcome(lost, twice, marked, unmarked_again(got))


def unmarked_again(got: list[Frame]) -> list[int]:
    """What came again without saying so."""
    seen: set[int] = set()
    found: list[int] = []
    for frame in got:
        [number] = numbers([frame]) or [-1]
        if number in seen and not is_marked(frame):
            found.append(number)
        seen.add(number)
    return found


@pytest.mark.parametrize("is_busy", [False, True], ids=["quiet", "busy"])
def test_a_server_that_is_stopped_hands_everything_out_once(server: ServerProcess, is_busy: bool) -> None:
    """What it had confirmed for members that it was closing reached nobody."""
    assert rounds_of(server.stop, server, ROUNDS, is_busy=is_busy) == ([], [], 0, [])


def talk_and_read(client: RawClient, frames: list[Frame]) -> None:
    """Say something all the time, and take what comes, until the server is gone."""
    is_over = threading.Event()

    def talk() -> None:
        while not is_over.wait(PAUSE_S):
            client.send(b"PING\r\n")

    with ThreadPoolExecutor(1) as beside:
        talking = beside.submit(talk)
        frames += frames_to_end(client)
        client.close()
        is_over.set()
        assert isinstance(talking.exception(), OSError | None)


def test_members_that_talk_while_the_server_stops_get_all_that_was_written_to_them(server: ServerProcess) -> None:
    """What they had said was unread when the server closed their connections, and that resets away what is on its way."""
    make(server, "talk")
    fill(server, "talk", range(JOBS), 1024)
    frames: list[Frame] = []
    with ThreadPoolExecutor(MEMBERS) as readers:
        members = [member(server, "talk", b"workers")[0] for _ in range(MEMBERS)]
        for each in members:
            frames += [frame for frame in each.flush() if frame.verb in (b"MSG", b"HMSG")]  # a PONG: the server knows of them
        reading = [readers.submit(talk_and_read, each, frames) for each in members]
        server.stop()
        for done in reading:
            done.result()
    server.close_clients()
    server.start()
    fill(server, "talk", [JOBS])
    got = numbers(frames) + list(read_all(member(server, "talk", b"workers")[0], JOBS))
    assert difference(range(JOBS), got) == ([], [])


@pytest.mark.parametrize("is_busy", [False, True], ids=["quiet", "busy"])
def test_a_server_that_is_killed_loses_nothing_and_repeats_one_write_at_most(server: ServerProcess, is_busy: bool) -> None:
    """What one commit carried, up to several hundred jobs, was confirmed and had been said to nobody."""
    outcome = rounds_of(server.kill, server, ROUNDS, is_busy=is_busy)
    assert outcome.lost == outcome.unmarked_again == []
    assert len(outcome.twice) <= ROUNDS * WRITE_MAX


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_ends(server: ServerProcess, make_server: Callable[[], ServerProcess]) -> None:
    assert rounds_of(server.stop, server, LONG_ROUNDS) == ([], [], 0, [])
    killed = make_server().start()
    outcome = rounds_of(killed.kill, killed, LONG_ROUNDS)
    assert outcome.lost == outcome.unmarked_again == []
    assert len(outcome.twice) <= LONG_ROUNDS * WRITE_MAX


def test_a_group_that_is_idle_when_the_server_is_killed_gets_everything_once(server: ServerProcess) -> None:
    make(server, "idle")
    got: list[int] = []
    for number in range(4):
        fill(server, "idle", range(number * 100, (number + 1) * 100))
        one, _ = member(server, "idle", b"workers")
        got += read(one, 100)
        one.flush()  # answered by a server that has come back from the write
        server.kill()
        server.start()
        server.close_clients()
    assert got == list(range(400))
