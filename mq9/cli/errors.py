"""`mq9 errors`: what an error code means."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mq9.cli import exits, output
from mq9.errors import CODES, ErrorCode

app = typer.Typer(no_args_is_help=True, help="What error codes mean.")

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


@app.command("lookup")
def lookup(
    code: Annotated[str, typer.Argument(help="For example MAILBOX_NOT_FOUND.", show_default=False)], json: Json = False
) -> None:
    """Explain one code."""
    row = CODES.get(code.upper())
    if row is None:
        output.note(f"error: no error has the code {code}; `mq9 errors ls` lists them")
        raise typer.Exit(exits.NOT_FOUND)
    if json:
        output.as_json(asdict(row))
        return
    output.fields({"code": row.code, "text": row.template, "retryable": _yes_no(row), "number in v1": row.status})
    output.line(f"\n{row.doc}")


@app.command("ls")
def ls(json: Json = False) -> None:
    """List all codes."""
    if json:
        output.as_json({"errors": [asdict(row) for row in CODES.values()]})
    else:
        output.table(("CODE", "RETRYABLE", "MEANING"), [(row.code, _yes_no(row), row.doc) for row in CODES.values()])


def _yes_no(row: ErrorCode) -> str:
    return "yes" if row.retryable else "no"
