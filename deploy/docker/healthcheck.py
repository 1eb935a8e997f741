#!/usr/bin/env python3
"""Exit 0 when the node in this container serves: `mq9-healthcheck [broker|meta]`.

Without an argument the role is that of the container's first process. A broker is asked for /healthz; a meta node for its
status, and is well when it knows a leader and takes part. Settings are read from the environment, as the node does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

TIMEOUT_S = 4.0


def main() -> int:
    """The exit code; what is wrong is said in one line."""
    role = sys.argv[1] if len(sys.argv) > 1 else role_of_first_process()
    try:
        fault = check_meta() if role == "meta" else check_broker()
    except Exception as failure:  # noqa: BLE001  # whatever keeps the node from answering is the finding
        fault = f"{type(failure).__name__}: {failure}"
    if fault:
        print(f"mq9-healthcheck: {role}: {fault}", file=sys.stderr)  # noqa: T201  # what `docker inspect` and events show
    return 1 if fault else 0


def role_of_first_process() -> str:
    """`meta` for `... mq9 meta`, else `broker`."""
    words = Path("/proc/1/cmdline").read_bytes().split(b"\0")
    return "meta" if b"meta" in words else "broker"


def here(host: str) -> str:
    """Where to ask a node of this container that listens on `host`."""
    if host in {"", "0.0.0.0"}:  # noqa: S104  # compared
        return "127.0.0.1"
    return "[::1]" if host == "::" else f"[{host}]" if ":" in host else host


def check_broker() -> str:
    """What is wrong with the broker here, or nothing."""
    host, port = here(os.environ.get("MQ9_MONITOR_HOST", "")), os.environ.get("MQ9_MONITOR_PORT", "8222")
    try:
        with urlopen(f"http://{host}:{port}/healthz", timeout=TIMEOUT_S):
            return ""
    except HTTPError as failure:
        return failure.read().decode(errors="replace")


def check_meta() -> str:
    """What is wrong with the meta node here, or nothing."""
    # Only here: a broker's check, every few seconds, need not load them.
    from meta_service.settings import parse_members, resolve  # noqa: PLC0415
    from mq9.meta.client import Access, MetaClient  # noqa: PLC0415

    for name in ("MQ9_META_TOKEN", "MQ9_META_SECRET"):
        file = os.environ.get(f"{name}_FILE")
        if file and not os.environ.get(name):
            os.environ[name] = Path(file).read_text().rstrip("\n")
    settings = resolve({}, os.environ)
    # The certificate, if there is one, names the host of --members and not localhost.
    address = (
        parse_members(settings)[settings.node].api_address if settings.tls_cert else f"{here(settings.host)}:{settings.port}"
    )
    pems = [Path(path).read_bytes() if path else None for path in (settings.tls_ca, settings.tls_key, settings.tls_cert)]

    async def ask() -> str:
        async with MetaClient([address], Access(settings.token, *pems)) as client:
            status = await client.status(address, TIMEOUT_S)
        is_well = bool(status.leader) and status.role in {"leader", "follower"}
        return "" if is_well else f"role {status.role}, leader {status.leader or 'unknown'}"

    return asyncio.run(ask())


if __name__ == "__main__":
    sys.exit(main())
