"""The event loop: which one, and the little of it that the broker sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from broker_node.loop_hooks import Cancellable


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, several times faster at what we do; asyncio's own where uvloop is not published."""
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
    return loop


class AsyncioHooks:
    """The LoopHooks of an asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call_soon(self, call: Callable[[], None]) -> object:
        return self._loop.call_soon(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Cancellable:
        return self._loop.call_later(seconds, call)

    def call_soon_threadsafe(self, call: Callable[[], None]) -> object:
        return self._loop.call_soon_threadsafe(call)
