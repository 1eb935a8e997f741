"""`mq9 ack` and `mq9 delete`: be done with messages."""

from __future__ import annotations

from typing import Annotated

import typer

from mq9.cli import output
from mq9.cli.arguments import duration
from mq9.cli.command import Session, command

app = typer.Typer()

Address = Annotated[str, typer.Argument(help="Address of the mailbox.", metavar="ADDRESS", show_default=False)]
Ids = Annotated[list[int], typer.Argument(help="Message ids.", metavar="MSG_ID...", show_default=False)]


@command(app, "ack")
async def ack(
    session: Session,
    address: Address,
    group: Annotated[str, typer.Argument(help="Consumer group.", metavar="GROUP", show_default=False)],
    msg_ids: Ids,
    up_to: Annotated[bool, typer.Option("--up-to", help="Also confirm what came before each one in its batch.")] = False,
    nack: Annotated[bool, typer.Option("--nack", help="Give them back instead: the group gets them again.")] = False,
    delay: Annotated[float, typer.Option(parser=duration, metavar="DURATION", help="With --nack: after this.")] = 0,
) -> None:
    """Confirm messages of a group."""
    if nack and up_to:
        raise typer.BadParameter("--nack and --up-to exclude each other")
    async with session.client() as client:
        if nack:
            await client.nack(address, group, msg_ids, delay_s=delay)
        elif up_to:
            for msg_id in msg_ids:
                await client.ack(address, group, msg_id)
        else:
            await client.ack(address, group, msg_ids)
    if session.json:
        output.as_json({"nacked" if nack else "acked": msg_ids})


@command(app, "delete")
async def delete(session: Session, address: Address, msg_ids: Ids) -> None:
    """Delete messages for everybody."""
    async with session.client() as client:
        for msg_id in msg_ids:
            await client.delete(address, msg_id)
    if session.json:
        output.as_json({"deleted": msg_ids})
