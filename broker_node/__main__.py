"""`python -m broker_node`: build the settings, run the server until a signal, exit 0 when everything is on disk."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys

from broker_node import logs
from broker_node.event_loop import new_event_loop
from broker_node.ready import ready_line
from broker_node.server import Server
from mq9.clock import SystemClock
from mq9.errors import Mq9Error
from mq9.settings import FIELDS, Settings, flag, resolve


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Prints the ready line; returns the exit code."""
    logs.configure(settings)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_serve(settings))
    except (Mq9Error, OSError) as failure:
        reason = failure.text if isinstance(failure, Mq9Error) else str(failure)
        print(f"mq9: {reason}", file=sys.stderr)  # noqa: T201  # the one line a user must see, whatever the log settings
        return 1


async def _serve(settings: Settings) -> int:
    server = Server(settings, SystemClock())
    loop = asyncio.get_running_loop()
    await server.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop_soon)
    # What was built so far lives as long as the process: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    print(ready_line(server), flush=True)  # noqa: T201  # what supervisors and tests wait for
    await server.wait_closed()
    return 0


def main() -> int:
    """Parse flags and run."""
    parser = argparse.ArgumentParser(prog="python -m broker_node", description=__doc__)
    parser.add_argument("--config", default="", help="Settings file (TOML).")
    for name, field in FIELDS.items():
        if isinstance(field.default, bool):
            parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, default=None, help=field.metadata["doc"])
        else:
            parser.add_argument(flag(name), default=None, help=field.metadata["doc"].replace("%", "%%"))
    flags = vars(parser.parse_args())
    try:
        settings = resolve(flags, os.environ, flags.pop("config"))
    except Mq9Error as failure:
        parser.error(failure.text)
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
