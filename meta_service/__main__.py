"""`python -m meta_service`: build the settings, run one meta node until a signal."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from meta_service.server import Server
from meta_service.settings import FIELDS, MetaSettings, resolve
from mq9 import __version__
from mq9.clock import SystemClock
from mq9.errors import Mq9Error


def run(settings: MetaSettings) -> int:
    """Serve until SIGTERM or SIGINT. Prints the ready line; returns the exit code: 1 when the node could not go on."""
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, force=True, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        return asyncio.run(_serve(settings))
    except (Mq9Error, OSError) as failure:
        reason = failure.text if isinstance(failure, Mq9Error) else str(failure)
        print(f"mq9 meta: {reason}", file=sys.stderr)  # noqa: T201  # the one line a user must see, whatever the log settings
        return 1


async def _serve(settings: MetaSettings) -> int:
    server = Server(settings, SystemClock())
    await server.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop_soon)
    print(_ready_line(server), flush=True)  # noqa: T201  # what supervisors and tests wait for
    return 0 if await server.wait_closed() else 1


def _ready_line(server: Server) -> str:
    settings = server.settings
    api, raft = (
        f"{_bracketed(host)}:{port}" for host, port in ((settings.host, server.port), (settings.raft_host, server.raft_port))
    )
    data = Path(settings.data_dir).resolve()
    monitor = f" monitor=http://{_bracketed(settings.monitor_host)}:{server.monitor_port}" if server.monitor_port else ""
    return f"mq9 {__version__} meta ready node={settings.node} grpc={api} raft={raft}{monitor} data={data}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def main() -> int:
    """Parse flags and run."""
    parser = argparse.ArgumentParser(prog="python -m meta_service", description=__doc__)
    parser.add_argument("--config", default="", help="Settings file (TOML).")
    for name, field in FIELDS.items():
        parser.add_argument("--" + name.replace("_", "-"), default=None, help=field.metadata["doc"].replace("%", "%%"))
    flags = vars(parser.parse_args())
    try:
        settings = resolve(flags, os.environ, flags.pop("config"))
    except Mq9Error as failure:
        parser.error(failure.text)
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
