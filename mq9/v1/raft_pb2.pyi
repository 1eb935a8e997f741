from mq9.v1 import meta_pb2 as _meta_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Challenge(_message.Message):
    __slots__ = ("version", "nonce")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    version: int
    nonce: bytes
    def __init__(self, version: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "cluster", "sender", "receiver", "nonce", "blank", "cluster_id", "mac")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    BLANK_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    version: int
    cluster: str
    sender: str
    receiver: str
    nonce: bytes
    blank: bool
    cluster_id: bytes
    mac: bytes
    def __init__(self, version: _Optional[int] = ..., cluster: _Optional[str] = ..., sender: _Optional[str] = ..., receiver: _Optional[str] = ..., nonce: _Optional[bytes] = ..., blank: _Optional[bool] = ..., cluster_id: _Optional[bytes] = ..., mac: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("mac", "version")
    MAC_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    mac: bytes
    version: int
    def __init__(self, mac: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("append", "appended", "request_vote", "vote", "pre_vote", "pre_vote_granted", "timeout_now")
    APPEND_FIELD_NUMBER: _ClassVar[int]
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_VOTE_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_GRANTED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_NOW_FIELD_NUMBER: _ClassVar[int]
    append: AppendEntries
    appended: Appended
    request_vote: RequestVote
    vote: Vote
    pre_vote: PreVote
    pre_vote_granted: PreVoteGranted
    timeout_now: TimeoutNow
    def __init__(self, append: _Optional[_Union[AppendEntries, _Mapping]] = ..., appended: _Optional[_Union[Appended, _Mapping]] = ..., request_vote: _Optional[_Union[RequestVote, _Mapping]] = ..., vote: _Optional[_Union[Vote, _Mapping]] = ..., pre_vote: _Optional[_Union[PreVote, _Mapping]] = ..., pre_vote_granted: _Optional[_Union[PreVoteGranted, _Mapping]] = ..., timeout_now: _Optional[_Union[TimeoutNow, _Mapping]] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("term", "command")
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    term: int
    command: bytes
    def __init__(self, term: _Optional[int] = ..., command: _Optional[bytes] = ...) -> None: ...

class AppendEntries(_message.Message):
    __slots__ = ("term", "commit_index", "last_index", "prev_index", "prev_term", "entries", "snapshot")
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREV_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREV_TERM_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    term: int
    commit_index: int
    last_index: int
    prev_index: int
    prev_term: int
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    snapshot: SnapshotChunk
    def __init__(self, term: _Optional[int] = ..., commit_index: _Optional[int] = ..., last_index: _Optional[int] = ..., prev_index: _Optional[int] = ..., prev_term: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., snapshot: _Optional[_Union[SnapshotChunk, _Mapping]] = ...) -> None: ...

class Appended(_message.Message):
    __slots__ = ("term", "next_index", "reset", "success")
    TERM_FIELD_NUMBER: _ClassVar[int]
    NEXT_INDEX_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    term: int
    next_index: int
    reset: bool
    success: bool
    def __init__(self, term: _Optional[int] = ..., next_index: _Optional[int] = ..., reset: _Optional[bool] = ..., success: _Optional[bool] = ...) -> None: ...

class RequestVote(_message.Message):
    __slots__ = ("term", "last_index", "last_term")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    last_index: int
    last_term: int
    def __init__(self, term: _Optional[int] = ..., last_index: _Optional[int] = ..., last_term: _Optional[int] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class PreVote(_message.Message):
    __slots__ = ("term", "last_index", "last_term")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    last_index: int
    last_term: int
    def __init__(self, term: _Optional[int] = ..., last_index: _Optional[int] = ..., last_term: _Optional[int] = ...) -> None: ...

class PreVoteGranted(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class TimeoutNow(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("index", "number", "last", "rows", "entries", "row_count", "checksum")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    index: int
    number: int
    last: bool
    rows: _containers.RepeatedCompositeFieldContainer[SnapshotRow]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    row_count: int
    checksum: int
    def __init__(self, index: _Optional[int] = ..., number: _Optional[int] = ..., last: _Optional[bool] = ..., rows: _Optional[_Iterable[_Union[SnapshotRow, _Mapping]]] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., row_count: _Optional[int] = ..., checksum: _Optional[int] = ...) -> None: ...

class SnapshotRow(_message.Message):
    __slots__ = ("table", "key", "value")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    table: int
    key: bytes
    value: bytes
    def __init__(self, table: _Optional[int] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class MetaCommand(_message.Message):
    __slots__ = ("version", "client", "seq", "now_ms", "barrier", "found", "register", "fence", "alter_isr", "offsets", "assign", "drain", "forget", "transfer", "start_move", "finish_move", "cancel_move", "unclean_elect", "configure", "elect", "depose")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    NOW_MS_FIELD_NUMBER: _ClassVar[int]
    BARRIER_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ALTER_ISR_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    START_MOVE_FIELD_NUMBER: _ClassVar[int]
    FINISH_MOVE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_MOVE_FIELD_NUMBER: _ClassVar[int]
    UNCLEAN_ELECT_FIELD_NUMBER: _ClassVar[int]
    CONFIGURE_FIELD_NUMBER: _ClassVar[int]
    ELECT_FIELD_NUMBER: _ClassVar[int]
    DEPOSE_FIELD_NUMBER: _ClassVar[int]
    version: int
    client: str
    seq: int
    now_ms: int
    barrier: Barrier
    found: Found
    register: _meta_pb2.RegisterRequest
    fence: Fence
    alter_isr: _meta_pb2.AlterIsrRequest
    offsets: _meta_pb2.CommitOffsetsRequest
    assign: Assign
    drain: _meta_pb2.Drain
    forget: _meta_pb2.ForgetBroker
    transfer: _meta_pb2.TransferPrimary
    start_move: _meta_pb2.StartMove
    finish_move: _meta_pb2.FinishMove
    cancel_move: _meta_pb2.CancelMove
    unclean_elect: _meta_pb2.UncleanElect
    configure: _meta_pb2.Configure
    elect: Elect
    depose: Depose
    def __init__(self, version: _Optional[int] = ..., client: _Optional[str] = ..., seq: _Optional[int] = ..., now_ms: _Optional[int] = ..., barrier: _Optional[_Union[Barrier, _Mapping]] = ..., found: _Optional[_Union[Found, _Mapping]] = ..., register: _Optional[_Union[_meta_pb2.RegisterRequest, _Mapping]] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ..., alter_isr: _Optional[_Union[_meta_pb2.AlterIsrRequest, _Mapping]] = ..., offsets: _Optional[_Union[_meta_pb2.CommitOffsetsRequest, _Mapping]] = ..., assign: _Optional[_Union[Assign, _Mapping]] = ..., drain: _Optional[_Union[_meta_pb2.Drain, _Mapping]] = ..., forget: _Optional[_Union[_meta_pb2.ForgetBroker, _Mapping]] = ..., transfer: _Optional[_Union[_meta_pb2.TransferPrimary, _Mapping]] = ..., start_move: _Optional[_Union[_meta_pb2.StartMove, _Mapping]] = ..., finish_move: _Optional[_Union[_meta_pb2.FinishMove, _Mapping]] = ..., cancel_move: _Optional[_Union[_meta_pb2.CancelMove, _Mapping]] = ..., unclean_elect: _Optional[_Union[_meta_pb2.UncleanElect, _Mapping]] = ..., configure: _Optional[_Union[_meta_pb2.Configure, _Mapping]] = ..., elect: _Optional[_Union[Elect, _Mapping]] = ..., depose: _Optional[_Union[Depose, _Mapping]] = ...) -> None: ...

class Barrier(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Found(_message.Message):
    __slots__ = ("cluster_id", "slots", "replication_factor", "min_in_sync")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_FACTOR_FIELD_NUMBER: _ClassVar[int]
    MIN_IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    slots: int
    replication_factor: int
    min_in_sync: int
    def __init__(self, cluster_id: _Optional[bytes] = ..., slots: _Optional[int] = ..., replication_factor: _Optional[int] = ..., min_in_sync: _Optional[int] = ...) -> None: ...

class Fence(_message.Message):
    __slots__ = ("node", "incarnation")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ...) -> None: ...

class Depose(_message.Message):
    __slots__ = ("node", "incarnation", "hold_ms")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HOLD_MS_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    hold_ms: int
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ..., hold_ms: _Optional[int] = ...) -> None: ...

class Assign(_message.Message):
    __slots__ = ("assignments",)
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    def __init__(self, assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("slot", "epoch", "ver", "replicas")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    ver: int
    replicas: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., ver: _Optional[int] = ..., replicas: _Optional[_Iterable[str]] = ...) -> None: ...

class Elect(_message.Message):
    __slots__ = ("slot", "epoch", "ver", "hold_ms")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    HOLD_MS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    ver: int
    hold_ms: int
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., ver: _Optional[int] = ..., hold_ms: _Optional[int] = ...) -> None: ...

class CommandResult(_message.Message):
    __slots__ = ("outcome", "text", "rev", "incarnation", "slots", "stale_slots")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REV_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STALE_SLOTS_FIELD_NUMBER: _ClassVar[int]
    outcome: _meta_pb2.Outcome
    text: str
    rev: int
    incarnation: int
    slots: _containers.RepeatedCompositeFieldContainer[_meta_pb2.SlotResult]
    stale_slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, outcome: _Optional[_Union[_meta_pb2.Outcome, str]] = ..., text: _Optional[str] = ..., rev: _Optional[int] = ..., incarnation: _Optional[int] = ..., slots: _Optional[_Iterable[_Union[_meta_pb2.SlotResult, _Mapping]]] = ..., stale_slots: _Optional[_Iterable[int]] = ...) -> None: ...

class Remembered(_message.Message):
    __slots__ = ("seq", "rev", "result")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    REV_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    rev: int
    result: CommandResult
    def __init__(self, seq: _Optional[int] = ..., rev: _Optional[int] = ..., result: _Optional[_Union[CommandResult, _Mapping]] = ...) -> None: ...
