"""Reading agents' rows: one by one for requests, all of them when the broker starts, those of a slot when it comes to lead it.

A damaged row is logged by name and treated as absent: it is never served, and never guessed at.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mq9.errors import StorageError
from mq9.registry.agents import Agent, order_at
from mq9.registry.records import (
    VERSIONS_KEPT,
    Registration,
    Report,
    is_registration,
    is_report,
    report_key,
    unpack_registration,
    unpack_report,
    version_range,
)
from mq9.storage.interface import Row, Store, Table

log = logging.getLogger("mq9.registry")

ROWS_PER_SCAN = 1000
BYTES_PER_SCAN = 16 * 1024 * 1024


def nobody_repairs(failure: StorageError) -> None:
    """Outside a cluster there is one copy of everything."""


def read_registration(store: Store, key: bytes) -> Registration | None:
    """The registration in force of the agent with this AGENT key."""
    row = store.get(Table.AGENT, key)
    try:
        return unpack_registration(key, row) if row is not None else None
    except StorageError as failure:
        log.warning("an agent is left out: %s", failure)
        return None


def read_report(store: Store, agent: bytes) -> Report | None:
    """The last report of an agent, if there was one since it registered."""
    key = report_key(agent)
    row = store.get(Table.AGENT, key)
    try:
        return unpack_report(key, row) if row is not None else None
    except StorageError as failure:
        log.warning("a report is left out: %s", failure)
        return None


def read_version(store: Store, agent: bytes, version: str) -> Registration | None:
    """The newest registration whose label or revision is `version`."""
    current = read_registration(store, agent)
    if current is not None and version in (current.label, str(current.revision)):
        return current
    for key, _ in reversed(store.scan(Table.AGENT, *version_range(agent), VERSIONS_KEPT + 1)):
        former = read_registration(store, key)
        if former is not None and version in (former.label, str(former.revision)):
            return former
    return None


def load(store: Store, slot: bytes = b"", on_damaged: Callable[[StorageError], None] = nobody_repairs) -> list[Agent]:
    """All stored agents, or those whose keys begin with `slot`, with their last reports; no body is parsed.

    `on_damaged` hears of each record that is left out.
    """
    found: list[Agent] = []
    start, stop = slot, slot + b"\xff" * 8
    while True:
        rows = store.scan(Table.AGENT, start, stop, ROWS_PER_SCAN, BYTES_PER_SCAN)
        for row in rows:
            _take(row, found, on_damaged)
        if not rows:
            return found
        start = rows[-1][0] + b"\0"


def _take(row: Row, found: list[Agent], on_damaged: Callable[[StorageError], None]) -> None:
    key, value = row
    try:
        if is_registration(key):
            registration = unpack_registration(key, value)
            agent = Agent(registration.name, key, doc=0, order=order_at(registration.created_ms, len(found)))
            agent.describe(registration)
            found.append(agent)
        elif is_report(key) and found and key.startswith(found[-1].key + b"\0"):
            found[-1].reported(unpack_report(key, value))
    except StorageError as failure:
        log.warning("an agent's record is left out: %s", failure)
        on_damaged(failure)
