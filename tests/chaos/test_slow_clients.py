"""Clients that do not read, beside clients that do: the others' requests are answered, jobs go to those who take them, and the
server's memory stays within what one connection may hold."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from statistics import quantiles

import pytest

from tests.chaos.ledger import Ledger, body_of
from tests.chaos.tally import report
from tests.chaos.teller import Teller
from tests.conftest import MakeServer
from tests.support.raw import RawClient
from tests.support.server import ServerProcess

SLOW = 20
SENDS = 400
STORED = 200
BIG = "!50"  # a body of 50 KiB
PENDING = 1024 * 1024


@pytest.fixture
def server(start_server: MakeServer) -> ServerProcess:
    server = start_server(embedding="none", max_pending=PENDING)
    teller = Teller.of(server, Ledger())
    for mailbox in ("big", "mine", "jobs"):
        teller.ask("MAILBOX.CREATE", {"name": mailbox})
    for number in range(STORED):
        teller.send("big", f"big{number}{BIG}")
    return server


def resident_mib(server: ServerProcess) -> int:
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") // (1 << 20)


def send_and_time(teller: Teller, prefix: str) -> list[float]:
    """SENDs one at a time; how long each took, in milliseconds."""
    times = []
    for number in range(SENDS):
        began_s = time.perf_counter()
        assert not teller.send("mine", f"{prefix}{number}")["error"]
        times.append((time.perf_counter() - began_s) * 1000)
    return times


def p99(times: list[float]) -> str:
    return f"{quantiles(times, n=100)[98]:.1f} ms"


def never_reads(server: ServerProcess) -> list[RawClient]:
    """Connections that ask for much and read nothing: core messages, FETCH replies, replays."""
    clients = []
    for number in range(SLOW):
        client = server.raw()
        if number % 2:
            client.sub(b"news.>")
            client.sub(b"$mq9.AI.MAILBOX.MSG.big.*")
        else:
            inbox = b"_INBOX.slow%d" % number
            client.sub(inbox)
            body = json.dumps({"deliver": "from_id", "from_id": 1, "config": {"num_msgs": 1000}}).encode()
            for _ in range(50):
                client.pub(b"$mq9.AI.MSG.FETCH.big", body, reply=inbox)
        clients.append(client)
    return clients


def test_clients_that_read_nothing_cost_the_others_nothing(server: ServerProcess) -> None:
    teller = Teller.of(server, Ledger())
    alone = send_and_time(teller, "alone")
    before_mib = resident_mib(server)
    slow = never_reads(server)
    publisher, reader = server.raw(), server.raw()
    reader.sub(b"news.>")
    reader.flush()
    for number in range(200):
        publisher.pub(b"news.today", b"%d " % number + b"x" * 50_000)
        assert reader.expect(b"MSG").payload.startswith(b"%d " % number)
    beside = send_and_time(teller, "beside")
    grown_mib = resident_mib(server) - before_mib
    times = f"SEND p99 {p99(alone)} alone, {p99(beside)} beside them"
    report(f"{SLOW} clients that read nothing", times, f"{grown_mib} MiB more")
    # Each may hold what is pending, what one more reply is, and the pieces of it on their way.
    assert grown_mib < SLOW * 12
    for client in slow:
        client.close()


def test_jobs_go_to_the_members_that_take_them(server: ServerProcess) -> None:
    """Members of a queue group that stopped reading hold up what their sockets had room for, and nothing else; each job
    comes to exactly one member."""
    members = [server.raw() for _ in range(3)]
    for client in members:
        client.sub(b"$mq9.AI.MAILBOX.MSG.jobs.*", b"crew")
        client.flush()
    worker, *stuck = members
    teller = Teller.of(server, Ledger())
    names = [f"job{number}{BIG}" for number in range(3 * STORED)]
    done: list[bytes] = []
    for name in names:
        assert not teller.send("jobs", name)["error"]
        done += [frame.payload for frame in worker.flush()]
    done += take_all(teller, [worker])
    held = take_all(teller, stuck)
    figures = f"{len(names)} jobs, {len(done)} to the one that reads, {len(held)} to them later"
    report("two members that stopped reading", figures)
    assert sorted(done + held) == sorted(body_of(name) for name in names)
    assert len(done) > STORED, "those who read nothing do not get everything"


def take_all(teller: Teller, members: list[RawClient]) -> list[bytes]:
    """What is pushed to these members, until three rounds in a row bring nothing."""
    taken: list[bytes] = []
    quiet = 0
    while quiet < 3:
        teller.wait(20)
        frames = [frame.payload for client in members for frame in client.flush()]
        taken += frames
        quiet = 0 if frames else quiet + 1
    return taken
