"""The RPCs of the meta service: names, kinds and messages, in one table for server and client.

grpcio's own generated stubs are not used: they are untyped, and this is all that is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from mq9.v1 import meta_pb2 as meta

SERVICE: Final = "mq9.v1.Meta"
LEADER_KEY: Final = "mq9-leader"  # trailing metadata of a refusal: the leader's gRPC address, when it is known
CODE_KEY: Final = "mq9-code"  # the same: the code of mq9/errors.py

# Kept-alive connections notice a dead server; the message limit is Raft's own and some wrapping.
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
    ("grpc.max_send_message_length", 8 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),  # repeating is decided where it is known what may be repeated
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)

# Otherwise whoever pings an idle connection more often than every five minutes is sent away.
SERVER_OPTIONS: Final = (*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 5_000))


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC. `request_streams` and `reply_streams`: many messages instead of one."""

    name: str
    request: type[Message]
    reply: type[Message]
    request_streams: bool = False
    reply_streams: bool = False

    @property
    def path(self) -> str:
        return f"/{SERVICE}/{self.name}"

    @property
    def parse_request(self) -> Callable[[bytes], Any]:
        return self.request.FromString

    @property
    def parse_reply(self) -> Callable[[bytes], Any]:
        return self.reply.FromString


RPCS: Final = {
    rpc.name: rpc
    for rpc in (
        Rpc("Register", meta.RegisterRequest, meta.RegisterReply),
        Rpc("Leave", meta.LeaveRequest, meta.LeaveReply),
        Rpc("ReportPeer", meta.ReportPeerRequest, meta.ReportPeerReply),
        Rpc("Heartbeat", meta.HeartbeatRequest, meta.HeartbeatReply, request_streams=True, reply_streams=True),
        Rpc("Watch", meta.WatchRequest, meta.Delta, reply_streams=True),
        Rpc("GetView", meta.ViewRequest, meta.Delta),
        Rpc("AlterIsr", meta.AlterIsrRequest, meta.AlterIsrReply),
        Rpc("CommitOffsets", meta.CommitOffsetsRequest, meta.CommitOffsetsReply),
        Rpc("GetOffsets", meta.GetOffsetsRequest, meta.GetOffsetsReply, reply_streams=True),
        Rpc("Admin", meta.AdminRequest, meta.AdminReply),
        Rpc("Status", meta.StatusRequest, meta.StatusReply),
    )
}


def serialize(message: Message) -> bytes:
    """The bytes of a message."""
    return message.SerializeToString()
