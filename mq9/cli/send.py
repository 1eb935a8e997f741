"""`mq9 send`: put messages into a mailbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mq9.cli import output
from mq9.cli.arguments import duration, header, headers, payload
from mq9.cli.command import Session, command
from mq9.cli.pipeline import pipelined, stdin_lines

if TYPE_CHECKING:
    from mq9.client.client import Client
    from mq9.client.message import Receipt
    from mq9.client.wire import SendOptions

app = typer.Typer()

WINDOW = 256  # lines under way at once


@command(app, "send")
async def send(
    session: Session,
    address: Annotated[str, typer.Argument(help="Address of the mailbox.", metavar="ADDRESS", show_default=False)],
    message: Annotated[
        str | None, typer.Argument(help="Payload; by default, or '-', standard input.", metavar="PAYLOAD", show_default=False)
    ] = None,
    priority: Annotated[str, typer.Option("--priority", "-p", help="critical, urgent, normal or low.")] = "normal",
    key: Annotated[str | None, typer.Option(help="The newest message of a key replaces older ones.")] = None,
    delay: Annotated[float, typer.Option(parser=duration, metavar="DURATION", help="Deliver no earlier than this.")] = 0,
    ttl: Annotated[float, typer.Option(parser=duration, metavar="DURATION", help="Expire after this; 0: with the mailbox.")] = 0,
    tag: Annotated[list[str] | None, typer.Option("--tag", "-t", help="Tag; may be repeated.")] = None,
    header_: Annotated[
        list[str] | None, typer.Option("--header", "-H", parser=header, metavar="'NAME: VALUE'", help="Header; may be repeated.")
    ] = None,
    msg_id: Annotated[str | None, typer.Option(help="Idempotency id: two sends with the same one store one message.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Each line of standard input is a message.")] = False,
) -> None:
    """Store a message and print its id once it is on disk (-1: delayed, it gets its id when it is due)."""
    if priority not in ("critical", "urgent", "normal", "low"):
        raise typer.BadParameter("--priority must be critical, urgent, normal or low")
    if lines and (message is not None or msg_id is not None):
        raise typer.BadParameter("--lines reads standard input; it goes with neither a payload nor --msg-id")
    options: SendOptions = {
        "priority": priority, "key": key, "delay": delay, "ttl": ttl, "tags": tag, "headers": headers(header_), "msg_id": msg_id,
    }  # fmt: skip
    body = b"" if lines else payload(message)
    async with session.client() as client:
        if lines:
            await _send_lines(session, client, address, options)
        else:
            _show(session, await client.send(address, body, **options))


async def _send_lines(session: Session, client: Client, address: str, options: SendOptions) -> None:
    async def one(line: bytes) -> None:
        _show(session, await client.send(address, line, **options))

    await pipelined(stdin_lines(), one, WINDOW)


def _show(session: Session, receipt: Receipt) -> None:
    if session.json:
        output.as_json({"msg_id": int(receipt), "duplicate": receipt.duplicate})
    else:
        output.line(f"{int(receipt)}" + (" duplicate" if receipt.duplicate else ""))
