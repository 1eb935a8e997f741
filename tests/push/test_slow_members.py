"""Members that stop reading: they keep what was said to them, the others do the rest, and their share when they are gone."""

from __future__ import annotations

import json
import socket
import struct
import time
import urllib.request
from typing import Any

import pytest

from mq9.limits import PUSH_WINDOW_BYTES
from tests.push.mail import difference, fill, make, member, numbers, read, read_all, read_to_end
from tests.support.raw import RawClient
from tests.support.server import ServerProcess

COUNT = 400
SIZE_BYTES = 64 * 1024  # together several times what a kernel keeps of one connection by itself
KERNEL_BYTES_MAX = 4 * PUSH_WINDOW_BYTES  # what it keeps of a member's: a window, what is on its way, what is not read yet
ALL = list(range(1, COUNT + 1))
TIMEOUT_S = 30.0

RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: what a killed process with unread data does to its connection


def unclaimed(client: RawClient, box: str) -> int:
    [group] = client.call(b"$mq9.AI.MAILBOX.INFO." + box.encode())["groups"]
    return int(group["lag"]) - int(group["unacked"])


def connection(server: ServerProcess, client: RawClient) -> dict[str, Any] | None:
    """What the monitor of the process it is connected to says of a connection; None when it is gone."""
    for url in server.monitor_urls:
        with urllib.request.urlopen(url + "/connz?limit=1000", timeout=TIMEOUT_S) as answer:  # noqa: S310  # our own server
            page = json.load(answer)
        if page["server_id"] == client.info["server_id"]:
            return next((row for row in page["connections"] if row["cid"] == client.info["client_id"]), None)
    return None


def run_until_gone(server: ServerProcess, client: RawClient) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while connection(server, client) is not None:
        assert time.monotonic() < deadline, "the server keeps the connection"


def share_with_a_stalled_member(server: ServerProcess, box: str) -> tuple[RawClient, RawClient, list[int]]:
    """Two members share a mailbox of jobs and one of them does not read. Both, and what the other got, when every job has been
    handed to one of them."""
    stalled, _ = member(server, box, b"workers", is_slow=True)
    stalled.flush()
    busy, _ = member(server, box, b"workers")
    asking = server.raw()
    got: list[int] = []
    for first in range(0, COUNT, 20):
        fill(server, box, ALL[first : first + 20], SIZE_BYTES)
        got += numbers(busy.flush())
    while unclaimed(asking, box):
        got += numbers(busy.flush())
    # A commit that comes after the last confirmation's.
    asking.call(b"$mq9.AI.MAILBOX.REMOVE." + str(asking.call(b"$mq9.AI.MAILBOX.CREATE")["mail_address"]).encode())
    return stalled, busy, got + numbers(busy.flush())


def test_a_member_that_stalls_keeps_its_jobs_and_nobody_elses(shared_server: ServerProcess, box: str) -> None:
    stalled, busy, got = share_with_a_stalled_member(shared_server, box)
    assert len(got) > COUNT / 2
    kept = read(stalled, COUNT - len(got))
    assert difference(ALL, got + kept) == ([], [])
    assert busy.flush() == stalled.flush() == []


@pytest.mark.server(write_deadline_s=1)
def test_the_jobs_of_a_member_that_the_server_gives_up_go_to_the_others(server: ServerProcess) -> None:
    """Its socket took nothing for too long. What is left in it can still be read; everything else is for the others."""
    make(server, "slow.deadline")
    stalled, busy, got = share_with_a_stalled_member(server, "slow.deadline")
    run_until_gone(server, stalled)
    fill(server, "slow.deadline", [COUNT + 1], SIZE_BYTES)
    kept = read_to_end(stalled)
    assert kept
    assert difference([*ALL, COUNT + 1], got + list(read_all(busy, COUNT + 1)) + kept) == ([], [])


def test_the_jobs_of_a_stalled_member_survive_a_server_that_stops(server: ServerProcess) -> None:
    """What its connection still held counted as delivered, and was dropped."""
    make(server, "slow.stop")
    stalled, _, got = share_with_a_stalled_member(server, "slow.stop")
    server.stop()
    got += read_to_end(stalled)
    server.close_clients()
    server.start()
    fill(server, "slow.stop", [COUNT + 1], SIZE_BYTES)
    got += read_all(member(server, "slow.stop", b"workers")[0], COUNT + 1)
    assert difference([*ALL, COUNT + 1], got) == ([], [])


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this kernel takes as much as it likes")
def test_the_jobs_of_a_member_that_dies_go_to_the_others_but_for_what_the_kernel_had_taken(
    shared_server: ServerProcess, box: str
) -> None:
    stalled, busy, got = share_with_a_stalled_member(shared_server, box)
    stalled.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    stalled.close()
    run_until_gone(shared_server, stalled)
    fill(shared_server, box, [COUNT + 1], SIZE_BYTES)
    more = list(read_all(busy, COUNT + 1))
    assert len(more) > 1
    lost, duplicated = difference(ALL, got + more)
    assert duplicated == []
    assert len(lost) * SIZE_BYTES <= KERNEL_BYTES_MAX


def test_a_plain_subscriber_that_stalls_costs_a_window_and_misses_nothing(shared_server: ServerProcess, box: str) -> None:
    fill(shared_server, box, ALL, SIZE_BYTES)
    stalled, _ = member(shared_server, box, is_slow=True)
    assert stalled.next_frame().verb == b"HMSG"  # 1, and the rest is on its way
    fill(shared_server, box, [COUNT + 1], SIZE_BYTES)
    row = connection(shared_server, stalled)
    assert row is not None
    assert row["pending_bytes"] <= 2 * (PUSH_WINDOW_BYTES + SIZE_BYTES)
    assert list(read_all(stalled, COUNT + 1)) == [*ALL[1:], COUNT + 1]
