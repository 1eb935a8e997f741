#!/usr/bin/env python3
"""Exit 0 when the node in this container serves: `mq9-healthcheck [broker|meta]`.

Asks for /healthz, where the node's own settings (the environment) say that its monitoring pages are. Without an argument the
role is that of the container's first process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

TIMEOUT_S = 4.0
PORTS = {"broker": "8222", "meta": "8322"}
PREFIXES = {"broker": "MQ9_MONITOR_", "meta": "MQ9_META_MONITOR_"}


def main() -> int:
    """The exit code; what is wrong is said in one line."""
    role = sys.argv[1] if len(sys.argv) > 1 else role_of_first_process()
    fault = check(role)
    if fault:
        print(f"mq9-healthcheck: {role}: {fault}", file=sys.stderr)  # noqa: T201  # what `docker inspect` and events show
    return 1 if fault else 0


def role_of_first_process() -> str:
    """`meta` for `... mq9 meta`, else `broker`."""
    words = Path("/proc/1/cmdline").read_bytes().split(b"\0")
    return "meta" if b"meta" in words else "broker"


def check(role: str) -> str:
    """What is wrong with the node here, or nothing."""
    host = os.environ.get(f"{PREFIXES[role]}HOST", "")
    port = os.environ.get(f"{PREFIXES[role]}PORT", PORTS[role])
    try:
        with urlopen(f"http://{here(host)}:{port}/healthz", timeout=TIMEOUT_S):
            return ""
    except HTTPError as failure:
        return failure.read().decode(errors="replace")
    except OSError as failure:
        return str(failure)


def here(host: str) -> str:
    """Where to ask a node of this container that listens on `host`."""
    if host in {"", "0.0.0.0"}:  # noqa: S104  # compared
        return "127.0.0.1"
    return "[::1]" if host == "::" else f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(main())
