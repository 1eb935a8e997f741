"""The state machine: commands in, rows and answers out. Deterministic: the same commands give the same bytes.

What a command does is in rules.py; what floors do is in offsets.py. This file owns the order of things: read the command,
answer repeated ones from memory, apply the rule, check the invariants, write the rows, tell whoever watches. Rows go into
the disk's open transaction, which the journal's next flush commits with `applied`: a restart goes on exactly there.

Times and random numbers come in the command. An exception out of a rule is an answer, the same on every node; an exception
out of the disk, or a command of a version this release does not know, stops the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from meta_service import offsets, rules
from meta_service.disk import BROKERS, CLIENTS, CONFIG, NODE, SLOTS, STATE_TABLES, Disk, Snapshot
from meta_service.journal import INDEX
from meta_service.rules import Change, Refused, View
from meta_service.snapshot import APPLIED_KEY, Incoming
from mq9 import limits
from mq9.errors import error
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

COMMAND_VERSION = 1  # see raft.proto for how to change it
CONFIG_KEY = b"config"

RULES: dict[str, Callable[[Change, Any], pb.CommandResult]] = {
    "found": rules.found, "register": rules.register, "fence": rules.fence, "alter_isr": rules.alter_isr,
    "assign": rules.assign, "drain": rules.drain, "forget": rules.forget, "transfer": rules.transfer,
    "start_move": rules.start_move, "finish_move": rules.finish_move, "cancel_move": rules.cancel_move,
    "unclean_elect": rules.unclean_elect, "configure": rules.configure, "elect": rules.elect,
    "depose": rules.depose,
}  # fmt: skip  # each takes the message that its name in MetaCommand.op holds


@dataclass(frozen=True, slots=True)
class Changed:
    """What watchers need to know of one revision. The messages are shared: never change them."""

    rev: int
    config: meta.ClusterConfig | None = None
    brokers: list[meta.Broker] = field(default_factory=list)
    slots: list[meta.Slot] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    full: bool = False


class State:
    """The state after entry `applied`. One thread; `on_change` is called on it."""

    def __init__(self, disk: Disk, on_change: Callable[[Changed], None] = lambda _: None) -> None:
        self._disk = disk
        self._on_change = on_change
        self.applied = 0
        self.view = View()
        self._clients: dict[str, None] = {}  # longest unused first
        with disk.snapshot() as snapshot:
            self._load(snapshot)

    def _load(self, rows: Snapshot) -> None:
        applied = rows.get(NODE, APPLIED_KEY)
        self.applied = INDEX.unpack(applied)[0] if applied else 0
        config = rows.get(CONFIG, CONFIG_KEY)
        self.view = View(meta.ClusterConfig.FromString(config) if config else meta.ClusterConfig())
        for _, value in rows.rows(BROKERS):
            broker = meta.Broker.FromString(value)
            self.view.brokers[broker.id] = broker
        for _, value in rows.rows(SLOTS):
            slot = meta.Slot.FromString(value)
            self.view.slots[slot.slot] = slot
        remembered = [(pb.Remembered.FromString(value).rev, key.decode()) for key, value in rows.rows(CLIENTS)]
        self._clients = dict.fromkeys(client for _, client in sorted(remembered))

    def everything(self) -> Changed:
        """The whole of what is watched."""
        view = self.view
        return Changed(self.applied, view.config, list(view.brokers.values()), list(view.slots.values()), full=True)

    # --- What raft.Machine asks for ---------------------------------------------------------------------------------

    def save(self) -> None:
        self._disk.put(NODE, APPLIED_KEY, INDEX.pack(self.applied))

    def install(self, snapshot: Incoming) -> None:
        for table in STATE_TABLES:
            self._disk.clear(table)
        for row in snapshot.rows():
            if row.table not in STATE_TABLES:
                raise error("DATA_DAMAGED", reason=f"a snapshot has rows of table {row.table}")
            self._disk.put(row.table, row.key, row.value)
        self._disk.put(NODE, APPLIED_KEY, INDEX.pack(snapshot.index))
        self._load(self._disk.written())
        self._on_change(self.everything())

    def apply(self, index: int, command: bytes | None) -> pb.CommandResult:
        """The answer to entry `index`. Raises only what must stop the node."""
        self.applied = index
        if command is None:
            return pb.CommandResult(outcome=meta.OK, rev=index)
        try:
            parsed = pb.MetaCommand.FromString(command)
        except DecodeError:
            return pb.CommandResult(outcome=meta.INVALID, text="not a command", rev=index)
        if parsed.version != COMMAND_VERSION:
            raise error("UNAVAILABLE", reason=f"entry {index} is of version {parsed.version}: it needs a newer release")
        if not parsed.client:
            return self._run(index, parsed)
        repeated = self._remembered(parsed)
        if repeated is not None:
            return repeated
        result = self._run(index, parsed)
        if result.outcome == meta.OK:  # a refusal changed nothing: repeated later, the same request may be granted
            self._remember(parsed, result)
        return result

    # --- Commands -----------------------------------------------------------------------------------------------------

    def _run(self, index: int, command: pb.MetaCommand) -> pb.CommandResult:
        op = command.WhichOneof("op")
        if op == "barrier":
            self._on_change(Changed(index, None, [], []))  # watchers of every node hear how far they have come
            result = pb.CommandResult(outcome=meta.OK)
        elif op == "offsets":
            result = offsets.commit(self._disk, self.view.slots, command.offsets)
        elif op in RULES:
            result = self._run_rule(index, op, getattr(command, op))
        else:
            result = pb.CommandResult(outcome=meta.INVALID, text="a command without an operation")
        result.rev = index
        return result

    def _run_rule(self, index: int, op: str, argument: object) -> pb.CommandResult:
        change = Change(self.view, index)
        try:
            result = RULES[op](change, argument)
            rules.check(change)
        except Refused as refused:
            return pb.CommandResult(outcome=refused.outcome, text=str(refused))
        except Exception:  # a rule is a pure function: it fails alike on every node, and the entry must not stop them all
            log.exception("entry %d (%s) broke a rule; it changes nothing", index, op)
            return pb.CommandResult(outcome=meta.REFUSED, text=f"{op} failed; the log of the meta service has the reason")
        self._take_over(change)
        return result

    def _take_over(self, change: Change) -> None:
        view = self.view
        if change.config_after is not None:
            view.config = change.config_after
            self._disk.put(CONFIG, CONFIG_KEY, view.config.SerializeToString(deterministic=True))
        for name, broker in change.brokers.items():
            view.brokers[name] = broker
            self._disk.put(BROKERS, name.encode(), broker.SerializeToString(deterministic=True))
        for number, slot in change.slots.items():
            view.slots[number] = slot
            self._disk.put(SLOTS, INDEX.pack(number), slot.SerializeToString(deterministic=True))
        for name in change.forgotten:
            del view.brokers[name]
            self._disk.delete(BROKERS, name.encode())
        self._on_change(
            Changed(change.rev, change.config_after, list(change.brokers.values()), list(change.slots.values()), change.forgotten)
        )

    # --- Repeated commands --------------------------------------------------------------------------------------------

    def _remembered(self, command: pb.MetaCommand) -> pb.CommandResult | None:
        """The answer a repeated command gets; None for a new one."""
        if command.client not in self._clients:
            return None
        row = self._disk.get(CLIENTS, command.client.encode())
        assert row is not None, f"the answer for {command.client} is gone"
        known = pb.Remembered.FromString(row)
        if command.seq > known.seq:
            return None
        if command.seq == known.seq:
            return known.result
        text = f"request {command.seq} of {command.client} came after its request {known.seq}"
        return pb.CommandResult(outcome=meta.STALE, text=text, rev=self.applied)

    def _remember(self, command: pb.MetaCommand, result: pb.CommandResult) -> None:
        key = command.client.encode()
        remembered = pb.Remembered(seq=command.seq, rev=self.applied, result=result)
        self._disk.put(CLIENTS, key, remembered.SerializeToString(deterministic=True))
        self._clients.pop(command.client, None)
        self._clients[command.client] = None
        if len(self._clients) > limits.META_CLIENTS_REMEMBERED_MAX:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            self._disk.delete(CLIENTS, oldest.encode())
