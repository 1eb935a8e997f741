"""A disk that fails: whatever call it is, nothing is acknowledged after it, and what was acknowledged before is kept."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage import ledger
from tests.storage.conftest import OpenLmdb
from tests.storage.processes import ROOT, command

SOURCE = Path(__file__).with_name("failing_calls.c")
BEFORE = 5  # commits before the failure


class Obeying:
    """The `obey` program with the failing calls loaded into it."""

    def __init__(self, directory: Path, library: Path, order: Path) -> None:
        self._order = order
        self._process = subprocess.Popen(
            command("obey", str(directory)),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(library), "MQ9_FAIL": str(order)},
        )

    def do(self, what: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def fail(self, call: str, number: int) -> None:
        self._order.write_text(f"{call} {number}\n")

    def heal(self) -> None:
        self._order.write_text("")

    def end(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The failing calls, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the failing calls with")
    made = tmp_path_factory.mktemp("shim") / "failing_calls.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(made), str(SOURCE), "-ldl"], check=True)
    return made


@pytest.fixture
def obeying(library: Path, tmp_path: Path) -> Iterator[Obeying]:
    process = Obeying(tmp_path / "data", library, tmp_path / "order")
    for number in range(1, BEFORE + 1):
        assert process.do("commit") == f"committed {number}"
    yield process
    process.end()


@pytest.mark.parametrize("call", ["sync", "write", "meta"])
def test_after_a_failed_call_the_store_acknowledges_nothing_more(
    obeying: Obeying, call: str, tmp_path: Path, open_lmdb: OpenLmdb
) -> None:
    """Above all not when the disk seems well again: the kernel forgets which pages it could not write."""
    obeying.fail(call, errno.EIO)
    assert obeying.do("commit").startswith("error STORAGE_FAILED")
    obeying.heal()
    for _ in range(3):
        assert obeying.do("commit").startswith("error STORAGE_FAILED")
    assert obeying.do("writable") == "writable False"
    obeying.end()
    assert ledger.check(open_lmdb(tmp_path / "data")) == BEFORE


@pytest.mark.parametrize("call", ["sync", "write"])
def test_reading_goes_on_after_a_failed_call(obeying: Obeying, call: str) -> None:
    obeying.fail(call, errno.EIO)
    obeying.do("commit")
    assert obeying.do("read") == f"read {BEFORE}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG], ids=errno.errorcode.__getitem__)
def test_a_lack_of_room_is_not_a_failed_disk(obeying: Obeying, number: int) -> None:
    obeying.fail("write", number)
    assert obeying.do("commit") == "error STORAGE_FULL storage full"
    assert obeying.do("read") == f"read {BEFORE}"
    obeying.heal()
    # The ledger went on to the next number: what matters is that the commit is taken.
    assert obeying.do("commit") == f"committed {BEFORE + 2}"


def test_the_control_fails_nothing(obeying: Obeying, tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    assert obeying.do("commit") == f"committed {BEFORE + 1}"
    obeying.end()
    assert ledger.check(open_lmdb(tmp_path / "data")) == BEFORE + 1
