"""The gRPC API: requests to commands, barriers and reads. Decides nothing about the cluster; rules.py and sessions.py do.

Writes and linearizable reads are for the leader: another node refuses with FAILED_PRECONDITION and the leader's address in
the trailing metadata. Watch and Status are answered by every node. Every wait has an end: without a majority a request is
refused with UNAVAILABLE, and whether it happened is not known; repeat it with the same request id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, NoReturn, TypeVar

import grpc

from meta_service import offsets
from meta_service.engine import Engine, NotLeader, OutcomeUnknown
from meta_service.feed import Feed
from meta_service.sessions import Leases, Sessions
from mq9 import limits
from mq9.clock import Clock
from mq9.errors import Mq9Error, error
from mq9.meta.rpc import CODE_KEY, LEADER_KEY, RPCS, SERVICE, serialize
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

COMMIT_TIMEOUT_S: Final = 5.0  # several elections; then the client is told that there is no majority
WATCH_PROGRESS_S: Final = 1.0  # a watcher hears this often that nothing happened, so that silence means something

T = TypeVar("T")

# Mq9Error codes to gRPC statuses; any other is INTERNAL.
_STATUS: Final = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "FORBIDDEN": grpc.StatusCode.PERMISSION_DENIED,
    "LIMIT_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "STORAGE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
}


class Api:
    """The handlers of one node."""

    def __init__(self, engine: Engine, feed: Feed, leases: Leases, clock: Clock, leader_addresses: Mapping[str, str]) -> None:
        """`leader_addresses`: where each node's API is."""
        self._engine = engine
        self._feed = feed
        self._leases = leases
        self._clock = clock
        self._addresses = leader_addresses
        self.sessions: Sessions | None = None  # while this node leads
        self._streams = 0
        self._heard: dict[str, meta.HeartbeatRequest] = {}  # the latest of each broker
        self._closing = asyncio.Event()

    def handlers(self) -> grpc.GenericRpcHandler:
        """What grpc serves."""
        methods: dict[str, Callable[..., Any]] = {
            "Register": self.register, "Leave": self.leave, "ReportPeer": self.report_peer, "Heartbeat": self.heartbeat,
            "Watch": self.watch, "GetView": self.get_view, "AlterIsr": self.alter_isr, "CommitOffsets": self.commit_offsets,
            "GetOffsets": self.get_offsets, "Admin": self.admin, "Status": self.status,
        }  # fmt: skip
        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                rpc.name: kinds[rpc.request_streams, rpc.reply_streams](methods[rpc.name], rpc.parse_request, serialize)
                for rpc in RPCS.values()
            },
        )

    def close(self) -> None:
        """Let the streams end."""
        self._closing.set()

    # --- Getting answers from Raft --------------------------------------------------------------------------------

    async def _committed(self, future: Future[T], context: grpc.aio.ServicerContext) -> T:
        """What the future brings. Ends the RPC with a status when it brings nothing."""
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                return await asyncio.wrap_future(future)
        except NotLeader as refusal:
            await self._redirect(context, refusal.leader)
        except (TimeoutError, OutcomeUnknown):
            await self._abort(context, error("UNAVAILABLE", reason="no majority of the meta service answered in time"))
        except Mq9Error as failure:
            await self._abort(context, failure)

    async def _redirect(self, context: grpc.aio.ServicerContext, leader: str) -> NoReturn:
        address = self._addresses.get(leader, "")
        metadata = ((LEADER_KEY, address), (CODE_KEY, "UNAVAILABLE"))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"the leader is {leader or 'not known'}", metadata)
        raise AssertionError("abort raises")

    async def _abort(self, context: grpc.aio.ServicerContext, failure: Mq9Error) -> NoReturn:
        status = _STATUS.get(failure.code, grpc.StatusCode.INTERNAL)
        await context.abort(status, failure.text, ((CODE_KEY, failure.code),))
        raise AssertionError("abort raises")

    async def _propose(self, context: grpc.aio.ServicerContext, request_id: meta.RequestId | None, **op: Any) -> pb.CommandResult:
        command = pb.MetaCommand(now_ms=self._clock.wall_ms(), **op)
        if request_id is not None and request_id.client:
            if len(request_id.client.encode()) > limits.META_NAME_BYTES_MAX:
                await self._abort(context, error("INVALID_REQUEST", reason="a request's client name is too long"))
            command.client, command.seq = request_id.client, request_id.seq
        result = await self._committed(self._engine.propose(command), context)
        if result.outcome == meta.INVALID:
            await self._abort(context, error("INVALID_REQUEST", reason=result.text))
        return result

    # --- Unary ------------------------------------------------------------------------------------------------------

    async def register(self, request: meta.RegisterRequest, context: grpc.aio.ServicerContext) -> meta.RegisterReply:
        result = await self._propose(context, request.request, register=request)
        if result.outcome != meta.OK:
            await self._abort(context, error("UNAVAILABLE", reason=result.text))
        if self.sessions is not None:
            self.sessions.heard(request.node, result.incarnation, self._clock.monotonic_s())
        return meta.RegisterReply(
            incarnation=result.incarnation, rev=result.rev,
            lease_ms=int(self._leases.lease_s * 1000), heartbeat_ms=int(self._leases.heartbeat_s * 1000),
        )  # fmt: skip

    async def leave(self, request: meta.LeaveRequest, context: grpc.aio.ServicerContext) -> meta.LeaveReply:
        # A session that is over already is what was asked for: the request may be repeated.
        result = await self._propose(context, None, fence=pb.Fence(node=request.node, incarnation=request.incarnation))
        return meta.LeaveReply(rev=result.rev)

    async def report_peer(self, request: meta.ReportPeerRequest, context: grpc.aio.ServicerContext) -> meta.ReportPeerReply:
        if self.sessions is None:
            await self._redirect(context, self._engine.status().leader)
        is_taken = all(
            self._has_session(node, incarnation)
            for node, incarnation in ((request.node, request.incarnation), (request.suspect, request.suspect_incarnation))
        )
        if is_taken:
            now_s = self._clock.monotonic_s()
            self.sessions.reported(request.node, request.suspect, request.suspect_incarnation, now_s)
        return meta.ReportPeerReply(taken=is_taken)

    def _has_session(self, node: str, incarnation: int) -> bool:
        broker = self._feed.view.brokers.get(node)
        return broker is not None and broker.incarnation == incarnation and broker.state != meta.FENCED

    async def alter_isr(self, request: meta.AlterIsrRequest, context: grpc.aio.ServicerContext) -> meta.AlterIsrReply:
        result = await self._propose(context, request.request, alter_isr=request)
        return meta.AlterIsrReply(rev=result.rev, results=result.slots)

    async def commit_offsets(
        self, request: meta.CommitOffsetsRequest, context: grpc.aio.ServicerContext
    ) -> meta.CommitOffsetsReply:
        if sum(len(slot.floors) + len(slot.forget) for slot in request.slots) > limits.META_FLOORS_PER_COMMAND_MAX:
            reason = f"more than {limits.META_FLOORS_PER_COMMAND_MAX} floors in one request"
            await self._abort(context, error("INVALID_REQUEST", reason=reason))
        result = await self._propose(context, request.request, offsets=request)
        return meta.CommitOffsetsReply(rev=result.rev, stale_slots=result.stale_slots)

    async def admin(self, request: meta.AdminRequest, context: grpc.aio.ServicerContext) -> meta.AdminReply:
        op = request.WhichOneof("op")
        if op is None:
            await self._abort(context, error("INVALID_REQUEST", reason="an admin request without an operation"))
        result = await self._propose(context, request.request, **{op: getattr(request, op)})
        slot = result.slots[0].slot if result.slots else None
        return meta.AdminReply(rev=result.rev, result=meta.SlotResult(outcome=result.outcome, text=result.text, slot=slot))

    async def get_view(self, request: meta.ViewRequest, context: grpc.aio.ServicerContext) -> meta.Delta:
        # What was applied before the barrier was posted to the feed before the barrier's answer was posted here.
        await self._committed(self._engine.barrier(), context)
        return self._feed.since(0, b"")

    async def status(self, request: meta.StatusRequest, context: grpc.aio.ServicerContext) -> meta.StatusReply:
        reply = self._engine.status()
        reply.leader_address = self._addresses.get(reply.leader, "")
        if self.sessions is not None:
            reply.heard.extend(self._heard.values())
        return reply

    # --- Streams ------------------------------------------------------------------------------------------------------

    async def get_offsets(
        self, request: meta.GetOffsetsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[meta.GetOffsetsReply]:
        if request.slot >= limits.META_SLOTS_MAX:
            await self._abort(context, error("INVALID_REQUEST", reason=f"there is no slot {request.slot}"))
        rev = await self._committed(self._engine.barrier(disk=True), context)
        reply = meta.GetOffsetsReply(rev=rev)
        with self._engine.disk.snapshot() as snapshot:
            for floor in offsets.floors(snapshot, request.slot):
                reply.floors.append(floor)
                if len(reply.floors) == limits.META_FLOORS_PER_CHUNK:
                    yield reply
                    reply = meta.GetOffsetsReply(rev=rev)
        yield reply

    async def watch(self, request: meta.WatchRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[meta.Delta]:
        await self._count_stream(context)
        try:
            rev, cluster_id = request.from_rev, request.cluster_id
            with self._feed.watch() as watcher:
                while not self._closing.is_set() and self._engine.failure is None:
                    delta = self._feed.since(rev, cluster_id)
                    yield delta
                    rev, cluster_id = delta.rev, self._feed.view.config.cluster_id
                    await watcher.wait(WATCH_PROGRESS_S)
        finally:
            self._streams -= 1

    async def heartbeat(
        self, requests: AsyncIterator[meta.HeartbeatRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[meta.HeartbeatReply]:
        await self._count_stream(context)
        try:
            async for request in requests:
                # Heard at once: from here on nobody proposes to fence this session. Answered when a barrier that is proposed
                # after that has committed: a fence that was proposed before is then known, and this node still leads.
                self._heard[request.node] = request
                if self.sessions is not None:
                    self.sessions.heard(request.node, request.incarnation, self._clock.monotonic_s())
                rev = await self._committed(self._engine.barrier(soon=False), context)
                holds = self._has_session(request.node, request.incarnation)
                yield meta.HeartbeatReply(
                    seq=request.seq, term=self._engine.raft.term, rev=rev, renewed=holds, changed_rev=self._feed.changed_rev
                )  # fmt: skip
                if self._closing.is_set():
                    return
        finally:
            self._streams -= 1

    async def _count_stream(self, context: grpc.aio.ServicerContext) -> None:
        if self._streams >= limits.META_STREAMS_MAX:
            await self._abort(context, error("LIMIT_EXCEEDED", reason=f"{limits.META_STREAMS_MAX} streams are open"))
        self._streams += 1
