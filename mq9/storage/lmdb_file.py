"""What can be known of an LMDB data file without handing it to LMDB.

LMDB trusts its file: a file shorter than its meta page says raises SIGBUS on the first read, and a meta page that points
nowhere aborts the process. So the meta pages are read and judged here, with plain reads, before the file is opened.

The layout is LMDB 0.9's data format 1 on a 64-bit machine in its own byte order: `MDB_page` header of 16 bytes, then
`MDB_meta` (lmdb's mdb.c). LMDB writes meta pages alternately: transaction N goes to page N & 1.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

from mq9.errors import error

DATA_FILE: Final = "data.mdb"
META_PAGES: Final = 2
_PAGE_HEADER: Final = struct.Struct("=QHHHH")  # page number, pad, flags, lower, upper
_META: Final = struct.Struct("=IIQQ" + "IHHQQQQQ" * 2 + "QQ")
_META_BYTES: Final = _PAGE_HEADER.size + _META.size
_META_FLAG: Final = 0x08
_MAGIC: Final = 0xBEEFC0DE
_DATA_FORMAT: Final = 1
NO_ROOT: Final = (1 << 64) - 1  # of an empty tree
_PAGE_BYTES_MAX: Final = 0x8000
_ROUND_BYTES: Final = 64 * 1024  # of the ballast
DISK_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Meta(NamedTuple):
    """One meta page: the state of the file after transaction `txnid`."""

    page_bytes: int
    free_root: int
    main_entries: int  # named databases
    main_root: int
    last_page: int
    txnid: int


def _parse_meta(page: bytes, number: int) -> Meta:
    """The meta page `number`, or DATA_DAMAGED."""
    if len(page) < _META_BYTES:
        raise error("DATA_DAMAGED", reason=f"{DATA_FILE} is cut short: meta page {number} is missing")
    flags = _PAGE_HEADER.unpack_from(page)[2]
    fields = _META.unpack_from(page, _PAGE_HEADER.size)
    magic, data_format = fields[0], fields[1]
    if magic != _MAGIC or not flags & _META_FLAG:
        raise error("DATA_DAMAGED", reason=f"meta page {number} of {DATA_FILE} is not a meta page")
    if data_format != _DATA_FORMAT:
        raise error("DATA_DAMAGED", reason=f"meta page {number} of {DATA_FILE} has LMDB data format {data_format}")
    # fields 4..11 are the free list's tree, 12..19 the main tree: pad, flags, depth, branch, leaf, overflow, entries, root
    return Meta(fields[4], fields[11], fields[18], fields[19], fields[20], fields[21])


def _check_meta(meta: Meta, number: int) -> None:
    """Raise DATA_DAMAGED when a meta page contradicts itself."""
    size = meta.page_bytes
    if size < 512 or size > _PAGE_BYTES_MAX or size & (size - 1):
        raise error("DATA_DAMAGED", reason=f"meta page {number} of {DATA_FILE} names a page size of {size}")
    if meta.txnid and meta.txnid & 1 != number:
        raise error("DATA_DAMAGED", reason=f"meta page {number} of {DATA_FILE} names transaction {meta.txnid}")
    for root in (meta.free_root, meta.main_root):
        if root != NO_ROOT and not META_PAGES <= root <= meta.last_page:
            raise error("DATA_DAMAGED", reason=f"meta page {number} of {DATA_FILE} points to page {root} of {meta.last_page}")


def check_file(path: Path) -> Meta:
    """The newest meta page of the LMDB file `path`, when the file is safe to open. Raises DATA_DAMAGED, naming it."""
    with path.open("rb") as file:
        first = _parse_meta(file.read(_META_BYTES), 0)
        _check_meta(first, 0)
        file.seek(first.page_bytes)
        second = _parse_meta(file.read(_META_BYTES), 1)
        _check_meta(second, 1)
        size = file.seek(0, os.SEEK_END)
    if first.page_bytes != second.page_bytes:
        raise error("DATA_DAMAGED", reason=f"the meta pages of {DATA_FILE} disagree on the page size")
    if abs(first.txnid - second.txnid) > 1:
        # Every transaction writes the other page, so the two are always neighbours.
        raise error("DATA_DAMAGED", reason=f"the meta pages of {DATA_FILE} name transactions {first.txnid} and {second.txnid}")
    newest = max(first, second, key=lambda meta: meta.txnid)
    needed = (newest.last_page + 1) * newest.page_bytes
    if size < needed:
        raise error("DATA_DAMAGED", reason=f"{path} is cut short: {size} bytes of {needed}")
    return newest


class Ballast:
    """Disk space kept allocated in the data file beyond its last page.

    LMDB copies pages before it changes them, so even a delete needs pages. On a full disk they could not be had, and
    what fills the disk could never be deleted. Pages that are allocated already can be written on a full disk. (File
    systems that copy on write, such as btrfs and ZFS, do not promise that; there the free-space reserve is what helps.)
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Keep `size_bytes` allocated ahead in the file `path`, which must be there. 0 keeps none."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.size = size_bytes
        self._allocated = 0  # bytes of the file known to be allocated
        self.starved = False  # True while the disk has no room for the whole ballast

    def top_up(self, used_bytes: int, needed_bytes: int) -> None:
        """Before a commit to a file used up to `used_bytes` that may write `needed_bytes`: allocate ahead.

        Never raises: what a full disk means is decided by the commit that follows, and `starved` tells it.
        """
        if not self.size:
            return
        target = -(-(used_bytes + max(self.size, needed_bytes)) // _ROUND_BYTES) * _ROUND_BYTES
        # What lies below is written already. Where allocating is emulated by writing, only the new part must be.
        self._allocated = self._allocated or used_bytes
        if target <= self._allocated:
            self.starved = False
            return
        # Half a ballast more than needed, so that one allocation serves many commits.
        for goal in (target + self.size // 2, target):
            try:
                os.posix_fallocate(self._fd, self._allocated, goal - self._allocated)
            except OSError as failure:
                if failure.errno not in DISK_FULL_ERRNOS:
                    self.size = 0  # this file system cannot allocate ahead; nothing is lost but the ballast
                    return
                self.starved = True
            else:
                self._allocated = goal
                self.starved = False
                return

    def low(self, used_bytes: int) -> bool:
        """True when the disk is full and half of the ballast is used up."""
        return self.starved and self._allocated - used_bytes < self.size // 2

    def file_bytes(self) -> int:
        """Size of the file."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)
