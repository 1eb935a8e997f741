"""`mq9 bench`: how fast a server is, seen from here. The client is Python too, so a fast server is faster than it says."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mq9.cli import output
from mq9.cli.command import Session, command
from mq9.cli.pipeline import one_by_one, pipelined
from mq9.errors import error

if TYPE_CHECKING:
    from asyncio import Event

    from mq9.client.client import Client

app = typer.Typer(no_args_is_help=True, help="Measure a server. The client is Python too: a fast server is faster than it says.")

FILL_WINDOW = 256  # sends under way while a mailbox is filled for a FETCH
GROUP = "mq9-bench"
MAILBOX_TTL_S = 3600  # what a run that was cut off leaves behind goes by itself

Messages = Annotated[int, typer.Option("--messages", "-m", min=1, help="How many.")]
Size = Annotated[int, typer.Option("--size", min=8, help="Bytes of each payload.")]
Window = Annotated[int, typer.Option("--window", "-w", min=1, help="Requests under way at once, on each connection.")]
Connections = Annotated[int, typer.Option("--connections", "-c", min=1, help="Connections.")]


class _Run:
    """What a run measures: times from the first request to the last answer, and of every request, in seconds."""

    def __init__(self, what: str, size_bytes: int) -> None:
        self.what = what
        self.size_bytes = size_bytes
        self.messages = 0
        self.times: dict[str, list[float]] = {}
        self._begin = perf_counter()

    def took(self, request: str, seconds: float) -> None:
        self.times.setdefault(request, []).append(seconds)

    def show(self, *, as_json: bool) -> None:
        seconds = perf_counter() - self._begin
        rate = self.messages / seconds
        figures = {request: _percentiles(times) for request, times in self.times.items()}
        if as_json:
            output.as_json({
                "bench": self.what, "messages": self.messages, "size": self.size_bytes, "seconds": seconds, "per_second": rate,
                "latency_ms": figures,
            })  # fmt: skip
            return
        output.line(f"{self.what}: {self.messages} messages of {self.size_bytes} B in {seconds:.2f} s")
        output.line(f"{rate:,.0f} messages/s, {output.size_text(rate * self.size_bytes)}/s")
        rows = [(request, *(f"{value:.3f}" for value in values.values())) for request, values in figures.items()]
        output.table(("MS", "P50", "P99", "P99.9", "MAX"), rows)


def _percentiles(times: list[float]) -> dict[str, float]:
    """Milliseconds. The p-th percentile is the smallest time that p percent of all do not exceed."""
    ordered = sorted(times)
    last = len(ordered) - 1
    picks = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ordered[min(last, int(len(ordered) * share))] * 1000 for name, share in picks.items()}


class _Progress:
    """A progress bar that costs nothing per message."""

    def __init__(self, bar: Any, total: int) -> None:
        self._bar = bar
        self._step = max(1, total // 200)
        self._done = 0

    def add(self, count: int = 1) -> None:
        before, self._done = self._done, self._done + count
        if before // self._step != self._done // self._step:
            self._bar.update(self._bar.task_ids[0], completed=self._done)


async def _clients(stack: AsyncExitStack, session: Session, connections: int) -> list[Client]:
    return [await stack.enter_async_context(session.client()) for _ in range(connections)]


async def _on_own_mailbox(client: Client, run: Callable[[str], Awaitable[None]]) -> None:
    """Run with a mailbox of its own, and remove it."""
    mailbox = await client.mailbox_create(ttl=MAILBOX_TTL_S)
    try:
        await run(mailbox)
    finally:
        await client.mailbox_remove(mailbox)


@command(app, "send")
async def send(
    session: Session, messages: Messages = 10_000, size: Size = 256, window: Window = 64, connections: Connections = 1
) -> None:
    """SEND to one mailbox: each answer is a message on disk."""
    payload = bytes(size)
    async with AsyncExitStack() as stack:
        clients = await _clients(stack, session, connections)

        async def run(mailbox: str) -> None:
            with output.progress("sending", messages) as bar:
                progress = _Progress(bar, messages)
                result = _Run("send", size)

                async def one(number: int) -> None:
                    begin = perf_counter()
                    await clients[number % connections].send(mailbox, payload)
                    result.took("SEND", perf_counter() - begin)
                    progress.add()

                await pipelined(one_by_one(range(messages)), one, window * connections)
                result.messages = messages
            result.show(as_json=session.json)

        await _on_own_mailbox(clients[0], run)


@command(app, "fetch")
async def fetch(
    session: Session,
    messages: Messages = 10_000,
    size: Size = 256,
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, max=1000, help="Messages of each FETCH.")] = 100,
    connections: Connections = 1,
) -> None:
    """FETCH by a group and ACK of each batch; the mailbox is filled first."""
    payload = bytes(size)
    async with AsyncExitStack() as stack:
        clients = await _clients(stack, session, connections)

        async def run(mailbox: str) -> None:
            async def fill(_: int) -> None:
                await clients[0].send(mailbox, payload)

            await pipelined(one_by_one(range(messages)), fill, FILL_WINDOW)
            with output.progress("fetching", messages) as bar:
                progress = _Progress(bar, messages)
                result = _Run("fetch", size)

                async def drain(client: Client) -> None:
                    while result.messages < messages:
                        begin = perf_counter()
                        found = await client.fetch(mailbox, group_name=GROUP, deliver="earliest", num_msgs=batch, max_wait_ms=100)
                        if not found:
                            continue
                        fetched = perf_counter()
                        await client.ack(mailbox, GROUP, found[-1].msg_id)
                        result.took("FETCH", fetched - begin)
                        result.took("ACK", perf_counter() - fetched)
                        result.messages += len(found)
                        progress.add(len(found))

                await pipelined(one_by_one(clients), drain, connections)
            result.show(as_json=session.json)

        await _on_own_mailbox(clients[0], run)


@command(app, "pubsub")
async def pubsub(
    session: Session, messages: Messages = 100_000, size: Size = 256, window: Window = 1000, connections: Connections = 1
) -> None:
    """Core publish and subscribe: one publisher, `connections` subscribers, at most `window` messages between them."""
    from asyncio import Event  # noqa: PLC0415  # 30 ms that --help does not need

    from mq9.client.connection import nats_connection  # noqa: PLC0415  # with the client, as in Session.client

    session.client()  # checks the options, and keeps slow imports away
    async with AsyncExitStack() as stack:
        nats = [
            await stack.enter_async_context(nats_connection(session.server, session.connect_options()))
            for _ in range(connections + 1)
        ]
        subject = nats[0].new_inbox()
        total = messages * connections
        with output.progress("publishing", total) as bar:
            progress = _Progress(bar, total)
            result = _Run("pubsub", size)
            moved = Event()

            async def received(msg: Any) -> None:
                result.took("DELIVERY", (perf_counter_ns() - struct.unpack_from("<q", msg.data)[0]) / 1e9)
                result.messages += 1
                progress.add()
                moved.set()

            for each in nats[1:]:
                await each.subscribe(subject, cb=received)
                await each.flush()
            filler = bytes(size - 8)
            for number in range(messages):
                while number * connections - result.messages >= window * connections:
                    await _moved(moved, session.timeout)
                await nats[0].publish(subject, struct.pack("<q", perf_counter_ns()) + filler)
            while result.messages < total:
                await _moved(moved, session.timeout)
        result.show(as_json=session.json)


async def _moved(moved: Event, timeout_s: float) -> None:
    """Wait until another message has arrived. Raises TIMEOUT when none does: core NATS may drop them."""
    from asyncio import timeout  # noqa: PLC0415

    moved.clear()
    try:
        async with timeout(timeout_s):
            await moved.wait()
    except TimeoutError:
        raise error("TIMEOUT", seconds=timeout_s) from None
