"""`mq9 verify DIR`: is a data directory whole?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mq9.cli import exits, output
from mq9.cli.command import failures

app = typer.Typer()


@app.command("verify")
def verify(
    directory: Annotated[Path, typer.Argument(help="Data directory of a stopped server.", metavar="DIR", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Read a whole data directory and name what is damaged. Changes nothing. Exits 1 when there is damage."""
    from mq9.storage.verify import verify_directory  # noqa: PLC0415  # the store is not needed to show --help

    with failures(as_json=json):
        report = verify_directory(directory)
    if json:
        findings = [str(finding) for finding in report.findings]
        output.as_json({
            "ok": report.ok, "rows": report.rows, "mailboxes": report.mailboxes, "findings": findings,
            "findings_dropped": report.findings_dropped,
        })  # fmt: skip
    else:
        for text in report.lines():
            output.line(text)
    raise typer.Exit(exits.OK if report.ok else exits.FAILED)
