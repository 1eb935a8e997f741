"""`mq9 fetch`, `mq9 query` and `mq9 watch`: look into a mailbox."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mq9.cli import output
from mq9.cli.arguments import duration, moment
from mq9.cli.command import Session, command

if TYPE_CHECKING:
    from mq9.client.message import Message

app = typer.Typer()

EARLIEST: Final = "earliest"
LATEST: Final = "latest"

Address = Annotated[str, typer.Argument(help="Address of the mailbox.", metavar="ADDRESS", show_default=False)]
Group = Annotated[str | None, typer.Option("--group", "-g", help="Consumer group; without one nothing is recorded.")]
FromId = Annotated[int | None, typer.Option(help="Begin at this message id.", min=0)]
FromTime = Annotated[
    float | None, typer.Option(parser=moment, metavar="TIME", help="Begin at this time: 15m (ago), 2026-01-31T12:00, or seconds.")
]
Tags = Annotated[list[str] | None, typer.Option("--tag", "-t", help="Only messages with this tag; may be repeated.")]
Raw = Annotated[bool, typer.Option("--raw", help="Print payloads alone, each ended by a newline.")]


def _show(session: Session, message: Message, *, raw: bool) -> None:
    if raw:
        output.message_raw(message)
    elif session.json:
        output.as_json(output.message_json(message))
    else:
        output.message_text(message)


def _start(deliver: str, from_id: int | None, from_time: float | None, tags: Iterable[str] | None) -> dict[str, Any]:
    """Where to begin, as the client takes it."""
    if from_id is not None and from_time is not None:
        raise typer.BadParameter("--from-id and --from-time exclude each other")
    if deliver not in (EARLIEST, LATEST):
        raise typer.BadParameter("--deliver must be earliest or latest")
    word = "from_id" if from_id is not None else "from_time" if from_time is not None else deliver
    return {"deliver": word, "from_id": from_id, "from_time": from_time, "tags": tags}


@command(app, "fetch")
async def fetch(
    session: Session,
    address: Address,
    group: Group = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="At most this many messages.")] = 10,
    wait: Annotated[float, typer.Option("--wait", "-w", parser=duration, metavar="DURATION", help="Wait for the first.")] = 0.5,
    deliver: Annotated[str, typer.Option(help="Where a group begins, or where to look: earliest or latest.")] = EARLIEST,
    from_id: FromId = None,
    from_time: FromTime = None,
    tag: Tags = None,
    force: Annotated[bool, typer.Option("--force", help="Begin anew even if the group has a position.")] = False,
    ack: Annotated[bool, typer.Option("--ack", help="Confirm what was printed; needs --group.")] = False,
    raw: Raw = False,
) -> None:
    """Fetch messages, most urgent first. With a group they are leased to this command and return to the group at its end,
    unless --ack confirms them."""
    if ack and not group:
        raise typer.BadParameter("--ack needs --group")
    start = _start(deliver, from_id, from_time, tag)
    async with session.client() as client:
        messages = await client.fetch(
            address, group_name=group, num_msgs=count, max_wait_ms=round(wait * 1000), force_deliver=force, **start
        )
        for message in messages:
            _show(session, message, raw=raw)
        if ack and group and messages:
            await client.ack(address, group, [message.msg_id for message in messages])


@command(app, "query")
async def query(
    session: Session,
    address: Address,
    key: Annotated[str | None, typer.Option(help="Only the message of this key.")] = None,
    tag: Tags = None,
    since: FromTime = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many messages.")] = 100,
    raw: Raw = False,
) -> None:
    """Show stored messages in order of their ids. Takes no lease and moves no group."""
    async with session.client() as client:
        for message in await client.query(address, key=key, tags=tag, since=since, limit=limit):
            _show(session, message, raw=raw)


@command(app, "watch")
async def watch(
    session: Session,
    address: Address,
    group: Group = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after this many messages; 0: never.")] = 0,
    deliver: Annotated[
        str | None, typer.Option(help="Where to begin: earliest or latest.", show_default="latest; earliest with a group")
    ] = None,
    from_id: FromId = None,
    from_time: FromTime = None,
    tag: Tags = None,
    raw: Raw = False,
) -> None:
    """Print messages as they come, until Ctrl-C. With a group each is confirmed once it is printed."""
    start = _start(deliver or (EARLIEST if group else LATEST), from_id, from_time, tag)
    async with session.client() as client, client.consume(address, group_name=group, **start) as consumer:
        shown = 0
        async for message in consumer:
            _show(session, message, raw=raw)
            shown += 1
            if shown == count:
                await message.ack()
                break
