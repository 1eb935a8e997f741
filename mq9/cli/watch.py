"""`mq9 watch`: print mail as it comes, for a person who waits for it.

A whole mailbox is watched by subscribing to it: the broker pushes what is stored, most urgent first, then what arrives, and
keeps no record of who looked. A group, and a place to begin, are what FETCH knows. A group's message is confirmed once it is
printed; a pushed one would be confirmed before, and lost to the group with a terminal that is closed too soon.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mq9.cli import output
from mq9.cli.command import Session, command
from mq9.cli.fetch import EARLIEST, Address, FromId, FromTime, Group, Raw, Tags, show, start_at

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from mq9.client.message import Message

app = typer.Typer()

Messages = AsyncGenerator["Message", None]
FROM_THE_BEGINNING: Final = start_at(EARLIEST, None, None, None)


@command(app, "watch")
async def watch(
    session: Session,
    address: Address,
    group: Group = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after this many messages; 0: never.")] = 0,
    deliver: Annotated[str, typer.Option(help="Where to begin: earliest, or latest for only what comes from now on.")] = EARLIEST,
    from_id: FromId = None,
    from_time: FromTime = None,
    tag: Tags = None,
    raw: Raw = False,
) -> None:
    """Print what is in a mailbox, most urgent first, and then messages as they come, until Ctrl-C. With a group each is
    confirmed once it is printed, so the next watch of the group begins behind it."""
    import asyncio  # noqa: PLC0415  # --help does without

    start = start_at(deliver, from_id, from_time, tag)
    is_whole = not group and start == FROM_THE_BEGINNING
    messages = _pushed(session, address) if is_whole else _consumed(session, address, group, start)
    if sys.stdout.isatty():
        output.note(f"watching {address}; end with Ctrl-C")
    shown = 0
    try:
        async with aclosing(messages):
            async for message in messages:
                show(session, message, raw=raw)
                shown += 1
                if shown == count:
                    await _confirm(message, group)
                    return
    except asyncio.CancelledError:
        return  # Ctrl-C: how a watch ends


async def _confirm(message: Message, group: str | None) -> None:
    """The last message of a group; the ones before are confirmed by asking for the next."""
    if group:
        await message.ack()


async def _consumed(session: Session, address: str, group: str | None, start: dict[str, Any]) -> Messages:
    async with session.client() as client, client.consume(address, group_name=group, **start) as consumer:
        async for message in consumer:
            yield message


async def _pushed(session: Session, address: str) -> Messages:
    """What the broker pushes. After a reconnect it begins again with what is stored: what was seen is left out."""
    async with session.client() as client:
        await client.mailbox_info(address)  # a wrong address is an error now, and not a long wait for nothing
    import asyncio  # noqa: PLC0415

    from mq9.client.connection import nats_connection  # noqa: PLC0415  # after `client`, which knows how to load nats-py fast
    from mq9.client.wire import streamed_message, subject  # noqa: PLC0415

    seen: dict[str, tuple[int, int]] = {}  # by priority: the latest
    async with nats_connection(session.server, session.connect_options()) as connection:
        # Unbounded, and yet short: printing holds up the loop and with it the socket, so that what a slow terminal has not
        # taken stays with the broker.
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        await connection.subscribe(subject("MAILBOX.MSG", address) + ".*", cb=arrived.put)
        while True:
            pushed = await arrived.get()
            message = streamed_message(pushed.headers or {}, pushed.data)
            last_id, last_ms = seen.get(message.priority, (0, 0))
            # Ids rise in a priority. A mailbox that was removed and made again begins with 1, but later.
            if message.msg_id > last_id or message.create_time_ms > last_ms:
                seen[message.priority] = (message.msg_id, message.create_time_ms)
                yield message
