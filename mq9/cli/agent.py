"""`mq9 agent`: the registry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mq9.cli import agent_files, output
from mq9.cli.arguments import duration
from mq9.cli.command import Session, command
from mq9.cli.pipeline import one_by_one, pipelined

if TYPE_CHECKING:
    from mq9.client.message import Agents

app = typer.Typer(no_args_is_help=True, help="Register, report, find and list agents.")

WINDOW = 64  # registrations under way at once

Name = Annotated[str, typer.Argument(help="Name of the agent.", metavar="NAME", show_default=False)]
MailboxOption = Annotated[str | None, typer.Option("--mailbox", help="Its mailbox; by default its name.", metavar="ADDRESS")]
Tags = Annotated[list[str] | None, typer.Option("--tag", "-t", help="Tag; may be repeated.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")]
Page = Annotated[int, typer.Option(min=1, help="Which page of that size.")]


@command(app, "register")
async def register(
    session: Session,
    name: Name,
    mailbox: MailboxOption = None,
    description: Annotated[
        str | None, typer.Option("--description", "-d", help="What it can do: the text it is found by.", metavar="TEXT")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="AgentCard (JSON); '-' is standard input.", metavar="FILE", allow_dash=True)
    ] = None,
    tag: Tags = None,
    ttl: Annotated[float, typer.Option(parser=duration, metavar="DURATION", help="Gone unless it reports; 0: never.")] = 0,
) -> None:
    """Register or replace an agent."""
    body: dict[str, Any] = {"name": name, "mailbox": mailbox, "payload": description, "tags": tag, "ttl": round(ttl) or None}
    if card is not None:
        body["agent_card"] = agent_files.one(sys.stdin.read() if str(card) == "-" else agent_files.read(card), str(card))
    async with session.client() as client:
        await client.agent_register(body)
    if session.json:
        output.as_json({"registered": name})


@command(app, "report")
async def report(
    session: Session,
    name: Name,
    status: Annotated[str | None, typer.Option(help="How it is, in a word.")] = None,
    info: Annotated[str | None, typer.Option(help="How it is, in a sentence.", metavar="TEXT")] = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", "-f", help="Further field; may be repeated.", metavar="NAME=VALUE")
    ] = None,
) -> None:
    """Report that an agent is alive, and how it is."""
    body: dict[str, Any] = {"name": name, "status": status, "report_info": info}
    for each in field or []:
        key, equals, value = each.partition("=")
        if not equals:
            raise typer.BadParameter(f"{each!r} is not NAME=VALUE")
        body[key] = value
    async with session.client() as client:
        await client.agent_report(body)
    if session.json:
        output.as_json({"reported": name})


@command(app, "unregister")
async def unregister(session: Session, name: Name) -> None:
    """Take an agent out of the registry."""
    async with session.client() as client:
        await client.agent_unregister(name=name)
    if session.json:
        output.as_json({"unregistered": name})


@command(app, "discover")
async def discover(
    session: Session,
    question: Annotated[str, typer.Argument(help="What is wanted, in words.", metavar="TEXT", show_default=False)],
    keywords: Annotated[bool, typer.Option("--keywords", help="Match words only, not meaning.")] = False,
    tag: Tags = None,
    status: Annotated[str | None, typer.Option(help="Only agents that report this status.")] = None,
    limit: Limit = 10,
    page: Page = 1,
) -> None:
    """Find agents that can do something, best first."""
    text, semantic = (question, None) if keywords else (None, question)
    async with session.client() as client:
        _show(session, await client.agent_discover(text=text, semantic=semantic, tags=tag, status=status, limit=limit, page=page))


@command(app, "ls")
async def ls(
    session: Session,
    tag: Tags = None,
    status: Annotated[str | None, typer.Option(help="Only agents that report this status.")] = None,
    limit: Limit = 100,
    page: Page = 1,
) -> None:
    """List agents, newest first."""
    async with session.client() as client:
        _show(session, await client.agent_discover(tags=tag, status=status, limit=limit, page=page))


def _show(session: Session, agents: Agents) -> None:
    if session.json:
        output.as_json({"agents": list(agents), "total": agents.total})
        return
    rows = [
        (agent.get("name", ""), agent.get("mailbox", ""), agent.get("status") or "-", _score(agent), _one_line(agent))
        for agent in agents
    ]
    output.table(("NAME", "MAILBOX", "STATUS", "SCORE", "DESCRIPTION"), rows)
    if agents.total > len(agents):
        output.note(f"{len(agents)} of {agents.total}")


def _score(agent: dict[str, Any]) -> str:
    score = agent.get("score")
    return f"{score:.3f}" if isinstance(score, int | float) and score else "-"


def _one_line(agent: dict[str, Any]) -> str:
    text = " ".join(str(agent.get("description") or agent.get("payload") or "").split())
    return text if len(text) <= 100 else text[:99] + "…"


@command(app, "load")
async def load(
    session: Session,
    file: Annotated[
        Path, typer.Argument(help="JSON array, or one object a line; '-' is standard input.", allow_dash=True, show_default=False)
    ],
    ttl: Annotated[float, typer.Option(parser=duration, metavar="DURATION", help="For those that name none; 0: never.")] = 0,
) -> None:
    """Register every agent of a file."""
    text = sys.stdin.read() if str(file) == "-" else agent_files.read(file)
    bodies = agent_files.many(text, str(file))
    done = 0
    async with session.client() as client:
        with output.progress("registering", len(bodies)) as bar:

            async def one(body: dict[str, Any]) -> None:
                nonlocal done
                await client.agent_register({"ttl": round(ttl) or None, **body})
                done += 1
                bar.update(bar.task_ids[0], completed=done)

            await pipelined(one_by_one(bodies), one, WINDOW)
    if session.json:
        output.as_json({"registered": done})
    else:
        output.line(f"{done} registered")


@command(app, "import")
async def import_(
    session: Session,
    url: Annotated[str, typer.Argument(help="An AgentCard, or a host that publishes one.", metavar="URL", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Register under this name; by default the card's.")] = None,
    mailbox: MailboxOption = None,
    ttl: Annotated[float, typer.Option(parser=duration, metavar="DURATION", help="Gone unless it reports; 0: never.")] = 0,
    allow_private: Annotated[bool, typer.Option("--allow-private", help="Also read from addresses of this network.")] = False,
) -> None:
    """Register an agent by the AgentCard it publishes (A2A: /.well-known/agent-card.json)."""
    # Loaded only now: --help needs none of them.
    import asyncio  # noqa: PLC0415

    from mq9.clock import SystemClock  # noqa: PLC0415
    from mq9.registry.a2a_import import fetch_card, registration_of  # noqa: PLC0415

    card = await asyncio.to_thread(fetch_card, url, SystemClock(), allow_private=allow_private, timeout_s=session.timeout)
    body = registration_of(card, url) | {"mailbox": mailbox, "ttl": round(ttl) or None}
    if name:
        body["name"] = name
    async with session.client() as client:
        await client.agent_register(body)
    if session.json:
        output.as_json({"registered": body["name"], "agent_card": card})
    else:
        output.line(body["name"])
