"""`mq9 mailbox`: make, list, describe and remove mailboxes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mq9.cli import output
from mq9.cli.arguments import duration
from mq9.cli.command import Session, command

if TYPE_CHECKING:
    from mq9.client.message import MailboxInfo

app = typer.Typer(no_args_is_help=True, help="Make, list, describe and remove mailboxes.")

Address = Annotated[str, typer.Argument(help="Address of the mailbox.", metavar="ADDRESS", show_default=False)]


@command(app, "create")
async def create(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="Address; by default one nobody can guess.", show_default=False)] = None,
    ttl: Annotated[float, typer.Option(parser=duration, metavar="DURATION", help="Time to live; 0: for ever.")] = 0,
    desc: Annotated[str | None, typer.Option(help="Description.")] = None,
    public: Annotated[bool, typer.Option("--public", help="List it to everybody.")] = False,
    exist_ok: Annotated[bool, typer.Option("--exist-ok", help="Succeed when it exists already.")] = False,
    storage: Annotated[str | None, typer.Option(help="lmdb, or memory: lost when the broker stops.")] = None,
    max_deliver: Annotated[int | None, typer.Option(help="Deliveries before a message is dead.", min=1)] = None,
    dead_letter: Annotated[str | None, typer.Option(help="Mailbox that dead messages go to.", metavar="ADDRESS")] = None,
    ack_wait: Annotated[
        float | None, typer.Option(parser=duration, metavar="DURATION", help="How long a fetched message is leased.")
    ] = None,
) -> None:
    """Make a mailbox and print its address."""
    options: dict[str, Any] = {"desc": desc, "storage": storage, "max_deliver": max_deliver, "dead_letter": dead_letter}
    async with session.client() as client:
        mailbox = await client.mailbox_create(
            name, ttl=round(ttl), exist_ok=exist_ok or None, public=public or None, ack_wait=ack_wait, **options
        )
    if session.json:
        known = {"is_new": mailbox.is_new, "ttl": mailbox.ttl, "expires_at": mailbox.expires_at}
        output.as_json({"mail_address": str(mailbox), **known})
    else:
        output.line(mailbox)


@command(app, "ls")
async def ls(
    session: Session,
    prefix: Annotated[str | None, typer.Option(help="Only addresses that begin with this.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")] = 1000,
) -> None:
    """List public mailboxes. A private address is a secret: it is not listed."""
    found: list[MailboxInfo] = []
    async with session.client() as client:
        after: str | None = None
        while len(found) < limit:
            page = await client.mailbox_list(prefix=prefix, limit=min(limit - len(found), 1000), after=after)
            found += page.mailboxes
            after = page.next
            if not after:
                break
    if session.json:
        output.as_json({"mailboxes": [_plain(each) for each in found]})
        return
    rows = [
        (each.mail_address, each.messages, output.size_text(each.bytes), output.time_text(each.expires_at), each.desc)
        for each in found
    ]
    output.table(("ADDRESS", "MESSAGES", "SIZE", "EXPIRES", "DESCRIPTION"), rows)


@command(app, "info")
async def info(session: Session, address: Address) -> None:
    """Describe one mailbox and its consumer groups."""
    async with session.client() as client:
        found = await client.mailbox_info(address)
    if session.json:
        output.as_json(_plain(found))
        return
    output.fields({
        "address": found.mail_address, "description": found.desc or "-", "public": "yes" if found.public else "no",
        "storage": found.storage or "-", "created": output.time_text(found.created_at),
        "expires": output.time_text(found.expires_at), "messages": found.messages, "delayed": found.delayed,
        "size": output.size_text(found.bytes), "last id": found.last_msg_id,
        "max deliver": found.max_deliver or "-", "dead letter": found.dead_letter or "-",
    })  # fmt: skip
    if found.groups:
        output.line("")
        output.table(("GROUP", "LAG", "UNACKED"), [(group.name, group.lag, group.unacked) for group in found.groups])


@command(app, "rm")
async def rm(
    session: Session,
    addresses: Annotated[list[str], typer.Argument(help="Mailboxes to remove.", metavar="ADDRESS...", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Off a terminal nothing is ever asked.")] = False,
) -> None:
    """Remove mailboxes with everything in them."""
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        typer.confirm(f"Remove {', '.join(addresses)} with all messages?", abort=True)
    async with session.client() as client:
        for address in addresses:
            await client.mailbox_remove(address)
    if session.json:
        output.as_json({"removed": addresses})


def _plain(info: MailboxInfo) -> dict[str, Any]:
    """A mailbox's description as JSON has it."""
    import msgspec  # noqa: PLC0415  # with the client, not for --help

    plain: dict[str, Any] = msgspec.to_builtins(info)
    return plain
