"""Tasks that must not end by accident."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("mq9.cluster")


async def uncancelled(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do `work`, and again when it is cancelled though nobody cancelled this task: a gRPC call that ends in an odd moment says
    so, and so does a timeout that runs out in the turn in which what it waited for comes."""
    while True:
        try:
            await work()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.warning("%s was cancelled by nobody: it goes on", name)
        else:
            return
