"""The table of nouns. A noun's module is imported when the noun is used, completed or listed in `mq9 --help`."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from mq9 import __version__

# Command -> module below mq9.cli with an `app`. A module with several nouns registers each in its app.
MODULES: Final = {
    "server": "server",
    "broker": "server",
    "meta": "meta",
    "cluster": "cluster",
    "mailbox": "mailbox",
    "send": "send",
    "fetch": "fetch",
    "watch": "watch",
    "query": "fetch",
    "ack": "ack",
    "delete": "ack",
    "agent": "agent",
    "check": "check",
    "bench": "bench",
    "verify": "verify",
    "errors": "errors",
    "version": "version",
}
GROUPS: Final = frozenset({"cluster", "mailbox", "agent", "check", "bench", "errors"})  # nouns with verbs of their own


class NounGroup(TyperGroup):
    """A group that knows its commands by name before they are imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The click command of one name, or None."""
        if cmd_name not in MODULES:
            return None
        if cmd_name not in self.commands:
            app = import_module(f"mq9.cli.{MODULES[cmd_name]}").app
            if cmd_name in GROUPS:
                group = typer.main.get_command(app)
                group.name = cmd_name
                self.commands[cmd_name] = group
            else:
                self.commands.update(typer.main.get_group(app).commands)
        return self.commands[cmd_name]


app = typer.Typer(
    cls=NounGroup,
    name="mq9",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # a traceback is for a bug report: plain, complete, and without our locals
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mq9 {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Durable mailboxes and a registry for AI agents, spoken to with any NATS client.

    Connection options of every command: --server (MQ9_URL, NATS_URL), --user, --password, --token, --tls-ca, --tls-cert,
    --tls-key. Exit codes: 0 ok, 1 failed, 2 usage, 3 not reachable, 4 not allowed, 5 not found, 6 timeout.
    """
