"""`mq9 fetch` and `mq9 query`: look into a mailbox."""

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


def show(session: Session, message: Message, *, raw: bool) -> None:
    """Print one message the way the options ask for, at once."""
    if raw:
        output.message_raw(message)
    elif session.json:
        output.as_json(output.message_json(message))
    else:
        output.message_text(message)


def start_at(deliver: str, from_id: int | None, from_time: float | None, tags: Iterable[str] | None) -> dict[str, Any]:
    """Where to begin, as the client takes it."""
    if from_id is not None and from_time is not None:
        raise typer.BadParameter("--from-id and --from-time exclude each other")
    if deliver not in (EARLIEST, LATEST):
        raise typer.BadParameter("--deliver must be earliest or latest")
    word = "from_id" if from_id is not None else "from_time" if from_time is not None else deliver
    return {"deliver": word, "from_id": from_id, "from_time": from_time, "tags": tags or None}


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
    start = start_at(deliver, from_id, from_time, tag)
    async with session.client() as client:
        messages = await client.fetch(
            address, group_name=group, num_msgs=count, max_wait_ms=round(wait * 1000), force_deliver=force, **start
        )
        for message in messages:
            show(session, message, raw=raw)
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
            show(session, message, raw=raw)
