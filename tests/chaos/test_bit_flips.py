"""Bits of a stopped server's data flip: nothing wrong is served, `mq9 verify` names it, and no start loops through crashes."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mq9.storage.directory import LOCK_FILE
from mq9.storage.lmdb_file import DATA_FILE, check_file
from mq9.storage.verify import verify_directory
from tests.chaos.audit import find
from tests.chaos.ledger import Found, Ledger, judge
from tests.chaos.programs import Looker, Task
from tests.chaos.tally import report
from tests.chaos.teller import Teller
from tests.chaos.world import caller
from tests.conftest import MakeServer
from tests.support.process import StartError
from tests.support.server import ServerProcess

MAILBOXES = ("one", "two")
GROUPS = (("one", "readers"), ("two", "readers"))
MESSAGES = 150
FLIPS = 80
LONG_FLIPS = 2000
ROUNDS = 8
LONG_ROUNDS = 100
PAGE = 4096


@pytest.fixture
def filled(start_server: MakeServer) -> tuple[ServerProcess, Ledger]:
    """A server that was used for a while and stopped."""
    server = start_server(embedding="none")
    ledger = Ledger()
    teller = Teller.of(server, ledger)
    for mailbox in MAILBOXES:
        teller.ask("MAILBOX.CREATE", {"name": mailbox})
        for number in range(MESSAGES):
            teller.send(mailbox, f"{mailbox}.{number}" + ("!6" if number % 10 == 0 else ""))
        teller.ack(mailbox, "readers", teller.fetch(mailbox, "readers", 60)[::2])
    server.close_clients()
    assert server.stop() == 0
    return server, ledger


def flip(pages: Path, rng: random.Random, bits: int) -> None:
    used = (check_file(pages).last_page + 1) * PAGE
    with pages.open("r+b") as file:
        for _ in range(bits):
            offset = rng.randrange(used)
            file.seek(offset)
            [byte] = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def verdict(ledger: Ledger, found: Found) -> str:
    """`whole`, or `incomplete` when something is missing or refused. Fails when anything wrong was served."""
    tally = judge(ledger.claims(), found)
    assert not tally.unexpected, str(tally)
    assert not tally.duplicated, str(tally)
    return "incomplete" if tally.lost or tally.missed or tally.again else "whole"


def flips(server: ServerProcess, ledger: Ledger, count: int, seed: int) -> Counter[str]:
    """Flip one bit at a time, and look with a broker in a process of its own."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    copy = server.data_dir.parent / "copy"
    with Looker() as looker:
        for _ in range(count):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(server.data_dir, copy)
            flip(copy / DATA_FILE, rng, 1)
            named = not verify_directory(copy).ok
            task = Task(str(copy), list(MAILBOXES), list(GROUPS), int(time.time() * 1000))
            result = looker.look(task)
            if result.found is not None:
                outcome = verdict(ledger, result.found)
            else:
                outcome = result.error.split(" ")[0]
                assert outcome in ("died", "DATA_DAMAGED"), result.error
            assert named or outcome == "whole", f"not named: {outcome}"
            outcomes[outcome] += 1
    return outcomes


def rounds(server: ServerProcess, ledger: Ledger, count: int, seed: int) -> Counter[str]:
    """Flip several bits and start the real server, twice if the first start ends in a crash."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    kept = server.data_dir.parent / "kept"
    shutil.copytree(server.data_dir, kept)
    for _ in range(count):
        shutil.rmtree(server.data_dir)
        shutil.copytree(kept, server.data_dir)
        flip(server.data_dir / DATA_FILE, rng, 5)
        outcome = serve(server, ledger)
        if outcome == "crashed":
            again = serve(server, ledger)
            assert again == "refused", "the start after a crash looks before it serves"
        verify = subprocess.run(
            [sys.executable, "-m", "mq9.cli", "verify", str(server.data_dir)], capture_output=True, text=True, check=False
        )
        assert verify.returncode in (0, 1), verify.stderr
        assert verify.returncode == 1 or outcome == "whole", f"{outcome}, but verify says {verify.stdout}"
        outcomes[outcome] += 1
    shutil.rmtree(server.data_dir)
    shutil.copytree(kept, server.data_dir)
    return outcomes


def serve(server: ServerProcess, ledger: Ledger) -> str:
    """Start the server and read everything: `whole`, `incomplete`, `refused` or `crashed`."""
    try:
        server.start()
    except StartError as refusal:
        return refused(refusal)
    try:
        found = find(caller(server.raw()), MAILBOXES, GROUPS)
    except (OSError, EOFError, AssertionError):
        server.close_clients()
        assert server.process.wait() < 0, server.log
        return "crashed"
    server.close_clients()
    assert server.stop() == 0, server.log
    return verdict(ledger, found)


def refused(refusal: StartError) -> str:
    if refusal.code == 1:
        assert "damaged data" in refusal.log
        return "refused"
    assert refusal.code is not None, refusal.log
    assert refusal.code < 0, refusal.log
    return "crashed"


def test_flipped_bits_are_named_and_never_served(filled: tuple[ServerProcess, Ledger]) -> None:
    outcomes = flips(*filled, FLIPS, seed=1)
    report(f"bit flips, {FLIPS}", dict(outcomes))
    assert outcomes.total() > outcomes["whole"], "the control: some flips did reach stored data"


def test_a_server_on_flipped_bits_serves_nothing_wrong_and_does_not_loop(filled: tuple[ServerProcess, Ledger]) -> None:
    report(f"real server on flipped bits, {ROUNDS} rounds of 5", dict(rounds(*filled, ROUNDS, seed=1)))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_flipped_bits_are_named_and_never_served(filled: tuple[ServerProcess, Ledger]) -> None:
    report(f"bit flips, {LONG_FLIPS}", dict(flips(*filled, LONG_FLIPS, seed=2)))
    report(f"real server on flipped bits, {LONG_ROUNDS} rounds of 5", dict(rounds(*filled, LONG_ROUNDS, seed=2)))


def test_the_lock_file_alone_is_no_damage(filled: tuple[ServerProcess, Ledger]) -> None:
    server, ledger = filled
    (server.data_dir / LOCK_FILE).unlink()
    assert serve(server, ledger) == "whole"
