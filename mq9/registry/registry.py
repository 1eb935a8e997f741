"""The registry of agents: REGISTER, REPORT, UNREGISTER, DISCOVER and the list, on the thread of the event loop.

A change is staged in the group commit and, for a registration, handed to the indexing thread at the same time. It comes
into force, and is answered, when it is durable and searchable: whoever asks after that answer finds it, by name, by text
and by meaning. Until then nobody sees it. Removals come into force when they are durable; no index is waited for, because
every hit is checked against the table of agents before it is shown.

In a cluster an agent belongs to the slot of its name. Its changes come to the broker that leads the slot, through the
commit of that slot, and only that broker lists, ranks and expires it: `slot_gained` and `slot_lost`. What the brokers of a
cluster tell each other about their agents is `sharing.py`.

Where data goes next: rows to `records.py`, texts to `background.py`, agents in force to `agents.py`.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from mq9 import limits
from mq9.clock import Clock
from mq9.errors import Mq9Error, StorageError, error
from mq9.registry.agents import Agent, AgentTable, order_at
from mq9.registry.background import Background
from mq9.registry.discovery import Answer, Discovery
from mq9.registry.jobs import IndexJob, LoadJob, RemoveJob
from mq9.registry.records import (
    ACTIVE,
    VERSIONS_KEPT,
    Registration,
    Report,
    pack,
    report_key,
    version_key,
)
from mq9.registry.requests import AgentBody, parse_agent, parse_discover
from mq9.registry.rows import load, nobody_repairs, read_registration
from mq9.settings import Settings
from mq9.storage.interface import Batch, Store, Table
from mq9.storage.layout import agent_key, slot_of

if TYPE_CHECKING:
    from mq9.registry.embedder import Embedder
    from mq9.registry.vector_records import VectorRecord

log = logging.getLogger("mq9.registry")

PENDING_MAX: Final = 10_000  # registrations not answered yet; the next one is refused and may be repeated
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024  # of their bodies

Done = Callable[[Mq9Error | None], None]


class Commit(Protocol):
    """Where changes are staged: storage/commit.py, or what stands for it for one slot of a cluster."""

    @property
    def batch(self) -> Batch: ...

    def then(self, done: Callable[..., None], *args: Any) -> None: ...


CommitOf = Callable[[bytes], Commit | None]  # by AGENT key; None: this broker does not lead that slot
_U16: Final = struct.Struct(">H")
_encode: Final = msgspec.json.Encoder().encode


class _Pending:
    """A REGISTER under way. It comes into force when it is both stored and indexed, unless its agent was dismissed meanwhile."""

    __slots__ = ("agent", "doc", "done", "indexed", "over", "registration", "report", "stored", "vectors")

    def __init__(self, agent: Agent, doc: int, registration: Registration, done: Done) -> None:
        self.agent = agent
        self.doc = doc
        self.registration = registration
        self.done = done
        self.stored = False
        self.indexed = False
        self.over = False  # answered without coming into force: its slot is led elsewhere
        self.report: Report | None = None  # that came in meanwhile
        self.vectors: VectorRecord | None = None


class Registry:
    """All agents of this broker. Everything here runs on the loop's thread; `done` callbacks are called there, once."""

    def __init__(
        self,
        store: Store,
        commit: Commit,
        clock: Clock,
        settings: Settings,
        call_soon_threadsafe: Callable[[Callable[[], None]], object],
        make_embedder: Callable[[Settings, Clock], Embedder | None] | None = None,
    ) -> None:
        """`make_embedder` takes the place of the provider the settings name (tests, embedding applications)."""
        self.table = AgentTable()
        self.background = Background(store, settings, clock, call_soon_threadsafe, self._store_vectors, make_embedder)
        self._store = store
        self._commit_of: CommitOf = lambda _: commit
        self._clock = clock
        self._settings = settings
        self.discovery = Discovery(self.table, store, clock, self.background)
        self._docs = count(1)
        self._last_order = 0
        self._staged: dict[str, _Pending | None] = {}  # newest change of a name that is not in force; None: unregistered
        self._under_way: set[_Pending] = set()  # registrations not answered yet
        self._pending_bytes = 0
        self.slot_count = limits.SLOTS
        self.slots: dict[int, int] = {}  # in a cluster: those this broker has the agents of -> which gain that was
        self._gains = count(1)
        self._trash: dict[str, tuple[bytes, int]] = {}  # expired: name -> key and revision, rows still to be deleted

    # --- Life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take over what is stored. Agents are listed at once; searching them is loaded on the indexing thread."""
        self._load(load(self._store))

    def join_cluster(self, commit_of: CommitOf, slot_count: int) -> None:
        """Be the registry of one broker of a cluster, in place of `start`: with the agents of slots it is told of."""
        self._commit_of = commit_of
        self.slot_count = slot_count

    def slot_gained(self, slot: int, on_damaged: Callable[[StorageError], None] = nobody_repairs) -> None:
        """This broker leads a slot from now on: take over its agents. They are listed at once; queries wait for the rest.

        Nobody could report while there was no leader, so everybody's heartbeats count from now. `on_damaged` hears of each
        record that cannot be read.
        """
        self.slot_lost(slot)
        self._load(load(self._store, _U16.pack(slot), on_damaged))
        self.slots[slot] = next(self._gains)

    def slot_lost(self, slot: int) -> None:
        """Another broker leads it, or will: forget its agents, and have those who wait ask again."""
        if self.slots.pop(slot, None) is None:
            return
        prefix = _U16.pack(slot)
        docs = [agent.doc for agent in self.table.drop_slot(prefix)]
        self._trash = {name: left for name, left in self._trash.items() if not left[0].startswith(prefix)}
        for name in [name for name in self._staged if self._key(name).startswith(prefix)]:
            del self._staged[name]
        for pending in [pending for pending in self._under_way if pending.agent.key.startswith(prefix)]:
            docs.append(pending.doc)
            self._settle(pending)
            pending.over = True
            pending.done(error("UNAVAILABLE", reason="the slot of this agent has changed hands"))
        if docs:
            self.background.submit(RemoveJob(docs))

    def _load(self, found: list[Agent]) -> None:
        now_ms = self._clock.wall_ms()
        for agent in found:
            agent.doc = next(self._docs)
            agent.expect_heartbeat(self._settings.agent_heartbeat_s, max(now_ms, agent.last_seen_ms))
            self._last_order = max(self._last_order, agent.order)
        self.table.load(found, now_ms)
        self._expire(now_ms)
        living = [(agent.doc, agent.key) for agent in found if not agent.gone]
        if living:
            self.background.submit(LoadJob(living))

    def close(self) -> None:
        """End the threads; to be called before the group commit is closed."""
        self.background.close()

    def tick(self, now_ms: int) -> None:
        """Delete rows of expired agents, a bounded number; call it a few times a second."""
        self._expire(now_ms)
        names = list(islice(self._trash, limits.RECLAIM_PER_TICK))
        commits = {id(commit): commit for name in names if (commit := self._empty_trash(name)) is not None}
        for commit in commits.values():
            commit.then(_log_failure)

    # --- Changes ----------------------------------------------------------------------------------------------

    def register(self, payload: bytes, done: Done) -> None:
        """Insert or replace an agent. Raises what is wrong with the request; `done(error or None)` tells the rest."""
        body = parse_agent(payload)
        commit = self._commit_for(self._key(body.name))
        now_ms = self._clock.wall_ms()
        self._expire(now_ms)
        staged = self._staged.get(body.name)
        if staged is None and body.name not in self.table.by_name:
            self._check_room()
        if len(self._under_way) >= PENDING_MAX or self._pending_bytes >= PENDING_BYTES_MAX:
            raise error("LIMIT_EXCEEDED", reason=f"{len(self._under_way)} registrations are waiting")
        current = self._current(body.name)
        registration = _registration(body, current, self._state(body.name), now_ms)
        agent = self._agent_for(body.name, now_ms)
        _stage_registration(commit.batch, agent.key, registration, current)
        pending = _Pending(agent, next(self._docs), registration, done)
        self._staged[body.name] = pending
        self._under_way.add(pending)
        self._pending_bytes += len(registration.body)
        if staged is None and current is not None and current.body == registration.body and self.background.ready:
            pending.doc = agent.doc  # the same again: nothing to index
            pending.indexed = True
        else:
            self._submit(pending, upsert=current is not None)
        commit.then(self._stored, pending)

    def report(self, payload: bytes, done: Done, name: str = "") -> None:
        """Note that an agent is there, and how it is; `name` says which, if it is not the body's. Raises AGENT_NOT_FOUND."""
        body = parse_agent(payload)
        now_ms = self._clock.wall_ms()
        self._expire(now_ms)
        agent, pending = self._find(name or body.name, named=bool(name) or body.named)
        commit = self._commit_for(agent.key)
        ttl_s, heartbeat_s = agent.ttl_s, agent.heartbeat_s
        if pending is not None:
            ttl_s, heartbeat_s = pending.registration.ttl_s, pending.registration.heartbeat_s
        report = Report(
            last_seen_ms=now_ms,
            ttl_s=ttl_s if body.ttl_s is None else body.ttl_s,
            heartbeat_s=heartbeat_s if body.heartbeat_s is None else body.heartbeat_s,
            state=body.state or self._state(agent.name),
            status=body.status or "",
            body=_encode(body.fields),
        )
        key = report_key(agent.key)
        commit.batch.put(Table.AGENT, key, pack(key, report))
        if pending is not None:
            pending.report = report
        commit.then(self._reported, agent, report, done)

    def unregister(self, payload: bytes, done: Done, name: str = "") -> None:
        """Remove an agent; `name` says which, if it is not the body's. Raises AGENT_NOT_FOUND."""
        body = parse_agent(payload, naming_only=True)
        self._expire(self._clock.wall_ms())
        agent, pending = self._find(name or body.name, named=bool(name) or body.named)
        commit = self._commit_for(agent.key)
        revision = agent.revision
        if pending is not None:
            revision = pending.registration.revision
        agent.dismissed = True  # its registrations under way will be answered, and not come into force
        _stage_removal(commit.batch, agent.key, revision)
        self._staged[agent.name] = None
        commit.then(self._unregistered, agent, done)

    def _check_room(self) -> None:
        if len(self.table) + len(self._staged) >= self._settings.max_agents:
            raise error("LIMIT_EXCEEDED", reason=f"{self._settings.max_agents} agents are registered")

    def _key(self, name: str) -> bytes:
        encoded = name.encode()
        return agent_key(encoded, slot_of(encoded, self.slot_count))

    def _commit_for(self, key: bytes) -> Commit:
        commit = self._commit_of(key)
        if commit is None:
            raise error("UNAVAILABLE", reason="another broker leads the slot of this agent")
        return commit

    def _agent_for(self, name: str, now_ms: int) -> Agent:
        """The object that stands for `name` once what is being staged is in force."""
        staged = self._staged.get(name)
        if staged is not None and not staged.agent.gone:
            return staged.agent
        live = self.table.by_name.get(name)
        if live is not None and name not in self._staged:
            return live
        self._empty_trash(name)
        return self._new_agent(name, now_ms)

    def _new_agent(self, name: str, now_ms: int) -> Agent:
        self._last_order = max(self._last_order + 1, order_at(now_ms))
        return Agent(name, self._key(name), doc=0, order=self._last_order)

    def _current(self, name: str) -> Registration | None:
        """The registration that a new one of this name replaces."""
        if name in self._staged:
            staged = self._staged[name]
            return staged.registration if staged is not None else None
        agent = self.table.by_name.get(name)
        return read_registration(self._store, agent.key) if agent is not None else None

    def _state(self, name: str) -> str:
        """The state of this name, as the newest accepted change has it."""
        staged = self._staged.get(name)
        if staged is not None:
            return staged.report.state if staged.report is not None else staged.registration.state
        live = self.table.by_name.get(name)
        return live.state if live is not None and name not in self._staged else ACTIVE

    def _find(self, name: str, *, named: bool) -> tuple[Agent, _Pending | None]:
        """The agent meant by a REPORT or UNREGISTER, and its registration under way if there is one."""
        if name in self._staged:
            pending = self._staged[name]
            if pending is not None:
                return pending.agent, pending
        else:
            agent = self.table.find(name, named=named)
            if agent is not None:
                # Found by its mailbox, it may have a change under way of its own.
                return agent, self._staged.get(agent.name)
            for waiting in self._staged.values() if not named else ():
                if waiting is not None and waiting.registration.mailbox == name:
                    return waiting.agent, waiting
        raise error("AGENT_NOT_FOUND")

    # --- Rows -------------------------------------------------------------------------------------------------

    def _empty_trash(self, name: str) -> Commit | None:
        """Stage the deletion of what an expired agent left behind; returns where, None where there is nothing to do."""
        left = self._trash.pop(name, None)
        commit = self._commit_of(left[0]) if left is not None else None
        if left is not None and commit is not None:
            _stage_removal(commit.batch, *left)
        return commit

    def _store_vectors(self, doc: int, key: bytes, record: VectorRecord) -> None:
        """Keep vectors that were made for a document, if it is still in force."""
        from mq9.registry.vector_records import pack_vectors  # noqa: PLC0415  loaded by now; not before the first agent

        commit = self._commit_of(key) if doc in self.table.by_doc else None
        if commit is not None:
            commit.batch.put(Table.AGENT_VECTOR, key, pack_vectors(key, record))
            commit.then(_log_failure)

    # --- Completions ------------------------------------------------------------------------------------------

    def _stored(self, failure: Mq9Error | None, pending: _Pending) -> None:
        if pending.over:
            return
        if failure is not None:
            self._settle(pending)
            self.background.submit(RemoveJob([pending.doc]))
            pending.done(failure)
            return
        pending.stored = True
        self._advance(pending)

    def _advance(self, pending: _Pending) -> None:
        """Put a registration in force once nothing is missing. Both completions keep their order, so these do too."""
        if pending.over:
            self.background.submit(RemoveJob([pending.doc]))  # it was indexed after it was to be forgotten
            return
        if not (pending.stored and pending.indexed):
            return
        if pending.agent.dismissed:
            self._settle(pending)
            self.background.submit(RemoveJob([pending.doc]))
        elif pending.agent.gone:
            self._revive(pending)
            return
        else:
            self._put(pending)
        pending.done(None)

    def _revive(self, pending: _Pending) -> None:
        """Its former registration expired while this one was under way, and the index has forgotten that document."""
        pending.agent = self._new_agent(pending.agent.name, self._clock.wall_ms())
        pending.doc = next(self._docs)
        pending.indexed = False
        self._submit(pending, upsert=True)

    def _submit(self, pending: _Pending, *, upsert: bool) -> None:
        """Have a registration made searchable."""

        def indexed(vectors: VectorRecord | None) -> None:
            pending.vectors = vectors
            pending.indexed = True
            self._advance(pending)

        body = pending.registration.body
        self.background.submit(IndexJob(pending.doc, pending.agent.key, pending.agent.name, body, upsert, indexed))

    def _put(self, pending: _Pending) -> None:
        agent = pending.agent
        replaced = self.table.put(agent, pending.doc, pending.registration)
        if replaced is not None and replaced != pending.doc:
            self.background.submit(RemoveJob([replaced]))
        if pending.report is not None:
            agent.reported(pending.report)
        self._noted(agent)
        self._settle(pending)
        if pending.vectors is not None:
            self._store_vectors(pending.doc, agent.key, pending.vectors)

    def _settle(self, pending: _Pending) -> None:
        self._under_way.discard(pending)
        self._pending_bytes -= len(pending.registration.body)
        if self._staged.get(pending.agent.name) is pending:
            del self._staged[pending.agent.name]

    def _reported(self, failure: Mq9Error | None, agent: Agent, report: Report, done: Done) -> None:
        if failure is None and self.table.by_name.get(agent.name) is agent:
            agent.reported(report)
            self._noted(agent)
        done(failure)

    def _unregistered(self, failure: Mq9Error | None, agent: Agent, done: Done) -> None:
        if self._staged.get(agent.name, agent) is None:
            del self._staged[agent.name]
        agent.dismissed = failure is None
        if failure is None and not agent.gone:
            self.table.remove(agent)
            if agent.doc:
                self.background.submit(RemoveJob([agent.doc]))
        done(failure)

    def _noted(self, agent: Agent) -> None:
        agent.expect_heartbeat(self._settings.agent_heartbeat_s, agent.last_seen_ms)
        self.table.refresh(agent, self._clock.wall_ms())

    def _expire(self, now_ms: int) -> None:
        for agent in self.table.expire(now_ms):
            self.background.submit(RemoveJob([agent.doc]))
            if agent.name not in self._staged:
                self._trash[agent.name] = (agent.key, agent.revision)

    def expire(self) -> int:
        """Have no agent in force whose time is over; returns the time, in milliseconds since 1970."""
        now_ms = self._clock.wall_ms()
        self._expire(now_ms)
        return now_ms

    # --- Questions --------------------------------------------------------------------------------------------

    def discover(self, payload: bytes, owner: int, done: Answer) -> None:
        """Answer a DISCOVER: `done(None, reply)`. `owner` is the connection; its later pages continue its first."""
        asked = parse_discover(payload)
        self.expire()
        self.discovery.answer(asked, owner, done)

    def find(self, mailbox: str) -> Agent:
        """The agent of that name or, where there is none, with that mailbox. Raises AGENT_NOT_FOUND."""
        self.expire()
        return self._find(mailbox, named=False)[0]

    def list(self, name_filter: str, limit: int, page: int) -> tuple[list[dict[str, Any]], int]:
        """A page (from 1) of the agents whose names hold `name_filter`, newest first, and how many there are in all."""
        self.expire()
        return self.discovery.list(name_filter, limit, page)


def _registration(body: AgentBody, current: Registration | None, state: str, now_ms: int) -> Registration:
    """What a REGISTER makes of a name. The same body again is the same revision; a state stays until another is given."""
    encoded = _encode(body.fields)
    if len(encoded) > limits.AGENT_RECORD_BYTES_MAX:
        raise error("PAYLOAD_TOO_LARGE", size=len(encoded), limit=limits.AGENT_RECORD_BYTES_MAX)
    same = current is not None and current.body == encoded
    return Registration(
        name=body.name,
        mailbox=body.mailbox,
        mailbox_uri=body.mailbox_uri,
        revision=1 if current is None else current.revision if same else current.revision + 1,
        label=body.label,
        created_ms=now_ms if current is None else current.created_ms,
        updated_ms=now_ms,
        ttl_s=body.ttl_s or 0,
        heartbeat_s=body.heartbeat_s or 0,
        state=body.state or state,
        status=body.status or "",
        tags=body.tags,
        body=encoded,
    )


def _stage_registration(batch: Batch, key: bytes, new: Registration, current: Registration | None) -> None:
    if current is not None and current.revision != new.revision:
        former = version_key(key, current.revision)
        batch.put(Table.AGENT, former, pack(former, current))
        batch.delete(Table.AGENT, version_key(key, max(0, current.revision - VERSIONS_KEPT)))
    batch.put(Table.AGENT, key, pack(key, new))
    batch.delete(Table.AGENT, report_key(key))


def _stage_removal(batch: Batch, key: bytes, revision: int) -> None:
    batch.delete(Table.AGENT, key)
    batch.delete(Table.AGENT, report_key(key))
    batch.delete(Table.AGENT_VECTOR, key)
    for former in range(max(1, revision - VERSIONS_KEPT), revision):
        batch.delete(Table.AGENT, version_key(key, former))


def _log_failure(failure: Mq9Error | None) -> None:
    """For rows that nobody waits for: they are made again after a restart, or deleted again."""
    if failure is not None:
        log.warning("the registry could not store: %s", failure.text)
