"""Reading an LMDB file page by page, without LMDB: slower, and safe on any bytes.

LMDB believes its pages: a zeroed one aborts the process, a pointer beyond the file raises SIGBUS. This walk believes
nothing. It reads every page with a plain read, checks it against its own number, its type, its bounds and the keys its
parent promised, visits no page twice, and reports a page it cannot believe together with the range of keys it stood for.

Layout: LMDB 0.9, data format 1, 64 bits (lmdb's mdb.c: MDB_page, MDB_node, MDB_db). None of our tables has duplicates,
so leaves hold plain nodes only.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from mq9.storage.interface import Row
from mq9.storage.lmdb_file import META_PAGES, NO_ROOT, Meta

_HEADER: Final = struct.Struct("=QHHHH")  # page number, pad, flags, lower, upper
_HEADER_BYTES: Final = _HEADER.size
_OVERFLOW_PAGES: Final = struct.Struct("=12xI")
_NODE: Final = struct.Struct("=HHHH")  # low, high, flags, key size
_NODE_BYTES: Final = _NODE.size
_POINTER: Final = struct.Struct("=Q")
_TREE: Final = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, branch, leaf and overflow pages, entries, root
_BRANCH: Final = 0x01
_LEAF: Final = 0x02
_OVERFLOW: Final = 0x04
_BIG_DATA: Final = 0x01
_TREE_DATA: Final = 0x02
_DEPTH_MAX: Final = 32  # LMDB's cursor stack


class Tree(NamedTuple):
    """A B-tree of the file: how many rows it says it has, and its root page."""

    entries: int
    root: int


class BadPage(NamedTuple):
    """A page that cannot be believed, and the keys it stood for: low <= key < high, None for unbounded."""

    page: int
    reason: str
    low: bytes
    high: bytes | None


class _Damage(Exception):
    """Why a page cannot be believed."""


class PageReader:
    """The trees of one file as of its newest meta page. Not for a file that is being written."""

    def __init__(self, path: Path, meta: Meta) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._page_bytes = meta.page_bytes
        self._last_page = meta.last_page
        self._seen = bytearray(meta.last_page + 1)
        self._main = Tree(meta.main_entries, meta.main_root)

    def close(self) -> None:
        os.close(self._fd)

    def tables(self, bad: Callable[[BadPage], None]) -> dict[bytes, Tree]:
        """The named trees of the file."""
        found = {}
        for name, value in self._walk(self._main.root, bad, _TREE_DATA):
            fields = _TREE.unpack(value)
            found[name] = Tree(fields[6], fields[7])
        return found

    def rows(self, tree: Tree, bad: Callable[[BadPage], None]) -> Iterator[Row]:
        """Every row of `tree` that can be read, in key order; `bad` hears of every page that cannot."""
        return self._walk(tree.root, bad, 0)

    def _walk(self, root: int, bad: Callable[[BadPage], None], kind: int) -> Iterator[Row]:
        if root == NO_ROOT:
            return
        # Each entry is a page still to be visited: number, depth, and the keys its parent says it covers.
        todo: list[tuple[int, int, bytes, bytes | None]] = [(root, 1, b"", None)]
        while todo:
            number, depth, low, high = todo.pop()
            try:
                page = self._read(number, 1)
                flags = _HEADER.unpack_from(page)[2]
                if flags == _BRANCH and depth < _DEPTH_MAX:
                    children = self._branch(page, low, high)
                    todo.extend((child, depth + 1, first, stop) for child, first, stop in reversed(children))
                    continue
                if flags != _LEAF:
                    raise _Damage(f"type {flags:#x}")
                rows = self._leaf(page, kind, low, high)
            except _Damage as damage:
                bad(BadPage(number, str(damage), low, high))
                continue
            for key, value in rows:
                if isinstance(value, bytes):
                    yield key, value
                    continue
                try:
                    yield key, self._overflow(*value)
                except _Damage as damage:
                    bad(BadPage(value[0], str(damage), key, key + b"\0"))

    def _read(self, number: int, count: int) -> bytes:
        """`count` pages from page `number` on, which say that they are that page and were not visited before."""
        if not META_PAGES <= number <= self._last_page - count + 1:
            raise _Damage("outside the file")
        if any(self._seen[number : number + count]):
            raise _Damage("already part of the file elsewhere")
        try:
            page = os.pread(self._fd, count * self._page_bytes, number * self._page_bytes)
        except OSError as failure:
            raise _Damage(f"cannot be read: {failure.strerror}") from failure
        if len(page) < count * self._page_bytes:
            raise _Damage("beyond the end of the file")
        if _HEADER.unpack_from(page)[0] != number:
            raise _Damage("empty" if not any(page) else "a different page is in its place")
        self._seen[number : number + count] = b"\1" * count
        return page

    def _nodes(self, page: bytes) -> Iterator[tuple[int, int, bytes, int]]:
        """(48-bit number, flags, key, where the data starts) of each node of a branch or leaf."""
        lower, upper = _HEADER.unpack_from(page)[3:]
        if not _HEADER_BYTES <= lower <= upper <= self._page_bytes or lower % 2:
            raise _Damage("its bounds contradict each other")
        for start in struct.unpack_from(f"={(lower - _HEADER_BYTES) // 2}H", page, _HEADER_BYTES):
            if start < upper or start + _NODE_BYTES > self._page_bytes:
                raise _Damage("an entry lies outside it")
            low, high, flags, key_bytes = _NODE.unpack_from(page, start)
            data_at = start + _NODE_BYTES + key_bytes
            if data_at > self._page_bytes:
                raise _Damage("a key runs beyond its end")
            yield low | high << 16, flags, page[start + _NODE_BYTES : data_at], data_at

    def _branch(self, page: bytes, low: bytes, high: bytes | None) -> list[tuple[int, bytes, bytes | None]]:
        """(page, low, high) of each child."""
        nodes = list(self._nodes(page))
        if len(nodes) < 2:
            raise _Damage("a branch with fewer than two children")
        firsts = [low, *(key for _, _, key, _ in nodes[1:])]  # the first key of a branch is not stored
        if any(map(bytes.__ge__, firsts, firsts[1:])) or (high is not None and firsts[-1] >= high):
            raise _Damage("its keys are not where its parent says")
        stops = [*firsts[1:], high]
        return [
            (number | flags << 32, first, stop) for (number, flags, _, _), first, stop in zip(nodes, firsts, stops, strict=True)
        ]

    def _leaf(self, page: bytes, kind: int, low: bytes, high: bytes | None) -> list[tuple[bytes, bytes | tuple[int, int]]]:
        """(key, value) of each row; a large value as (its first page, its size)."""
        rows: list[tuple[bytes, bytes | tuple[int, int]]] = []
        previous = b""
        for size, flags, key, at in self._nodes(page):
            if not key or key <= previous or key < low or (high is not None and key >= high):
                raise _Damage("its keys are not where its parent says")
            previous = key
            if flags == _BIG_DATA and kind == 0 and at + _POINTER.size <= len(page):
                rows.append((key, (_POINTER.unpack_from(page, at)[0], size)))
            elif flags == kind and at + size <= len(page) and (kind == 0 or size == _TREE.size):
                rows.append((key, page[at : at + size]))
            else:
                raise _Damage("an entry has the wrong kind or size")
        return rows

    def _overflow(self, number: int, size: int) -> bytes:
        """A value of `size` bytes that has pages of its own."""
        count = (_HEADER_BYTES + size - 1) // self._page_bytes + 1
        pages = self._read(number, count)
        if _HEADER.unpack_from(pages)[2] != _OVERFLOW or _OVERFLOW_PAGES.unpack_from(pages)[0] != count:
            raise _Damage("not the pages of a large value")
        return pages[_HEADER_BYTES : _HEADER_BYTES + size]
