"""The Raft thread: one event loop that runs RaftNode, its transport and its disk; the way in and out for other threads.

Callers propose commands and ask for barriers from any thread and get futures. A barrier is an entry that says nothing: when
it commits, this node was the leader after it was asked. Linearizable reads and renewed leases wait for one that was proposed
after they came; one is in flight at a time, and everybody who came meanwhile shares the next.

Whatever goes wrong with the disk or with Raft itself stops the node for good: it stops answering peers and callers, and
`on_failure` is called. A restart then goes on from what is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pysyncobj.config import FAIL_REASON

from meta_service.contracts import RaftBroken, Tuning
from meta_service.disk import Disk
from meta_service.frames import Message
from meta_service.raft import RaftNode
from meta_service.state import COMMAND_VERSION, Changed, State
from meta_service.transport import Address, Events, Identity, Self, Transport
from mq9 import limits
from mq9.errors import Mq9Error, error
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

TICK_S: Final = 0.02  # how late a timeout is noticed at most
START_TIMEOUT_S: Final = 60.0


class NotLeader(Exception):
    """Another node leads, or none; `leader` names it if it is known."""

    def __init__(self, leader: str) -> None:
        super().__init__(f"not the leader; {leader or 'nobody'} is")
        self.leader = leader


class OutcomeUnknown(Exception):
    """Leadership was lost while the command was on its way: it may or may not happen. Repeat it with its request id."""


@dataclass(frozen=True, slots=True)
class ClusterDefaults:
    """What a new cluster begins with."""

    slots: int = limits.SLOTS
    replication_factor: int = 3
    min_in_sync: int = 2


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`peers` are the other nodes by name; `barrier_s` is the time between barriers nobody asked for."""

    identity: Identity
    peers: Mapping[str, Address]
    directory: Path
    host: str = "127.0.0.1"
    port: int = 0
    tuning: Tuning = field(default_factory=Tuning)
    barrier_s: float = 0.2
    disk_reserve_bytes: int = 0
    sync: bool = True  # off only for tests that have to see what is lost without it
    defaults: ClusterDefaults = field(default_factory=ClusterDefaults)


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called on the Raft thread; they must return at once. `on_role` says since when this node leads, or None."""

    on_change: Callable[[Changed], None]
    on_role: Callable[[bool], None]
    on_barrier: Callable[[int, float], None]  # a barrier committed: its revision, and when it was proposed
    on_failure: Callable[[BaseException], None]


Barrier = tuple["Future[int]", bool]  # and whether the disk must show the state as well


class Engine:
    """One meta node without its API."""

    def __init__(self, options: EngineOptions, hooks: Hooks) -> None:
        self.options = options
        self._hooks = hooks
        self.failure: BaseException | None = None
        self.proposals = 0  # since start
        self.disk = Disk(options.directory, sync=options.sync)
        try:
            self.state = State(self.disk, hooks.on_change)
            self.transport = Transport(options.identity, options.peers, self._events())
            self.raft = RaftNode(
                options.identity.node, list(options.peers), self.disk, self.state, self.transport, options.tuning
            )
        except BaseException:  # whatever it was, the directory must not stay locked
            self.disk.close()
            raise
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="raft", daemon=True)
        self._started: Future[int] = Future()
        self._stopping = asyncio.Event()
        self._turn_due = False
        self._led = False
        self._founding = False
        self._unanswered: set[Future[Any]] = set()
        self._waiting: list[Barrier] = []
        self._in_flight: list[Barrier] | None = None
        self._barrier_due_s = 0.0
        self._after_tick: list[tuple[Barrier, int]] = []

    def _events(self) -> Events:
        return Events(
            about_self=lambda: Self(self.raft.journal.is_blank, self.state.view.config.cluster_id),
            greeted=self._greeted,
            # Raft is made after its transport: these look it up when they are called.
            connected=self._guarded(lambda peer: self.raft.peer_connected(peer)),  # noqa: PLW0108
            disconnected=self._guarded(lambda peer: self.raft.peer_disconnected(peer)),  # noqa: PLW0108
            received=self._received,
        )

    # --- Any thread -------------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Start the thread; the Raft port once it listens. Raises OSError or Mq9Error when it cannot."""
        self._thread.start()
        return self._started.result(START_TIMEOUT_S)

    def propose(self, command: pb.MetaCommand) -> Future[pb.CommandResult]:
        """Have a command agreed on and applied. The future may fail with NotLeader, OutcomeUnknown or Mq9Error, the last
        when this node stops; without a majority it is not answered until then: wait with a timeout."""
        command.version = COMMAND_VERSION
        self.proposals += 1
        body = command.SerializeToString()
        future: Future[pb.CommandResult] = Future()
        if len(body) > limits.META_COMMAND_BYTES_MAX:
            reason = f"a command of {len(body)} bytes; {limits.META_COMMAND_BYTES_MAX} are allowed"
            future.set_exception(error("INVALID_REQUEST", reason=reason))
        else:
            self._ask(self._propose, future, body)
        return future

    def barrier(self, *, disk: bool = False, soon: bool = True) -> Future[int]:
        """The revision of a barrier that is proposed after this call. With `disk` the state on the disk is as new by
        then; with `soon` off it may wait for the next one that is due anyway."""
        future: Future[int] = Future()
        self._ask(self._ask_barrier, future, disk, soon)
        return future

    def stop(self) -> None:
        """Hand the leadership on, if there is one, and release the directory."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the loop is closed: it has stopped by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def abandon(self) -> None:
        """Release the directory of an engine that was never started."""
        self.disk.close()

    def _ask(self, function: Callable[..., object], future: Future[Any], *arguments: object) -> None:
        """Have the loop take a question. The future is noted first: either the loop is closed by then, or whoever closes it
        finds the future."""
        self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)
        try:
            self._loop.call_soon_threadsafe(function, future, *arguments)
        except RuntimeError:  # the loop is closed: this node has stopped
            _fail(future, self._gone())

    def _gone(self) -> Mq9Error:
        return error("UNAVAILABLE", reason=f"this meta node has stopped: {self.failure or 'it was asked to'}")

    # --- The thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()
            for future in list(self._unanswered):  # what the loop was not given time for, and what a turn that failed has left
                _fail(future, self._gone())

    async def _main(self) -> None:
        try:
            port = await self.transport.start(self.options.host, self.options.port)
        except (OSError, Mq9Error) as failure:
            self.disk.close()
            self._started.set_exception(failure)
            return
        self._started.set_result(port)
        timer = asyncio.ensure_future(self._tick_for_ever())
        await self._stopping.wait()
        timer.cancel()
        await self._leave()
        await self.transport.close()
        self.raft.fail_waiting()
        self.raft.close()
        self.disk.close()

    async def _leave(self) -> None:
        """A leader that stops says so: its successor need not wait for an election timeout."""
        if self.raft.is_leader and self.options.peers and self.failure is None:
            self.raft.step_aside()
            until_s = time.monotonic() + self.options.tuning.election_min_s
            while time.monotonic() < until_s and self.raft.is_leader:
                self._turn()
                await asyncio.sleep(0.005)

    async def _tick_for_ever(self) -> None:
        while True:
            self._turn()
            await asyncio.sleep(TICK_S)

    def _wake(self) -> None:
        """Have a turn after what is ready now: everything that arrives until then shares its fsync."""
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self.failure is not None:
            return  # whatever is still in memory may be ahead of the disk
        try:
            self._barrier_if_due()
            again = self.raft.tick()
            self._finish_barriers()
        except Exception as failure:  # noqa: BLE001  # a node whose disk or Raft failed in any way must not go on
            self._fail(failure)
            return
        self._notice_role()
        if again:
            self._wake()

    def _fail(self, failure: BaseException) -> None:
        if self.failure is None:
            self.failure = failure
            known = isinstance(failure, Mq9Error | RaftBroken)
            log.critical("this meta node stops: %s", failure, exc_info=None if known else failure)
            self._stopping.set()
            self._hooks.on_failure(failure)

    def _guarded(self, function: Callable[..., object]) -> Callable[..., None]:
        def guarded(*arguments: object) -> None:
            if self.failure is not None:
                return
            try:
                function(*arguments)
            except Exception as failure:  # noqa: BLE001  # as in _turn: half a step of Raft must not be followed by another
                self._fail(failure)
            else:
                self._wake()

        return guarded

    def _received(self, peer: str, message: Message) -> None:
        self._guarded(self.raft.receive)(peer, message)

    def _greeted(self, peer: str, about: Self) -> str:
        ours = self.state.view.config.cluster_id
        if ours and about.cluster_id and ours != about.cluster_id:
            return f"{peer} has the data of another cluster"
        self._guarded(self.raft.joining.peer_is_blank)(peer, about.blank)
        return ""

    def _notice_role(self) -> None:
        leads = self.raft.is_leader
        if leads == self._led:
            return
        self._led = leads
        self._founding = False
        self._hooks.on_role(leads)
        if not leads:
            waiting, self._waiting = self._waiting, []
            for future, _ in waiting:
                _fail(future, NotLeader(self.raft.leader))

    # --- Proposals ----------------------------------------------------------------------------------------------------

    def _propose(self, future: Future[pb.CommandResult], body: bytes) -> None:
        if self._stopping.is_set():
            _fail(future, self._gone())
        elif not self.raft.is_leader:
            _fail(future, NotLeader(self.raft.leader))
        elif self.raft.waiting_count() >= limits.META_PROPOSALS_MAX:
            _fail(future, error("LIMIT_EXCEEDED", reason=f"{limits.META_PROPOSALS_MAX} commands are waiting"))
        elif self.options.disk_reserve_bytes and self.disk.free_bytes() < self.options.disk_reserve_bytes:
            _fail(future, error("STORAGE_FULL"))
        else:
            self.raft.propose(body, lambda result, reason: self._answer(future, result, reason))
            self._wake()

    def _answer(self, future: Future[Any], result: Any, reason: int) -> None:
        if reason == FAIL_REASON.SUCCESS:
            _succeed(future, result)
        elif reason == FAIL_REASON.NOT_LEADER:
            _fail(future, NotLeader(self.raft.leader))
        else:
            _fail(future, OutcomeUnknown())

    def _ask_barrier(self, future: Future[int], disk: bool, soon: bool) -> None:
        if self._stopping.is_set():
            _fail(future, self._gone())
        elif not self.raft.is_leader:
            _fail(future, NotLeader(self.raft.leader))
        else:
            self._waiting.append((future, disk))
            if soon:
                self._barrier_due_s = 0.0
                self._wake()

    def _barrier_if_due(self) -> None:
        now_s = time.monotonic()
        if not self.raft.is_leader or self._in_flight is not None or now_s < self._barrier_due_s:
            return
        self._barrier_due_s = now_s + self.options.barrier_s
        self._in_flight, self._waiting = self._waiting, []
        command = pb.MetaCommand(version=COMMAND_VERSION, barrier=pb.Barrier())
        self.raft.propose(command.SerializeToString(), lambda result, reason: self._barrier_done(now_s, result, reason))

    def _barrier_done(self, proposed_s: float, result: pb.CommandResult | None, reason: int) -> None:
        barriers, self._in_flight = self._in_flight or [], None
        if result is None:
            for future, _ in barriers:
                self._answer(future, None, reason)
            return
        self._after_tick += [(barrier, result.rev) for barrier in barriers]
        self._hooks.on_barrier(result.rev, proposed_s)
        if self._waiting:
            self._barrier_due_s = 0.0  # they came while this one was on its way, and may be in a hurry
            self._wake()
        if not self.state.view.founded and not self._founding:
            self._found()

    def _finish_barriers(self) -> None:
        done, self._after_tick = self._after_tick, []
        if any(disk for (_, disk), _ in done):
            self.raft.make_state_durable()
        for (future, _), rev in done:
            _succeed(future, rev)

    def _found(self) -> None:
        """The first leader of a new cluster gives it its identity and its slots."""
        self._founding = True
        defaults = self.options.defaults
        found = pb.Found(
            cluster_id=secrets.token_bytes(16), slots=defaults.slots,
            replication_factor=defaults.replication_factor, min_in_sync=defaults.min_in_sync,
        )  # fmt: skip
        self.propose(pb.MetaCommand(found=found)).add_done_callback(self._found_done)

    def _found_done(self, _: Future[pb.CommandResult]) -> None:
        self._founding = False  # if it was in vain, the next barrier tries again; a second founding changes nothing

    def status(self) -> meta.StatusReply:
        """What this node knows; a reading of plain numbers, from any thread."""
        raft = self.raft
        return meta.StatusReply(
            node=self.options.identity.node, leader=raft.leader if raft.hears_leader else "", role=raft.role, term=raft.term,
            commit_index=raft.raftCommitIndex, applied_index=self.state.applied, first_index=raft.journal.first_index,
            last_index=raft.journal.last_index, connected=raft.connected,
            cluster_id=self.state.view.config.cluster_id, fsyncs=self.disk.commits,
        )  # fmt: skip


def _succeed(future: Future[Any], result: Any) -> None:
    with suppress(InvalidStateError):  # whoever asked has gone
        future.set_result(result)


def _fail(future: Future[Any], failure: BaseException) -> None:
    with suppress(InvalidStateError):  # whoever asked has gone
        future.set_exception(failure)
