"""A data directory: who holds it, how its last holder ended, and how far it had come.

`mq9.lock` is locked (flock) while a process holds the directory, and holds one line of text:

    mq9 1 pid=1234 host=web-1 phase=serving txn=42

`phase` tells a later process how this one ended: `closed` is a clean end, `serving` a kill or a power cut (which LMDB
takes without harm), `opening` an end while the file was being opened, which a damaged file may have caused. `txn` is the
newest transaction that was acknowledged: a file that has gone back behind it is damaged or an old copy. The line is
written without fsync: after a power cut it may be old or empty, never ahead of the data.

`crash.txt` is what Python's faulthandler writes when a fatal signal ends the process: reading a damaged page aborts it,
reading beyond the end of a cut file raises SIGBUS. It is empty after a kill -9, so only a death that damage may have
caused makes the next start look at every record before it serves.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from mq9.errors import Mq9Error, error

log = logging.getLogger("mq9.storage")

LOCK_FILE: Final = "mq9.lock"
CRASH_FILE: Final = "crash.txt"
CRASH_FILE_OLD: Final = "crash.old.txt"
_LINE_BYTES: Final = 256  # always written whole, so a shorter line leaves nothing of a longer one
_LINE: Final = re.compile(rb"mq9 1 pid=(\d+) host=(\S*) phase=(\w+) txn=(\d+)")


class Holder(NamedTuple):
    """What the lock file says of the process that holds or last held the directory."""

    pid: int
    host: str
    phase: str
    txn: int


_NOBODY: Final = Holder(0, "", "closed", 0)


def _host() -> str:
    return os.uname().nodename[:64]


def _read_holder(fd: int) -> Holder:
    match = _LINE.match(os.pread(fd, _LINE_BYTES, 0))
    if match is None:
        return _NOBODY
    return Holder(int(match[1]), match[2].decode("utf-8", "replace"), match[3].decode(), int(match[4]))


def _take(fd: int, directory: Path) -> None:
    """Lock the lock file, or raise STORAGE_FAILED naming the process that has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as failure:
        holder = _read_holder(fd)
        where = f"process {holder.pid}" + (f" on {holder.host}" if holder.host != _host() else "")
        raise error("STORAGE_FAILED", reason=f"directory {directory} is in use by {where}") from failure
    except OSError as failure:  # a file system without locks
        raise error("STORAGE_FAILED", reason=f"{directory / LOCK_FILE} cannot be locked: {failure.strerror}") from failure


def sync_directory(path: Path) -> None:
    """Make the names inside `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Make `path` and its missing parents, durably. Raises STORAGE_FAILED."""
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in missing:
            sync_directory(folder.parent)
    except OSError as failure:
        raise error("STORAGE_FAILED", reason=f"{path} cannot be made: {failure.strerror}") from failure


class DirectoryLock:
    """The hold on a data directory. `previous` is what its last holder left behind."""

    def __init__(self, directory: Path) -> None:
        """Take the directory, which must be there. Raises STORAGE_FAILED naming the process that has it."""
        self.directory = directory
        try:
            self._fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failure:
            raise error("STORAGE_FAILED", reason=f"{directory / LOCK_FILE}: {failure.strerror}") from failure
        try:
            _take(self._fd, directory)
        except Mq9Error:
            os.close(self._fd)
            raise
        self.previous = _read_holder(self._fd)
        self._head = b"mq9 1 pid=%d host=%s phase=" % (os.getpid(), _host().encode())
        self._phase = b"closed"
        self._complained = False

    def mark(self, phase: bytes, txn: int) -> None:
        """Note that this process is `opening`, `serving` or `closed`, with `txn` acknowledged."""
        self._phase = phase
        self.advance(txn)

    def advance(self, txn: int) -> None:
        """Note that transaction `txn` is durable. Costs one write into the page cache. A note that cannot be written is not
        a failed commit: an old one is never wrong."""
        line = b"%s%s txn=%d" % (self._head, self._phase, txn)
        try:
            os.pwrite(self._fd, line.ljust(_LINE_BYTES - 1) + b"\n", 0)
        except OSError as failure:
            if not self._complained:
                self._complained = True
                log.warning("%s cannot be written: %s", self.directory / LOCK_FILE, failure)

    def release(self) -> None:
        """Let go of the directory. Closing the descriptor releases the lock."""
        os.close(self._fd)


@contextlib.contextmanager
def borrowed(directory: Path) -> Iterator[None]:
    """Hold the directory without leaving a trace in it, also where it cannot be written. Raises STORAGE_FAILED."""
    try:
        fd = os.open(directory / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield  # no mq9 has served this directory, or it is a copy of the data file alone
        return
    except OSError as failure:
        raise error("STORAGE_FAILED", reason=f"{directory / LOCK_FILE}: {failure.strerror}") from failure
    try:
        _take(fd, directory)
        yield
    finally:
        os.close(fd)


class CrashMarker:
    """`crash.txt`: written by the dying process, read by the next. One per process, as faulthandler is."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CRASH_FILE
        self._old = directory / CRASH_FILE_OLD
        self._file: TextIO | None = None

    def read(self) -> str:
        """What the last process died of; empty when not of a fatal signal."""
        try:
            return self._path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def retire(self) -> None:
        """The data was looked at and is whole: keep the text for whoever asks why, but do not look again."""
        with contextlib.suppress(FileNotFoundError):
            self._path.replace(self._old)

    def arm(self) -> None:
        """From now on a fatal signal leaves its traceback. Does nothing when someone else has armed faulthandler."""
        if faulthandler.is_enabled():
            return
        self._file = self._path.open("w")
        faulthandler.enable(self._file)

    def disarm(self) -> None:
        """Undo `arm`."""
        if self._file is not None:
            faulthandler.disable()
            self._file.close()
            self._file = None
