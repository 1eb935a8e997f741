"""What Raft peers send each other, without IO: bytes to messages and back.

A frame is a length (u32), a tag of 16 bytes when the peers share a secret, and a `Frame` of raft.proto. The tag is an
HMAC over the frame's number and body under a key of this connection alone: a frame cannot be forged, repeated, dropped
or moved to another connection. Nothing a peer sends is ever unpickled or evaluated.

PySyncObj's messages are dicts; `encode` and `decode` know exactly the kinds below and refuse all others, among them
PySyncObj's own ways of forwarding commands, changing membership and sending entries in pickled pieces.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from meta_service.journal import Entry
from mq9 import limits
from mq9.v1 import raft_pb2 as pb

VERSION: Final = 1  # of hello and frames; see raft.proto for how to change it
LENGTH: Final = struct.Struct(">I")
NONCE_BYTES: Final = 16
TAG_BYTES: Final = 16
_COUNTER = struct.Struct(">Q")

Message = dict[str, Any]


class FrameError(Exception):
    """A peer sent what no peer sends. The connection is closed."""


class Seal:
    """Tags the frames of one connection in one direction, or checks them. Without a secret there are no tags."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        self._count = 0

    @property
    def tag_bytes(self) -> int:
        return 0 if self._key is None else TAG_BYTES

    def _tag(self, body: bytes) -> bytes:
        if self._key is None:
            return b""
        tag = hmac.new(self._key, _COUNTER.pack(self._count), hashlib.sha256)
        tag.update(body)
        self._count += 1
        return tag.digest()[:TAG_BYTES]

    def wrap(self, body: bytes) -> bytes:
        """`body` as it goes on the wire."""
        tag = self._tag(body)
        return LENGTH.pack(len(tag) + len(body)) + tag + body

    def unwrap(self, data: bytes) -> bytes:
        """The body of a frame without its length. Raises FrameError for a wrong tag."""
        body = data[self.tag_bytes :]
        if not hmac.compare_digest(self._tag(body), data[: self.tag_bytes]):
            raise FrameError("a frame's tag is wrong")
        return body


def frame_length(head: bytes, bytes_max: int = limits.META_FRAME_BYTES_MAX) -> int:
    """The announced length. Raises FrameError before anything of that size is read."""
    length: int = LENGTH.unpack(head)[0]
    if not 0 < length <= bytes_max:
        raise FrameError(f"a frame of {length} bytes; {bytes_max} are allowed")
    return length


# --- Who is there -----------------------------------------------------------------------------------------------------


def hello_mac(secret: bytes, nonce: bytes, hello: pb.Hello) -> bytes:
    """Proves that the dialler knows the secret, for this challenge and exactly these words."""
    copy = pb.Hello()
    copy.CopyFrom(hello)
    copy.mac = b""
    return _mac(secret, b"hello", nonce, copy.SerializeToString(deterministic=True))


def welcome_mac(secret: bytes, nonce: bytes, hello: pb.Hello) -> bytes:
    """Proves that whoever answered the hello knows the secret too."""
    return _mac(secret, b"welcome", nonce, hello.mac)


def frame_key(secret: bytes, nonce: bytes, hello: pb.Hello) -> bytes | None:
    """The key of this connection's frames; None without a secret."""
    return _mac(secret, b"frames", nonce, hello.mac) or None


def _mac(secret: bytes, purpose: bytes, nonce: bytes, text: bytes) -> bytes:
    if not secret:
        return b""
    return hmac.new(secret, b"mq9-meta\0" + purpose + b"\0" + nonce + text, hashlib.sha256).digest()


# --- Messages ---------------------------------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """A PySyncObj message, or one of raft.py's own, as the body of a frame."""
    frame = pb.Frame()
    _ENCODERS[message["type"]](message, frame)
    return frame.SerializeToString()


def decode(body: bytes) -> Message:
    """The message in a frame. Raises FrameError for anything else."""
    try:
        frame = pb.Frame.FromString(body)
    except DecodeError as failure:
        raise FrameError("not a frame") from failure
    kind = frame.WhichOneof("kind")
    if kind is None:
        raise FrameError("a frame of an unknown kind")
    return _DECODERS[kind](getattr(frame, kind))


def _encode_append(message: Message, frame: pb.Frame) -> None:
    append = frame.append
    append.term = message["term"]
    append.commit_index = message["commit_index"]
    append.last_index = message["last_index"]
    if "serialized" in message:
        append.snapshot.CopyFrom(message["serialized"])
        return
    append.prev_index = message["prevLogIdx"]
    append.prev_term = message["prevLogTerm"]
    append.entries.extend(pb.Entry(term=term, command=command) for command, _, term in message["entries"])


def _decode_append(append: pb.AppendEntries) -> Message:
    message: Message = {
        "type": "append_entries",
        "term": append.term,
        "commit_index": append.commit_index,
        "last_index": append.last_index,
    }
    if append.HasField("snapshot"):
        message["serialized"] = append.snapshot
        return message
    if append.prev_index < 1 or any(not entry.command for entry in append.entries):
        raise FrameError("entries without a predecessor or without a command")
    first = append.prev_index + 1
    entries: list[Entry] = [(entry.command, first + n, entry.term) for n, entry in enumerate(append.entries)]
    message.update(prevLogIdx=append.prev_index, prevLogTerm=append.prev_term, entries=entries)
    return message


def _encode_appended(message: Message, frame: pb.Frame) -> None:
    frame.appended.term = message["term"]
    frame.appended.next_index = message["next_node_idx"]
    frame.appended.reset = message["reset"]
    frame.appended.success = message["success"]


def _decode_appended(appended: pb.Appended) -> Message:
    if appended.next_index < 1:
        raise FrameError("there is no entry 0")
    return {
        "type": "next_node_idx",
        "term": appended.term,
        "next_node_idx": appended.next_index,
        "reset": appended.reset,
        "success": appended.success,
    }


def _encode_request(field: str) -> Callable[[Message, pb.Frame], None]:
    def encode_request(message: Message, frame: pb.Frame) -> None:
        request: pb.RequestVote | pb.PreVote = getattr(frame, field)
        request.term = message["term"]
        request.last_index = message["last_log_index"]
        request.last_term = message["last_log_term"]

    return encode_request


def _decode_request(kind: str) -> Callable[[Any], Message]:
    return lambda request: {
        "type": kind,
        "term": request.term,
        "last_log_index": request.last_index,
        "last_log_term": request.last_term,
    }


def _encode_term(field: str) -> Callable[[Message, pb.Frame], None]:
    def encode_term(message: Message, frame: pb.Frame) -> None:
        part = getattr(frame, field)
        part.term = message["term"]
        part.SetInParent()

    return encode_term


def _decode_term(kind: str) -> Callable[[Any], Message]:
    return lambda part: {"type": kind, "term": part.term}


_ENCODERS: dict[str, Callable[[Message, pb.Frame], None]] = {
    "append_entries": _encode_append,
    "next_node_idx": _encode_appended,
    "request_vote": _encode_request("request_vote"),
    "response_vote": _encode_term("vote"),
    "pre_vote": _encode_request("pre_vote"),
    "pre_vote_granted": _encode_term("pre_vote_granted"),
    "timeout_now": _encode_term("timeout_now"),
}
_DECODERS: dict[str, Callable[[Any], Message]] = {
    "append": _decode_append,
    "appended": _decode_appended,
    "request_vote": _decode_request("request_vote"),
    "vote": _decode_term("response_vote"),
    "pre_vote": _decode_request("pre_vote"),
    "pre_vote_granted": _decode_term("pre_vote_granted"),
    "timeout_now": _decode_term("timeout_now"),
}
