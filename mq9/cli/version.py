"""`mq9 version`: what is installed here, and what a server says it is."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from mq9 import __version__
from mq9.cli import output

app = typer.Typer()


@app.command("version")
def version(json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False) -> None:
    """Show the version."""
    if json:
        output.as_json({"version": __version__, "python": platform.python_version()})
    else:
        output.line(f"mq9 {__version__} (Python {platform.python_version()})")
