"""Status awareness: know how every agent is, and notice the one that fell silent.

Each worker says how it is in two places. On a board, a mailbox, its newest word replaces the one before, because both carry
its name as their key: whoever looks late gets the last word of each worker at once, and then every change as it comes. And
in the registry, which forgets whoever has not reported for its time to live. One worker is killed: its last word stays on
the board, but it is not among the living any more.

    python docs/examples/status_awareness.py [URL]
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count
from typing import Any

import nats

import mq9

URL = os.environ.get("MQ9_URL", "nats://127.0.0.1:4222")
TTL_S = 3  # who is silent for this long is gone


async def work(url: str, board: str, name: str) -> None:
    """A worker, in a process of its own: it paints fences, and says how many."""
    card = {"name": f"{name}.{board}", "payload": "paints fences", "tags": [board], "ttl": TTL_S}
    async with mq9.connect(url) as worker:
        await worker.agent_register(card)
        for fences in count(1):
            await asyncio.sleep(0.2)  # the work
            await worker.send(board, {"name": name, "fences": fences}, key=name)
            try:
                await worker.agent_report({"name": card["name"], "status": "busy", "fences": fences})
            except mq9.NotFound:  # silent for too long: introduce ourselves again
                await worker.agent_register(card)


async def words(url: str, board: str) -> AsyncGenerator[dict[str, Any], None]:
    """A dashboard: what is on the board, then what is put there. Any NATS client can subscribe to a mailbox."""
    connection = await nats.connect(url)
    try:
        subscription = await connection.subscribe(f"$mq9.AI.MAILBOX.MSG.{board}.*")
        async for message in subscription.messages:
            yield json.loads(message.data)
    finally:
        await connection.close()


async def watch_until(url: str, board: str, fences: int) -> dict[str, int]:
    """The last word of each worker, once both have painted so many fences."""
    painted: dict[str, int] = {}
    async with aclosing(words(url, board)) as said:
        async for word in said:
            painted[word["name"]] = word["fences"]
            if len(painted) == 2 and min(painted.values()) >= fences:
                break
    return painted


async def living(client: mq9.Client, board: str) -> list[str]:
    """Who has reported within its time to live."""
    return sorted(agent["name"].partition(".")[0] for agent in await client.agent_discover(tags=[board]))


async def main(url: str = URL, *role: str) -> None:
    """Two workers and two dashboards; or, in a process that main started, one of the workers."""
    if role:
        await work(url, *role)
        return
    async with mq9.connect(url) as client:
        board = await client.mailbox_create(ttl=3600)
        start = [sys.executable, __file__, url, board]
        ada, bob = [await asyncio.create_subprocess_exec(*start, name) for name in ("ada", "bob")]
        try:
            await watch_until(url, board, 3)
            print(f"dashboard: both are painting; in the registry: {', '.join(await living(client, board))}")
            bob.kill()
            while "bob" in await living(client, board):
                await asyncio.sleep(0.1)
            painted = await watch_until(url, board, 3)
            print(f"dashboard that came late: ada is at fence {painted['ada']}, bob's last word was fence {painted['bob']}")
            print(f"result: bob is gone; in the registry: {', '.join(await living(client, board))}")
        finally:
            ada.kill()
            await asyncio.gather(ada.wait(), bob.wait())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
