"""The registry of agents: REGISTER, REPORT, UNREGISTER, DISCOVER and the list, on the thread of the event loop.

A change is staged in the group commit and, for a registration, handed to the indexing thread at the same time. It comes
into force, and is answered, when it is durable and searchable: whoever asks after that answer finds it, by name, by text
and by meaning. Until then nobody sees it. Removals come into force when they are durable; no index is waited for, because
every hit is checked against the table of agents before it is shown.

Where data goes next: rows to `records.py`, texts to `background.py`, agents in force to `agents.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mq9 import limits
from mq9.clock import Clock
from mq9.errors import Mq9Error, error
from mq9.registry.agents import Agent, AgentTable
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
from mq9.registry.rows import load, read_registration
from mq9.settings import Settings
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Store, Table
from mq9.storage.layout import agent_key

if TYPE_CHECKING:
    from mq9.registry.embedder import Embedder
    from mq9.registry.vector_records import VectorRecord

log = logging.getLogger("mq9.registry")

PENDING_MAX: Final = 10_000  # registrations not answered yet; the next one is refused and may be repeated
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024  # of their bodies

Done = Callable[[Mq9Error | None], None]
_encode: Final = msgspec.json.Encoder().encode


class _Pending:
    """A REGISTER under way. It comes into force when it is both stored and indexed, unless its agent was dismissed meanwhile."""

    __slots__ = ("agent", "doc", "done", "indexed", "registration", "report", "stored", "vectors")

    def __init__(self, agent: Agent, doc: int, registration: Registration, done: Done) -> None:
        self.agent = agent
        self.doc = doc
        self.registration = registration
        self.done = done
        self.stored = False
        self.indexed = False
        self.report: Report | None = None  # that came in meanwhile
        self.vectors: VectorRecord | None = None


class Registry:
    """All agents of this broker. Everything here runs on the loop's thread; `done` callbacks are called there, once."""

    def __init__(
        self,
        store: Store,
        commit: GroupCommit,
        clock: Clock,
        settings: Settings,
        call_soon_threadsafe: Callable[[Callable[[], None]], object],
        make_embedder: Callable[[Settings, Clock], Embedder | None] | None = None,
    ) -> None:
        """`make_embedder` takes the place of the provider the settings name (tests, embedding applications)."""
        self.table = AgentTable()
        self.background = Background(store, settings, clock, call_soon_threadsafe, self._store_vectors, make_embedder)
        self._store = store
        self._commit = commit
        self._clock = clock
        self._settings = settings
        self._discovery = Discovery(self.table, store, clock, self.background)
        self._docs = count(1)
        self._next_order = count(1)
        self._staged: dict[str, _Pending | None] = {}  # newest change of a name that is not in force; None: unregistered
        self._pending = 0  # registrations not answered yet
        self._pending_bytes = 0
        self._trash: dict[str, tuple[bytes, int]] = {}  # expired: name -> key and revision, rows still to be deleted

    # --- Life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take over what is stored. Agents are listed at once; searching them is loaded on the indexing thread."""
        now_ms = self._clock.wall_ms()
        found = load(self._store)
        for agent in found:
            agent.doc = next(self._docs)
            agent.expect_heartbeat(self._settings.agent_heartbeat_s, max(now_ms, agent.last_seen_ms))
        self.table.load(found, now_ms)
        self._next_order = count(len(found) + 1)
        self._expire(now_ms)
        if len(self.table):
            self.background.submit(LoadJob([(agent.doc, agent.key) for agent in self.table.by_name.values()]))

    def close(self) -> None:
        """End the threads; to be called before the group commit is closed."""
        self.background.close()

    def tick(self, now_ms: int) -> None:
        """Delete rows of expired agents, a bounded number; call it a few times a second."""
        self._expire(now_ms)
        names = list(islice(self._trash, limits.RECLAIM_PER_TICK))
        for name in names:
            self._empty_trash(name)
        if names:
            self._commit.then(_log_failure)

    # --- Changes ----------------------------------------------------------------------------------------------

    def register(self, payload: bytes, done: Done) -> None:
        """Insert or replace an agent. Raises what is wrong with the request; `done(error or None)` tells the rest."""
        body = parse_agent(payload)
        now_ms = self._clock.wall_ms()
        self._expire(now_ms)
        staged = self._staged.get(body.name)
        if staged is None and body.name not in self.table.by_name:
            self._check_room()
        if self._pending >= PENDING_MAX or self._pending_bytes >= PENDING_BYTES_MAX:
            raise error("LIMIT_EXCEEDED", reason=f"{self._pending} registrations are waiting")
        current = self._current(body.name)
        registration = _registration(body, current, self._state(body.name), now_ms)
        agent = self._agent_for(body.name)
        self._stage_registration(agent.key, registration, current)
        pending = _Pending(agent, next(self._docs), registration, done)
        self._staged[body.name] = pending
        self._pending += 1
        self._pending_bytes += len(registration.body)
        if staged is None and current is not None and current.body == registration.body and self.background.ready:
            pending.doc = agent.doc  # the same again: nothing to index
            pending.indexed = True
        else:
            self._submit(pending, upsert=current is not None)
        self._commit.then(self._stored, pending)

    def report(self, payload: bytes, done: Done) -> None:
        """Note that an agent is there, and how it is. Raises AGENT_NOT_FOUND."""
        body = parse_agent(payload)
        now_ms = self._clock.wall_ms()
        self._expire(now_ms)
        agent, pending = self._find(body)
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
        self._commit.batch.put(Table.AGENT, key, pack(key, report))
        if pending is not None:
            pending.report = report
        self._commit.then(self._reported, agent, report, done)

    def unregister(self, payload: bytes, done: Done) -> None:
        """Remove an agent. Raises AGENT_NOT_FOUND."""
        body = parse_agent(payload, naming_only=True)
        self._expire(self._clock.wall_ms())
        agent, pending = self._find(body)
        revision = agent.revision
        if pending is not None:
            revision = pending.registration.revision
        agent.dismissed = True  # its registrations under way will be answered, and not come into force
        self._stage_removal(agent.key, revision)
        self._staged[agent.name] = None
        self._commit.then(self._unregistered, agent, done)

    def _check_room(self) -> None:
        if len(self.table) + len(self._staged) >= self._settings.max_agents:
            raise error("LIMIT_EXCEEDED", reason=f"{self._settings.max_agents} agents are registered")

    def _agent_for(self, name: str) -> Agent:
        """The object that stands for `name` once what is being staged is in force."""
        staged = self._staged.get(name)
        if staged is not None and not staged.agent.gone:
            return staged.agent
        live = self.table.by_name.get(name)
        if live is not None and name not in self._staged:
            return live
        self._empty_trash(name)
        return Agent(name, agent_key(name.encode()), doc=0, order=next(self._next_order))

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

    def _find(self, body: AgentBody) -> tuple[Agent, _Pending | None]:
        """The agent meant by a REPORT or UNREGISTER, and its registration under way if there is one."""
        name = body.name
        if name in self._staged:
            pending = self._staged[name]
            if pending is not None:
                return pending.agent, pending
        else:
            agent = self.table.find(name, named=body.named)
            if agent is not None:
                # Found by its mailbox, it may have a change under way of its own.
                return agent, self._staged.get(agent.name)
            for waiting in self._staged.values() if not body.named else ():
                if waiting is not None and waiting.registration.mailbox == name:
                    return waiting.agent, waiting
        raise error("AGENT_NOT_FOUND")

    # --- Rows -------------------------------------------------------------------------------------------------

    def _stage_registration(self, key: bytes, new: Registration, current: Registration | None) -> None:
        batch = self._commit.batch
        if current is not None and current.revision != new.revision:
            former = version_key(key, current.revision)
            batch.put(Table.AGENT, former, pack(former, current))
            batch.delete(Table.AGENT, version_key(key, max(0, current.revision - VERSIONS_KEPT)))
        batch.put(Table.AGENT, key, pack(key, new))
        batch.delete(Table.AGENT, report_key(key))

    def _stage_removal(self, key: bytes, revision: int) -> None:
        batch = self._commit.batch
        batch.delete(Table.AGENT, key)
        batch.delete(Table.AGENT, report_key(key))
        batch.delete(Table.AGENT_VECTOR, key)
        for former in range(max(1, revision - VERSIONS_KEPT), revision):
            batch.delete(Table.AGENT, version_key(key, former))

    def _empty_trash(self, name: str) -> None:
        """Stage the deletion of what an expired agent left behind."""
        left = self._trash.pop(name, None)
        if left is not None:
            self._stage_removal(*left)

    def _store_vectors(self, doc: int, key: bytes, record: VectorRecord) -> None:
        """Keep vectors that were made for a document, if it is still in force."""
        from mq9.registry.vector_records import pack_vectors  # noqa: PLC0415  loaded by now; not before the first agent

        if doc in self.table.by_doc:
            self._commit.batch.put(Table.AGENT_VECTOR, key, pack_vectors(key, record))
            self._commit.then(_log_failure)

    # --- Completions ------------------------------------------------------------------------------------------

    def _stored(self, failure: Mq9Error | None, pending: _Pending) -> None:
        if failure is not None:
            self._settle(pending)
            self.background.submit(RemoveJob(pending.doc))
            pending.done(failure)
            return
        pending.stored = True
        self._advance(pending)

    def _advance(self, pending: _Pending) -> None:
        """Put a registration in force once nothing is missing. Both completions keep their order, so these do too."""
        if not (pending.stored and pending.indexed):
            return
        if pending.agent.dismissed:
            self._settle(pending)
            self.background.submit(RemoveJob(pending.doc))
        elif pending.agent.gone:
            self._revive(pending)
            return
        else:
            self._put(pending)
        pending.done(None)

    def _revive(self, pending: _Pending) -> None:
        """Its former registration expired while this one was under way, and the index has forgotten that document."""
        pending.agent = Agent(pending.agent.name, pending.agent.key, 0, next(self._next_order))
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
            self.background.submit(RemoveJob(replaced))
        if pending.report is not None:
            agent.reported(pending.report)
        self._noted(agent)
        self._settle(pending)
        if pending.vectors is not None:
            self._store_vectors(pending.doc, agent.key, pending.vectors)

    def _settle(self, pending: _Pending) -> None:
        self._pending -= 1
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
                self.background.submit(RemoveJob(agent.doc))
        done(failure)

    def _noted(self, agent: Agent) -> None:
        agent.expect_heartbeat(self._settings.agent_heartbeat_s, agent.last_seen_ms)
        self.table.refresh(agent, self._clock.wall_ms())

    def _expire(self, now_ms: int) -> None:
        for agent in self.table.expire(now_ms):
            self.background.submit(RemoveJob(agent.doc))
            if agent.name not in self._staged:
                self._trash[agent.name] = (agent.key, agent.revision)

    # --- Questions --------------------------------------------------------------------------------------------

    def discover(self, payload: bytes, owner: int, done: Answer) -> None:
        """Answer a DISCOVER: `done(None, reply)`. `owner` is the connection; its later pages continue its first."""
        asked = parse_discover(payload)
        self._expire(self._clock.wall_ms())
        self._discovery.answer(asked, owner, done)

    def list(self, name_filter: str, limit: int, page: int) -> tuple[list[dict[str, Any]], int]:
        """A page (from 1) of the agents whose names hold `name_filter`, newest first, and how many there are in all."""
        self._expire(self._clock.wall_ms())
        return self._discovery.list(name_filter, limit, page)


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


def _log_failure(failure: Mq9Error | None) -> None:
    """For rows that nobody waits for: they are made again after a restart, or deleted again."""
    if failure is not None:
        log.warning("the registry could not store: %s", failure.text)
