"""A client of the meta service: finds the leader, follows it, and repeats what may be repeated.

    async with MetaClient(["127.0.0.1:9323", ...]) as client:
        reply = await client.register(meta.RegisterRequest(node="broker1", ...))

Every call has a deadline. A node that does not lead names the one that does; a node that does not answer is passed over.
Writes are repeated with the same request id, which the service answers once and the same each time; those that carry none
are harmless to repeat: compare-and-set by epoch and version, or floors that only grow. Raises Mq9Error: UNAVAILABLE when no
majority answered within the deadline, INVALID_REQUEST, FORBIDDEN (a wrong token), LIMIT_EXCEEDED, STORAGE_FULL.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc

from mq9.errors import CODES, Mq9Error, error, from_reply
from mq9.meta.rpc import CHANNEL_OPTIONS, CODE_KEY, LEADER_KEY, RPCS, serialize
from mq9.v1 import meta_pb2 as meta

ATTEMPT_S: Final = 2.0  # one node's time before another is asked
PAUSE_S: Final = 0.05  # between attempts, so that an election is waited for and not hammered
_ELSEWHERE: Final = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Access:
    """How to be let in: a token, and PEM certificates when the service uses TLS."""

    token: str = ""
    tls_ca: bytes | None = None
    tls_key: bytes | None = None
    tls_cert: bytes | None = None


class MetaClient:
    """Calls of one process; safe to use from many tasks of one event loop."""

    def __init__(self, addresses: Sequence[str], access: Access | None = None, *, deadline_s: float = 10.0) -> None:
        """`addresses`: host:port of the nodes' APIs, all or some; `deadline_s`: of each call as a whole."""
        self._addresses = list(addresses)
        self._access = access or Access()
        self._deadline_s = deadline_s
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._leader = self._addresses[0]
        self._id = secrets.token_hex(8)
        self._seq = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    @property
    def leader(self) -> str:
        """Whom the next call asks first."""
        return self._leader

    # --- Calls --------------------------------------------------------------------------------------------------------

    async def register(self, request: meta.RegisterRequest) -> meta.RegisterReply:
        return await self._write("Register", request)  # type: ignore[no-any-return]  # the table's type

    async def leave(self, request: meta.LeaveRequest) -> meta.LeaveReply:
        return await self._call("Leave", request)  # type: ignore[no-any-return]  # the table's type

    async def report_peer(self, request: meta.ReportPeerRequest) -> meta.ReportPeerReply:
        """Say that a peer cannot be reached. Remembered by the node that leads now, for a few seconds."""
        return await self._call("ReportPeer", request)  # type: ignore[no-any-return]  # the table's type

    async def alter_isr(self, request: meta.AlterIsrRequest) -> meta.AlterIsrReply:
        return await self._call("AlterIsr", request)  # type: ignore[no-any-return]  # the table's type

    async def commit_offsets(self, request: meta.CommitOffsetsRequest) -> meta.CommitOffsetsReply:
        return await self._call("CommitOffsets", request)  # type: ignore[no-any-return]  # the table's type

    async def admin(self, request: meta.AdminRequest) -> meta.AdminReply:
        return await self._write("Admin", request)  # type: ignore[no-any-return]  # the table's type

    async def view(self) -> meta.Delta:
        """The whole state, linearizable."""
        return await self._call("GetView", meta.ViewRequest())  # type: ignore[no-any-return]  # the table's type

    async def offsets(self, slot: int) -> list[meta.Floor]:
        """All floors of a slot, linearizable."""
        replies = await self._call("GetOffsets", meta.GetOffsetsRequest(slot=slot))
        return [floor for reply in replies for floor in reply.floors]

    async def status(self, address: str, timeout_s: float = ATTEMPT_S) -> meta.StatusReply:
        """What one node says of itself. Raises UNAVAILABLE when it does not answer."""
        try:
            return await self._stub("Status", address)(meta.StatusRequest(), timeout=timeout_s, metadata=self._metadata())  # type: ignore[no-any-return]  # the table's type
        except grpc.aio.AioRpcError as failure:
            raise _error(failure) from failure

    # --- Streams: one attempt each; the caller goes on with the next node ---------------------------------------------

    def next_node(self) -> str:
        """Pass the node over that was asked last; the one to ask now."""
        place = self._addresses.index(self._leader) if self._leader in self._addresses else -1
        self._leader = self._addresses[(place + 1) % len(self._addresses)]
        return self._leader

    async def watch(self, from_rev: int = 0, cluster_id: bytes = b"", *, silence_s: float = 3.0) -> AsyncIterator[meta.Delta]:
        """Deltas, for ever: goes on with another node where one ends or is silent for `silence_s`."""
        while True:
            call = self._stub("Watch", self._leader)(
                meta.WatchRequest(from_rev=from_rev, cluster_id=cluster_id), metadata=self._metadata()
            )
            try:
                while True:
                    async with asyncio.timeout(silence_s):
                        delta = await call.read()
                    if delta is grpc.aio.EOF:
                        break
                    yield delta
                    from_rev = delta.rev
                    cluster_id = delta.config.cluster_id or cluster_id
            except grpc.aio.AioRpcError as failure:
                if failure.code() not in _ELSEWHERE:
                    raise _error(failure) from failure
            except TimeoutError:
                pass  # it may be cut off from the others: ask another
            finally:
                call.cancel()
            self.next_node()
            await asyncio.sleep(PAUSE_S)

    def heartbeats(self) -> grpc.aio.StreamStreamCall:
        """An open heartbeat stream to the node that leads as far as is known; `learn` from the error that ends it."""
        return self._stub("Heartbeat", self._leader)(metadata=self._metadata())

    def learn(self, failure: grpc.aio.AioRpcError) -> None:
        """Where to go on after this failure."""
        named = _trailing(failure, LEADER_KEY)
        if named and named != self._leader:
            self._leader = named
        else:
            self.next_node()

    # --- Trying -------------------------------------------------------------------------------------------------------

    async def _write(self, name: str, request: Any) -> Any:
        if not request.request.client:
            self._seq += 1
            # A client of its own for each request: two in flight at once must not make each other look old.
            request.request.client, request.request.seq = f"{self._id}.{self._seq}", 1
        return await self._call(name, request)

    async def _call(self, name: str, request: Any) -> Any:
        until_s = time.monotonic() + self._deadline_s
        while True:
            left_s = until_s - time.monotonic()
            try:
                return await self._attempt(name, request, min(ATTEMPT_S, max(left_s, 0.01)))
            except grpc.aio.AioRpcError as failure:
                if failure.code() not in _ELSEWHERE or left_s <= PAUSE_S:
                    raise _error(failure) from failure
                self.learn(failure)
            await asyncio.sleep(PAUSE_S)

    async def _attempt(self, name: str, request: Any, timeout_s: float) -> Any:
        call = self._stub(name, self._leader)(request, timeout=timeout_s, metadata=self._metadata())
        if RPCS[name].reply_streams:
            return [reply async for reply in call]
        return await call

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._access.token}"),) if self._access.token else ()

    def _stub(self, name: str, address: str) -> Any:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._open(address)
        rpc = RPCS[name]
        kinds = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, True): channel.stream_stream,
        }
        return kinds[rpc.request_streams, rpc.reply_streams](rpc.path, serialize, rpc.parse_reply)

    def _open(self, address: str) -> grpc.aio.Channel:
        access = self._access
        if access.tls_ca is None:
            return grpc.aio.insecure_channel(address, options=list(CHANNEL_OPTIONS))
        credentials = grpc.ssl_channel_credentials(access.tls_ca, access.tls_key, access.tls_cert)
        return grpc.aio.secure_channel(address, credentials, options=list(CHANNEL_OPTIONS))


def _trailing(failure: grpc.aio.AioRpcError, key: str) -> str:
    value = dict(failure.trailing_metadata() or ()).get(key, "")
    return value if isinstance(value, str) else value.decode()


def _error(failure: grpc.aio.AioRpcError) -> Mq9Error:
    """The Mq9Error a status stands for."""
    code = _trailing(failure, CODE_KEY)
    if code in CODES:
        return from_reply(code, failure.details() or code)
    if failure.code() == grpc.StatusCode.UNAUTHENTICATED:
        return error("FORBIDDEN", reason=failure.details())
    return error("UNAVAILABLE", reason=f"the meta service did not answer: {failure.code().name} {failure.details()}")
