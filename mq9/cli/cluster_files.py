"""The directory of a cluster that `mq9 cluster up` runs: which processes there are, their ports, and the secrets they share.

DIR/cluster.json     names and ports; read by `mq9 cluster ... --data-dir DIR` to find the meta service
DIR/token, secret    made once, readable by the owner alone; given to the processes in their environment, never as arguments
DIR/lock             held by the `mq9 cluster up` that runs; its content is that process's id
DIR/NAME, NAME.log   data and log of each process
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from mq9.errors import error

HOST: Final = "127.0.0.1"
PORTS: Final = range(10_000, 32_000)  # below what Linux (32768) and others (49152) give to outgoing connections
VERSION: Final = 1  # of cluster.json; another is refused: `up` made it, and an older release cannot know what it means


@dataclass(slots=True)
class ClusterFiles:
    """What is in the directory. `meta` and `brokers`: ports of each process, by its name and what they are for."""

    root: Path
    meta: dict[str, dict[str, int]] = field(default_factory=dict)
    brokers: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def meta_addresses(self) -> list[str]:
        return [f"{HOST}:{ports['api']}" for ports in self.meta.values()]

    @property
    def client_urls(self) -> dict[str, str]:
        return {name: f"nats://{HOST}:{ports['client']}" for name, ports in self.brokers.items()}

    def secret(self, name: str) -> str:
        """One of the secrets; made when it is not there."""
        path = self.root / name
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
        except FileExistsError:
            pass
        return path.read_text().strip()

    def save(self) -> None:
        """Write cluster.json, at once or not at all."""
        draft = self.root / "cluster.json.new"
        draft.write_text(json.dumps({"version": VERSION, "meta": self.meta, "brokers": self.brokers}, indent=2) + "\n")
        draft.replace(self.root / "cluster.json")


def load(root: Path) -> ClusterFiles:
    """What `mq9 cluster up` wrote. Raises INVALID_REQUEST when there is none, or one of another release."""
    path = root / "cluster.json"
    try:
        known: dict[str, Any] = json.loads(path.read_text())
        if known["version"] != VERSION:
            raise error("INVALID_REQUEST", reason=f"{path} is of version {known['version']}: it needs another release")
        return ClusterFiles(root, known["meta"], known["brokers"])
    except FileNotFoundError:
        raise error("INVALID_REQUEST", reason=f"{root} has no cluster; `mq9 cluster up --data-dir {root}` makes one") from None
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise error("INVALID_REQUEST", reason=f"cannot read {path}: {failure!r}") from failure


def prepare(root: Path, *, brokers: int, metas: int, port: int) -> ClusterFiles:
    """The directory for a cluster of this size: as it was, with what is missing. `port`: of the first broker; 0: free ones.

    Raises INVALID_REQUEST when the cluster that is there has more brokers, or another number of meta nodes.
    """
    root.mkdir(parents=True, exist_ok=True)
    files = load(root) if (root / "cluster.json").exists() else ClusterFiles(root)
    if files.meta and len(files.meta) != metas:
        raise error("INVALID_REQUEST", reason=f"the cluster in {root} has {len(files.meta)} meta nodes, which is for ever")
    if len(files.brokers) > brokers:
        reason = f"the cluster in {root} has {len(files.brokers)} brokers; `mq9 cluster drain` is how one leaves"
        raise error("INVALID_REQUEST", reason=reason)
    free = iter(_free_ports(3 * (metas + brokers)))
    for number in range(1, metas + 1):
        files.meta.setdefault(f"meta{number}", {"api": next(free), "raft": next(free), "monitor": next(free)})
    for number in range(1, brokers + 1):
        client = port + number - 1 if port else next(free)
        files.brokers.setdefault(f"broker{number}", {"client": client, "peer": next(free), "monitor": next(free)})
    for name in ("token", "secret"):
        files.secret(name)
    files.save()
    return files


def _free_ports(count: int) -> list[int]:
    """Ports nobody uses now. They are kept in cluster.json, because the others look for a process where it was.

    Not those the kernel gives to connections that go out: one of these would be in use whenever a process is started again.
    """
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise error("UNAVAILABLE", reason=f"there are no {count} free ports on {HOST}")


def lock(root: Path) -> IO[str]:
    """Take the directory for this process; it is free again when the file is closed. Raises INVALID_REQUEST when it is taken."""
    root.mkdir(parents=True, exist_ok=True)
    file = (root / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise error("INVALID_REQUEST", reason=f"another `mq9 cluster up` runs the cluster in {root}") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def runner(root: Path) -> int | None:
    """The id of the process that runs this directory's cluster; None when nobody does."""
    try:
        with (root / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read())
    except (FileNotFoundError, ValueError):
        return None
    return None
