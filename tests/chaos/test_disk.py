"""The disk under a whole server fills up, fails or is slow: what is answered is true, and what can go on does."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.audit import find
from tests.chaos.ledger import Ledger, judge
from tests.chaos.tally import report
from tests.chaos.teller import Teller
from tests.chaos.world import caller
from tests.conftest import MakeServer
from tests.support import powercut
from tests.support.server import COMMAND, ServerProcess
from tests.support.small_disk import mounted_disk

DISK_MB = 256
TRIES = 100
BOX = "box"
GROUP = "readers"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory that is a disk of its own, of DISK_MB."""
    with mounted_disk(tmp_path / "disk", f"{DISK_MB}m") as place:
        yield place


@contextmanager
def filled(place: Path) -> Iterator[None]:
    """The rest of the disk is taken by somebody else, until the block ends."""
    stuff = place / "somebody-elses"
    with stuff.open("wb", buffering=0) as file:
        chunk = bytes(1 << 16)
        while chunk:
            try:
                file.write(chunk)
            except OSError:
                chunk = chunk[: len(chunk) // 2]
    assert os.statvfs(place).f_bavail == 0
    yield
    stuff.unlink()


def send_until_refused(teller: Teller, names: Iterator[str]) -> tuple[list[tuple[str, int]], str]:
    """Send until one is refused: the (name, id) of those that were not, and the code of the refusal."""
    sent: list[tuple[str, int]] = []
    for name in names:
        answer = teller.send(BOX, name)
        if answer["error"]:
            return sent, answer["code"]
        sent.append((name, answer["msg_id"]))
    raise AssertionError("never refused")


def names(prefix: str, kibibytes: int) -> Iterator[str]:
    return (f"{prefix}{number}!{kibibytes}" for number in range(2000))


def send_again(teller: Teller) -> int:
    """Send until a SEND is taken; how many were refused before that."""
    for tries in range(TRIES):
        if not teller.send(BOX, f"after{tries}")["error"]:
            return tries
        teller.wait(50)
    raise AssertionError("SEND does not recover")


def use_while_full(teller: Teller, sent: list[tuple[str, int]]) -> None:
    """What must go on without a byte of room: FETCH of a known and of a new group, ACK, DELETE, QUERY."""
    given = teller.fetch(BOX, GROUP, 10)
    assert given, "FETCH gives nothing while the disk is full"
    assert not teller.ack(BOX, GROUP, given)["error"]
    fresh = teller.fetch(BOX, "newcomers", 5)
    assert len(fresh) == 5
    assert not teller.ack(BOX, "newcomers", fresh)["error"]
    for name, msg_id in sent[-3:]:
        assert not teller.delete(BOX, name, msg_id)["error"]
    assert teller.ask(f"MSG.QUERY.{BOX}", {"limit": 5})["messages"]


def settle(server: ServerProcess, ledger: Ledger, what: str, *figures: object) -> None:
    """Start the server again and judge."""
    server.close_clients()
    server.restart()
    call = caller(server.raw())
    tally = judge(ledger.claims(), find(call, [BOX], [(BOX, GROUP), (BOX, "newcomers")]))
    report(what, tally, dict(ledger.refusals), *figures)
    tally.check()


def test_a_disk_that_somebody_fills_refuses_sends_and_recovers_by_itself(small_disk: Path, start_server: MakeServer) -> None:
    server = start_server(data_dir=str(small_disk / "data"))
    ledger = Ledger()
    teller = Teller.of(server, ledger)
    teller.ask("MAILBOX.CREATE", {"name": BOX})
    sent = [(f"early{number}", teller.send(BOX, f"early{number}")["msg_id"]) for number in range(50)]
    assert teller.ack(BOX, GROUP, teller.fetch(BOX, GROUP, 10))["error"] == ""
    with filled(small_disk):
        more, code = send_until_refused(teller, names("full", 900))
        assert code == "STORAGE_FULL"
        use_while_full(teller, sent + more)
        assert teller.send(BOX, "late!64")["code"] == "STORAGE_FULL"
    tries = send_again(teller)
    settle(server, ledger, "disk filled by somebody else", f"{tries} sends refused after it was free again")


def test_a_mailbox_that_fills_the_disk_makes_room_by_deleting(small_disk: Path, start_server: MakeServer) -> None:
    server = start_server(data_dir=str(small_disk / "data"))
    ledger = Ledger()
    teller = Teller.of(server, ledger)
    teller.ask("MAILBOX.CREATE", {"name": BOX})
    sent, code = send_until_refused(teller, names("fill", 900))
    assert code == "STORAGE_FULL"
    assert len(sent) * 900 > DISK_MB * 1024 / 2, "most of the disk can be used"
    use_while_full(teller, sent)
    for name, msg_id in sent[: len(sent) // 2]:
        assert not teller.delete(BOX, name, msg_id)["error"]
    tries = send_again(teller)
    figures = (f"{len(sent)} messages of 900 KiB", f"{tries} sends refused after deleting")
    settle(server, ledger, "disk filled by a mailbox", *figures)


def test_a_full_disk_takes_no_restart_away(small_disk: Path, start_server: MakeServer) -> None:
    """Killed while the disk is full: it starts again on the full disk, serves, and recovers."""
    server = start_server(data_dir=str(small_disk / "data"))
    ledger = Ledger()
    teller = Teller.of(server, ledger)
    teller.ask("MAILBOX.CREATE", {"name": BOX})
    sent = [(f"early{number}", teller.send(BOX, f"early{number}")["msg_id"]) for number in range(50)]
    with filled(small_disk):
        send_until_refused(teller, names("full", 900))
        server.kill()
        server.close_clients()
        server.start()
        teller = Teller.of(server, ledger)
        use_while_full(teller, sent)
    tries = send_again(teller)
    settle(server, ledger, "killed on a full disk", f"{tries} sends refused after it was free again")


# --- A disk that fails, or is slow --------------------------------------------------------------------------------------


def stop_injected(server: ServerProcess) -> None:
    """End the server that strace runs; strace ends with it."""
    server.close_clients()
    for child in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGTERM)
    assert server.process.wait() == 0, server.log


@pytest.fixture
def injected(tmp_path: Path) -> Iterator[Any]:
    """injected(*expressions) -> a server whose system calls strace tampers with."""
    reason = powercut.unavailable()
    if reason:
        pytest.skip(reason)
    servers: list[ServerProcess] = []

    def start(*expressions: str, **settings: Any) -> ServerProcess:
        options = [word for expression in expressions for word in ("-e", f"inject={expression}")]
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "signal=none", *options]
        values = {"monitor_port": -1, "embedding": "none", **settings}
        server = ServerProcess(tmp_path / f"injected{len(servers)}", command=[*strace, *COMMAND], **values)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        if server.running:
            stop_injected(server)
        server.check_log()


# A commit writes pages, syncs, writes the meta page and notes its number: successive calls of pwrite64 meet each of these.
@pytest.mark.parametrize(
    ("call", "first", "commit"),
    [
        ("fdatasync", 30, "inline"),
        ("fdatasync", 30, "thread"),
        ("pwrite64", 60, "inline"),
        ("pwrite64", 61, "inline"),
        ("pwrite64", 62, "inline"),
        ("pwrite64", 63, "thread"),
    ],
)
def test_a_failing_disk_acknowledges_nothing_and_ends_the_writes(injected: Any, call: str, first: int, commit: str) -> None:
    server = injected(f"{call}:error=EIO:when={first}+", commit=commit, monitor_port=0)
    ledger = Ledger()
    teller = Teller.of(server, ledger)
    teller.ask("MAILBOX.CREATE", {"name": BOX})
    sent, code = send_until_refused(teller, names("x", 1))
    assert sent, "some were acknowledged before the disk failed"
    assert code == "STORAGE_FAILED"
    for number in range(1000):  # over some looks at how full the store is
        assert teller.send(BOX, f"later{number}")["code"] == "STORAGE_FAILED"
    # A disk that fails in the middle of a meta page leaves LMDB unreadable; every other way leaves what is stored readable.
    looked = teller.ask(f"MSG.QUERY.{BOX}", {"limit": 1000})
    assert looked["messages"] if not looked["error"] else looked["code"] == "STORAGE_FAILED"
    assert "no write is accepted any more" in server.log
    with pytest.raises(urllib.error.HTTPError, match="503") as unhealthy:
        urllib.request.urlopen(f"{server.monitor_url}/healthz")  # noqa: S310  # our own server, over http
    with unhealthy.value as page:
        assert json.load(page)["status"] == "unavailable"
    stop_injected(server)
    assert server.log.count("no write is accepted any more") == 1
    healthy = ServerProcess(server.data_dir.parent / "healthy", data_dir=str(server.data_dir))
    healthy.start()
    try:
        tally = judge(ledger.claims(), find(caller(healthy.raw()), [BOX], []))
        report(f"{call} fails from its {first}th call, commits {commit}", tally, dict(ledger.refusals))
        tally.check()
    finally:
        healthy.close_clients()
        assert healthy.stop() == 0


def test_a_slow_disk_slows_senders_and_loses_nothing(injected: Any) -> None:
    """Every sync takes 50 ms more: the commits move to the writer thread, and the loop stays free for others."""
    server = injected("fdatasync:delay_enter=50000")
    ledger = Ledger()
    teller = Teller.of(server, ledger)
    teller.ask("MAILBOX.CREATE", {"name": BOX})
    for number in range(30):
        assert not teller.send(BOX, f"slow{number}")["error"]
    tally = judge(ledger.claims(), find(caller(server.raw()), [BOX], []))
    report("slow disk", tally)
    tally.check()
