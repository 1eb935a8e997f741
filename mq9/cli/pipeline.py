"""Many requests under way at once, none too many."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")

READ_BYTES = 65_536


async def pipelined(items: AsyncIterator[Item], work: Callable[[Item], Awaitable[None]], window: int) -> None:
    """Run `work` on every item, at most `window` at a time. The first failure stops the rest and is raised."""
    import asyncio  # noqa: PLC0415  # 15 ms that --help does not need

    one_reader = asyncio.Lock()  # an async generator is for one caller at a time

    async def worker() -> None:
        while True:
            async with one_reader:
                item = await anext(items, None)
            if item is None:
                return
            await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(window)]
    try:
        await asyncio.gather(*workers)
    finally:
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def one_by_one(items: Iterable[Item]) -> AsyncIterator[Item]:
    """The items of a collection."""
    for item in items:
        yield item


async def stdin_lines() -> AsyncIterator[bytes]:
    """The lines of standard input, without their ends, as they come; the loop goes on while a pipe is silent."""
    import asyncio  # noqa: PLC0415

    rest = b""
    while data := await asyncio.to_thread(os.read, sys.stdin.fileno(), READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest.removesuffix(b"\r")
