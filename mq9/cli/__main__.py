"""Entry point of the `mq9` command, and of `python -m mq9.cli`."""

from __future__ import annotations

import sys

from mq9 import __version__
from mq9.cli.secrets import leave_process_list


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"mq9 {__version__}")  # noqa: T201  # without loading anything
        return
    leave_process_list(arguments)
    # Loaded only now: the two above need neither typer nor the table of commands.
    from mq9.cli.root import app  # noqa: PLC0415

    app(prog_name="mq9")


if __name__ == "__main__":
    main()
