from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerBatch(_message.Message):
    __slots__ = ("hello", "interests", "appends", "acks", "copies", "gone", "forwards", "replies", "messages", "subs", "credits", "discovers", "discovered", "pushes", "standings")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    INTERESTS_FIELD_NUMBER: _ClassVar[int]
    APPENDS_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    FORWARDS_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SUBS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    DISCOVERS_FIELD_NUMBER: _ClassVar[int]
    DISCOVERED_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    STANDINGS_FIELD_NUMBER: _ClassVar[int]
    hello: PeerHello
    interests: _containers.RepeatedCompositeFieldContainer[Interest]
    appends: _containers.RepeatedCompositeFieldContainer[Append]
    acks: _containers.RepeatedCompositeFieldContainer[AppendAck]
    copies: _containers.RepeatedCompositeFieldContainer[CopyRows]
    gone: _containers.RepeatedCompositeFieldContainer[ClientGone]
    forwards: _containers.RepeatedScalarFieldContainer[bytes]
    replies: _containers.RepeatedScalarFieldContainer[bytes]
    messages: _containers.RepeatedCompositeFieldContainer[CoreMessage]
    subs: _containers.RepeatedCompositeFieldContainer[RemoteSub]
    credits: _containers.RepeatedCompositeFieldContainer[PushCredit]
    discovers: _containers.RepeatedCompositeFieldContainer[Discover]
    discovered: _containers.RepeatedCompositeFieldContainer[Discovered]
    pushes: _containers.RepeatedCompositeFieldContainer[Pushed]
    standings: _containers.RepeatedCompositeFieldContainer[Standing]
    def __init__(self, hello: _Optional[_Union[PeerHello, _Mapping]] = ..., interests: _Optional[_Iterable[_Union[Interest, _Mapping]]] = ..., appends: _Optional[_Iterable[_Union[Append, _Mapping]]] = ..., acks: _Optional[_Iterable[_Union[AppendAck, _Mapping]]] = ..., copies: _Optional[_Iterable[_Union[CopyRows, _Mapping]]] = ..., gone: _Optional[_Iterable[_Union[ClientGone, _Mapping]]] = ..., forwards: _Optional[_Iterable[bytes]] = ..., replies: _Optional[_Iterable[bytes]] = ..., messages: _Optional[_Iterable[_Union[CoreMessage, _Mapping]]] = ..., subs: _Optional[_Iterable[_Union[RemoteSub, _Mapping]]] = ..., credits: _Optional[_Iterable[_Union[PushCredit, _Mapping]]] = ..., discovers: _Optional[_Iterable[_Union[Discover, _Mapping]]] = ..., discovered: _Optional[_Iterable[_Union[Discovered, _Mapping]]] = ..., pushes: _Optional[_Iterable[_Union[Pushed, _Mapping]]] = ..., standings: _Optional[_Iterable[_Union[Standing, _Mapping]]] = ...) -> None: ...

class PeerHello(_message.Message):
    __slots__ = ("node", "incarnation", "cluster_id", "version")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    cluster_id: bytes
    version: int
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ..., cluster_id: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class Standing(_message.Message):
    __slots__ = ("lease", "stage")
    class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SERVES: _ClassVar[Standing.Stage]
        CLOSING: _ClassVar[Standing.Stage]
        CLOSED: _ClassVar[Standing.Stage]
        SETTLED: _ClassVar[Standing.Stage]
    SERVES: Standing.Stage
    CLOSING: Standing.Stage
    CLOSED: Standing.Stage
    SETTLED: Standing.Stage
    LEASE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    lease: bool
    stage: Standing.Stage
    def __init__(self, lease: _Optional[bool] = ..., stage: _Optional[_Union[Standing.Stage, str]] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("offset", "history", "log_start", "copying")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    LOG_START_FIELD_NUMBER: _ClassVar[int]
    COPYING_FIELD_NUMBER: _ClassVar[int]
    offset: int
    history: _containers.RepeatedCompositeFieldContainer[EpochStart]
    log_start: int
    copying: bool
    def __init__(self, offset: _Optional[int] = ..., history: _Optional[_Iterable[_Union[EpochStart, _Mapping]]] = ..., log_start: _Optional[int] = ..., copying: _Optional[bool] = ...) -> None: ...

class EpochStart(_message.Message):
    __slots__ = ("epoch", "start")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    start: int
    def __init__(self, epoch: _Optional[int] = ..., start: _Optional[int] = ...) -> None: ...

class Append(_message.Message):
    __slots__ = ("slot", "epoch", "previous", "offset", "rows", "committed", "history", "repair", "probe", "incarnation", "ver")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    previous: int
    offset: int
    rows: bytes
    committed: int
    history: _containers.RepeatedCompositeFieldContainer[EpochStart]
    repair: bool
    probe: int
    incarnation: int
    ver: int
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., previous: _Optional[int] = ..., offset: _Optional[int] = ..., rows: _Optional[bytes] = ..., committed: _Optional[int] = ..., history: _Optional[_Iterable[_Union[EpochStart, _Mapping]]] = ..., repair: _Optional[bool] = ..., probe: _Optional[int] = ..., incarnation: _Optional[int] = ..., ver: _Optional[int] = ...) -> None: ...

class AppendAck(_message.Message):
    __slots__ = ("slot", "epoch", "offset", "result", "position", "probe", "keys", "incarnation")
    class Result(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACCEPTED: _ClassVar[AppendAck.Result]
        STALE_EPOCH: _ClassVar[AppendAck.Result]
        MISMATCH: _ClassVar[AppendAck.Result]
        FAILED: _ClassVar[AppendAck.Result]
        PROBED: _ClassVar[AppendAck.Result]
    ACCEPTED: AppendAck.Result
    STALE_EPOCH: AppendAck.Result
    MISMATCH: AppendAck.Result
    FAILED: AppendAck.Result
    PROBED: AppendAck.Result
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    offset: int
    result: AppendAck.Result
    position: Position
    probe: int
    keys: bytes
    incarnation: int
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., offset: _Optional[int] = ..., result: _Optional[_Union[AppendAck.Result, str]] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., probe: _Optional[int] = ..., keys: _Optional[bytes] = ..., incarnation: _Optional[int] = ...) -> None: ...

class CopyRows(_message.Message):
    __slots__ = ("slot", "epoch", "copy", "part", "first", "last", "rows")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    copy: int
    part: int
    first: bool
    last: bool
    rows: bytes
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., copy: _Optional[int] = ..., part: _Optional[int] = ..., first: _Optional[bool] = ..., last: _Optional[bool] = ..., rows: _Optional[bytes] = ...) -> None: ...

class ClientGone(_message.Message):
    __slots__ = ("client",)
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    client: int
    def __init__(self, client: _Optional[int] = ...) -> None: ...

class Interest(_message.Message):
    __slots__ = ("subject", "queue", "count", "first")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    subject: bytes
    queue: bytes
    count: int
    first: bool
    def __init__(self, subject: _Optional[bytes] = ..., queue: _Optional[bytes] = ..., count: _Optional[int] = ..., first: _Optional[bool] = ...) -> None: ...

class CoreMessage(_message.Message):
    __slots__ = ("subject", "reply_to", "header", "payload", "queues", "plain")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    subject: bytes
    reply_to: bytes
    header: bytes
    payload: bytes
    queues: _containers.RepeatedScalarFieldContainer[bytes]
    plain: bool
    def __init__(self, subject: _Optional[bytes] = ..., reply_to: _Optional[bytes] = ..., header: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., queues: _Optional[_Iterable[bytes]] = ..., plain: _Optional[bool] = ...) -> None: ...

class RemoteSub(_message.Message):
    __slots__ = ("sub", "client", "slot", "subject", "queue", "gone", "dialect", "client_name", "mailbox", "after", "closed", "taken")
    SUB_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_NAME_FIELD_NUMBER: _ClassVar[int]
    MAILBOX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    sub: int
    client: int
    slot: int
    subject: bytes
    queue: bytes
    gone: bool
    dialect: int
    client_name: str
    mailbox: int
    after: _containers.RepeatedScalarFieldContainer[int]
    closed: bool
    taken: int
    def __init__(self, sub: _Optional[int] = ..., client: _Optional[int] = ..., slot: _Optional[int] = ..., subject: _Optional[bytes] = ..., queue: _Optional[bytes] = ..., gone: _Optional[bool] = ..., dialect: _Optional[int] = ..., client_name: _Optional[str] = ..., mailbox: _Optional[int] = ..., after: _Optional[_Iterable[int]] = ..., closed: _Optional[bool] = ..., taken: _Optional[int] = ...) -> None: ...

class Pushed(_message.Message):
    __slots__ = ("sub", "subject", "header", "payload", "mailbox", "tier", "msg_id", "offset", "over")
    SUB_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    MAILBOX_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    MSG_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    sub: int
    subject: bytes
    header: bytes
    payload: bytes
    mailbox: int
    tier: int
    msg_id: int
    offset: int
    over: bool
    def __init__(self, sub: _Optional[int] = ..., subject: _Optional[bytes] = ..., header: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., mailbox: _Optional[int] = ..., tier: _Optional[int] = ..., msg_id: _Optional[int] = ..., offset: _Optional[int] = ..., over: _Optional[bool] = ...) -> None: ...

class PushCredit(_message.Message):
    __slots__ = ("sub", "said", "taken", "ready")
    SUB_FIELD_NUMBER: _ClassVar[int]
    SAID_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    sub: int
    said: int
    taken: int
    ready: bool
    def __init__(self, sub: _Optional[int] = ..., said: _Optional[int] = ..., taken: _Optional[int] = ..., ready: _Optional[bool] = ...) -> None: ...

class Discover(_message.Message):
    __slots__ = ("request", "kind", "body", "mode", "depth", "newest", "documents", "frequencies", "space", "vectors", "names", "scores", "brief", "needed")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        WEIGH: _ClassVar[Discover.Kind]
        RANK: _ClassVar[Discover.Kind]
        SHOW: _ClassVar[Discover.Kind]
        FIND: _ClassVar[Discover.Kind]
        REPORT: _ClassVar[Discover.Kind]
        UNREGISTER: _ClassVar[Discover.Kind]
    WEIGH: Discover.Kind
    RANK: Discover.Kind
    SHOW: Discover.Kind
    FIND: Discover.Kind
    REPORT: Discover.Kind
    UNREGISTER: Discover.Kind
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    FREQUENCIES_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    BRIEF_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    request: int
    kind: Discover.Kind
    body: bytes
    mode: str
    depth: int
    newest: int
    documents: int
    frequencies: _containers.RepeatedScalarFieldContainer[int]
    space: str
    vectors: bytes
    names: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    brief: bool
    needed: int
    def __init__(self, request: _Optional[int] = ..., kind: _Optional[_Union[Discover.Kind, str]] = ..., body: _Optional[bytes] = ..., mode: _Optional[str] = ..., depth: _Optional[int] = ..., newest: _Optional[int] = ..., documents: _Optional[int] = ..., frequencies: _Optional[_Iterable[int]] = ..., space: _Optional[str] = ..., vectors: _Optional[bytes] = ..., names: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ..., brief: _Optional[bool] = ..., needed: _Optional[int] = ...) -> None: ...

class Discovered(_message.Message):
    __slots__ = ("request", "error", "text", "slots", "documents", "frequencies", "names", "scores", "orders", "complete", "total", "mode", "newest", "loading", "items", "sizes")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    FREQUENCIES_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    LOADING_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    request: int
    error: str
    text: str
    slots: bytes
    documents: int
    frequencies: _containers.RepeatedScalarFieldContainer[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    orders: _containers.RepeatedScalarFieldContainer[int]
    complete: bool
    total: int
    mode: str
    newest: int
    loading: bool
    items: _containers.RepeatedScalarFieldContainer[bytes]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, request: _Optional[int] = ..., error: _Optional[str] = ..., text: _Optional[str] = ..., slots: _Optional[bytes] = ..., documents: _Optional[int] = ..., frequencies: _Optional[_Iterable[int]] = ..., names: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ..., orders: _Optional[_Iterable[int]] = ..., complete: _Optional[bool] = ..., total: _Optional[int] = ..., mode: _Optional[str] = ..., newest: _Optional[int] = ..., loading: _Optional[bool] = ..., items: _Optional[_Iterable[bytes]] = ..., sizes: _Optional[_Iterable[int]] = ...) -> None: ...
