"""The replay itself: what it keeps and what it takes away, on programs whose durability anyone can work out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import powercut
from tests.support.powercut import SECTOR_BYTES, Cut, Names, Sync, Trace, Write

Found = dict[str, set[bytes | None]]

PRELUDE = """
import os, mmap, threading
os.mkdir("d")
def put(name, data, flags=0):
    fd = os.open("d/" + name, os.O_RDWR | os.O_CREAT | flags)
    os.write(fd, data)
    return fd
def sync_names():
    fd = os.open("d", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
def say(text):
    os.write(1, text)
"""


@pytest.fixture(autouse=True)
def _strace() -> None:
    reason = powercut.unavailable()
    if reason:
        pytest.skip(reason)


def trace_of(program: str, directory: Path) -> Trace:
    """What `program` did in the folder `d` of `directory`."""
    trace_file = directory / "trace"
    command = [sys.executable, "-c", PRELUDE + program]
    subprocess.run(powercut.strace_command(command, trace_file), cwd=directory, check=True, stdout=subprocess.DEVNULL)
    return Trace.parse(trace_file, directory / "d", cwd=directory)


def cuts(program: str, directory: Path, count: int = 200) -> Iterator[tuple[Cut, dict[str, bytes]]]:
    """(cut, file -> content) for many cuts."""
    after = directory / "after"
    for cut in powercut.power_cuts(trace_of(program, directory), directory / "d", count, seed=1):
        cut.write_to(after)
        yield cut, {path.name: path.read_bytes() for path in after.rglob("*") if path.is_file()}


def test_what_was_synced_before_it_was_told_is_always_there(tmp_path: Path) -> None:
    program = 'fd = put("f", b"x" * 2000); os.fdatasync(fd); sync_names(); say(b"done")'
    told = 0
    for cut, files in cuts(program, tmp_path):
        if b"done" in cut.output():
            told += 1
            assert files["f"] == b"x" * 2000
    assert told > 5


def test_what_was_not_synced_is_sometimes_gone_kept_and_torn(tmp_path: Path) -> None:
    program = 'fd = put("f", b""); os.fsync(fd); sync_names(); os.write(fd, b"x" * 2048); say(b"done")'
    found = {files["f"] for cut, files in cuts(program, tmp_path) if b"done" in cut.output()}
    assert b"" in found
    assert b"x" * 2048 in found
    assert any(b"\0" * SECTOR_BYTES in content for content in found), "a later sector without an earlier one"


def test_a_sync_of_the_file_does_not_make_its_name_durable(tmp_path: Path) -> None:
    program = 'fd = put("f", b"x"); os.fsync(fd); say(b"done")'
    found = ["f" in files for cut, files in cuts(program, tmp_path) if b"done" in cut.output()]
    assert True in found
    assert False in found


def test_a_rename_is_durable_after_the_directory_is_synced(tmp_path: Path) -> None:
    program = 'fd = put("new", b"x"); os.fsync(fd); sync_names(); os.rename("d/new", "d/f"); sync_names(); say(b"done")'
    before: set[frozenset[str]] = set()
    for cut, files in cuts(program, tmp_path):
        if b"done" in cut.output():
            assert files == {"f": b"x"}
        else:
            before.add(frozenset(files))
    assert {frozenset({"new"}), frozenset({"f"})} <= before
    assert frozenset({"new", "f"}) not in before


def test_a_synchronous_descriptor_needs_no_sync_and_syncs_nothing_else(tmp_path: Path) -> None:
    program = """
fd = put("f", b"a" * 512)
os.fsync(fd); sync_names()
os.pwrite(fd, b"b" * 512, 512)
direct = os.open("d/f", os.O_WRONLY | os.O_DSYNC)
os.pwrite(direct, b"c" * 512, 0)
say(b"done")
"""
    found = {files["f"] for cut, files in cuts(program, tmp_path) if b"done" in cut.output()}
    assert found == {b"c" * 512, b"c" * 512 + b"b" * 512}


def test_offsets_follow_seek_and_gathered_writes(tmp_path: Path) -> None:
    program = """
fd = put("f", b"0123456789")
os.lseek(fd, 4, os.SEEK_SET)
os.writev(fd, [b"AB", b"CD"])
os.write(fd, b"E")
append = os.open("d/f", os.O_WRONLY | os.O_APPEND)
os.write(append, b"!")
os.fsync(fd); sync_names(); say(b"done")
"""
    found = {files["f"] for cut, files in cuts(program, tmp_path) if b"done" in cut.output()}
    assert found == {b"0123ABCDE9!"}


def test_sizes_follow_truncation_and_allocation(tmp_path: Path) -> None:
    program = """
fd = put("f", b"0123456789")
os.ftruncate(fd, 4)
os.posix_fallocate(fd, 0, 8)
os.fsync(fd); sync_names(); say(b"done")
"""
    found = {files["f"] for cut, files in cuts(program, tmp_path) if b"done" in cut.output()}
    assert found == {b"0123\0\0\0\0"}


def test_a_mapped_file_holds_nothing_to_rely_on(tmp_path: Path) -> None:
    program = """
fd = put("f", b"0" * 4096)
mapped = mmap.mmap(fd, 4096)
mapped[:4] = b"data"
os.fsync(fd); sync_names(); say(b"done")
"""
    found = {files["f"] for cut, files in cuts(program, tmp_path) if b"done" in cut.output()}
    assert found == {bytes(4096)}


def test_calls_of_several_threads_are_told_apart(tmp_path: Path) -> None:
    program = """
def work(n):
    fd = put("f%d" % n, b"")
    for i in range(50):
        os.write(fd, b"%d" % n * 100)
        os.fsync(fd)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
sync_names(); say(b"done")
"""
    trace = trace_of(program, tmp_path)
    assert sum(isinstance(event.change, Write) and event.change.data != b"" for event in trace.events) == 200
    assert sum(isinstance(event.change, Sync) for event in trace.events) == 201
    assert sum(isinstance(event.change, Names) and event.change.action == "create" for event in trace.events) == 4
    [last] = list(powercut.power_cuts(trace, tmp_path / "d", 1, seed=1, first_moment=trace.moments))
    assert sorted(content or b"" for content in last.files.values()) == [b"", *(b"%d" % n * 5000 for n in range(4))]


def test_the_same_seed_gives_the_same_cuts(tmp_path: Path) -> None:
    trace = trace_of('fd = put("f", b"x" * 9000); os.write(fd, b"y" * 9000); os.fsync(fd)', tmp_path)
    first, second = (list(powercut.power_cuts(trace, tmp_path / "d", 40, seed=5)) for _ in range(2))
    assert [(cut.moment, cut.plan, cut.files) for cut in first] == [(cut.moment, cut.plan, cut.files) for cut in second]
