"""How long a broker takes to be in every in-sync set again after the others wrote without it. See `bench.cluster`."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

from bench.broker import Load, LoadFailed, cpu_s
from bench.mq9_cluster import Mq9Cluster
from bench.systems import Box, attempts

CONNECTIONS: Final = 64  # as many mailboxes are written to at once
OUTSTANDING: Final = 8
WRITE_S: Final = 3.0  # of one run of the load generator
DEADLINE_S: Final = 1800.0
SAY_S: Final = 5.0
FAILURES_MAX: Final = 20


def catch_up(cluster: Mq9Cluster, load: Load, amount: int, size: int) -> dict[str, Any]:
    """The figures, by what they are."""
    boxes = cluster.box_of_each_slot()
    *others, name = cluster.names
    cluster.stop(name)
    for _ in attempts(f"{name} to be in no in-sync set"):
        if cluster.lacking(name) == len(boxes):
            break
    before = cluster.stored_bytes(name)
    _say(f"{name} is stopped; writing")
    began_s = time.monotonic()
    messages = _write(cluster, load, boxes, amount, size)
    wrote_s = time.monotonic() - began_s

    pids = [cluster.pid(each) for each in others]
    used_s = sum(map(cpu_s, pids))
    began_s = time.monotonic()
    cluster.start(name)
    ready_s = time.monotonic() - began_s
    _wait(cluster, name)
    took_s = time.monotonic() - began_s
    return {
        "bytes of payload": messages * size,
        "messages": messages,
        "payload bytes": size,
        "mailboxes, each on a slot of its own": len(boxes),
        "written in s": round(wrote_s, 1),
        "start to ready in s": round(ready_s, 2),
        "start to in sync everywhere in s": round(took_s, 2),
        "MB of payload a second": round(messages * size / took_s / 1e6, 1),
        "processor s of the broker": round(cpu_s(cluster.pid(name)), 2),
        "processor s of the others": round(sum(map(cpu_s, pids)) - used_s, 2),
        "its store before and after in MB": f"{before / 1e6:.0f} {cluster.stored_bytes(name) / 1e6:.0f}",
        "the others' stores in MB": " ".join(f"{cluster.stored_bytes(each) / 1e6:.0f}" for each in others),
    }


def _write(cluster: Mq9Cluster, load: Load, boxes: list[Box], amount: int, size: int) -> int:
    """Write that many bytes to the mailboxes, evenly; the number of messages."""
    messages = failures = 0
    part = boxes
    while messages * size < amount:
        part = [*part[CONNECTIONS:], *part[:CONNECTIONS]]  # each connection has one mailbox in a run: take turns
        placed = cluster.placed(part[:CONNECTIONS])
        ports = ",".join(str(box.ports["leader"]) for box in placed)
        subjects, good = cluster.send_arguments(placed)
        try:
            done = load.run("send", ports, subjects, CONNECTIONS, OUTSTANDING, size, WRITE_S, good, seconds=WRITE_S)
        except LoadFailed as failure:  # a change of leader, which is no reason to begin again
            failures += 1
            _say(str(failure))
            if failures > FAILURES_MAX:
                raise
            continue
        messages += done["messages"]
    return messages


def _wait(cluster: Mq9Cluster, name: str) -> None:
    """Wait until the broker is in every in-sync set, saying how far it is."""
    said_s = time.monotonic()
    for _ in attempts(f"{name} to be in every in-sync set", DEADLINE_S):
        left = cluster.lacking(name)
        if not left:
            return
        if time.monotonic() - said_s > SAY_S:
            said_s = time.monotonic()
            _say(f"{left} slots to go")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
