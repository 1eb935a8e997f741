from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BrokerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BROKER_STATE_UNSPECIFIED: _ClassVar[BrokerState]
    ALIVE: _ClassVar[BrokerState]
    FENCED: _ClassVar[BrokerState]
    DRAINING: _ClassVar[BrokerState]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OK: _ClassVar[Outcome]
    STALE: _ClassVar[Outcome]
    REFUSED: _ClassVar[Outcome]
    INVALID: _ClassVar[Outcome]
BROKER_STATE_UNSPECIFIED: BrokerState
ALIVE: BrokerState
FENCED: BrokerState
DRAINING: BrokerState
OUTCOME_UNSPECIFIED: Outcome
OK: Outcome
STALE: Outcome
REFUSED: Outcome
INVALID: Outcome

class RequestId(_message.Message):
    __slots__ = ("client", "seq")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    client: str
    seq: int
    def __init__(self, client: _Optional[str] = ..., seq: _Optional[int] = ...) -> None: ...

class Broker(_message.Message):
    __slots__ = ("id", "incarnation", "disk_id", "peer_address", "client_address", "zone", "weight", "state", "drain", "mod_rev")
    ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DISK_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    MOD_REV_FIELD_NUMBER: _ClassVar[int]
    id: str
    incarnation: int
    disk_id: bytes
    peer_address: str
    client_address: str
    zone: str
    weight: int
    state: BrokerState
    drain: bool
    mod_rev: int
    def __init__(self, id: _Optional[str] = ..., incarnation: _Optional[int] = ..., disk_id: _Optional[bytes] = ..., peer_address: _Optional[str] = ..., client_address: _Optional[str] = ..., zone: _Optional[str] = ..., weight: _Optional[int] = ..., state: _Optional[_Union[BrokerState, str]] = ..., drain: _Optional[bool] = ..., mod_rev: _Optional[int] = ...) -> None: ...

class Slot(_message.Message):
    __slots__ = ("slot", "epoch", "ver", "primary", "replicas", "isr", "adding", "removing", "lost_disk", "hold_ms", "mod_rev")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    ISR_FIELD_NUMBER: _ClassVar[int]
    ADDING_FIELD_NUMBER: _ClassVar[int]
    REMOVING_FIELD_NUMBER: _ClassVar[int]
    LOST_DISK_FIELD_NUMBER: _ClassVar[int]
    HOLD_MS_FIELD_NUMBER: _ClassVar[int]
    MOD_REV_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    ver: int
    primary: str
    replicas: _containers.RepeatedScalarFieldContainer[str]
    isr: _containers.RepeatedScalarFieldContainer[str]
    adding: _containers.RepeatedScalarFieldContainer[str]
    removing: _containers.RepeatedScalarFieldContainer[str]
    lost_disk: bytes
    hold_ms: int
    mod_rev: int
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., ver: _Optional[int] = ..., primary: _Optional[str] = ..., replicas: _Optional[_Iterable[str]] = ..., isr: _Optional[_Iterable[str]] = ..., adding: _Optional[_Iterable[str]] = ..., removing: _Optional[_Iterable[str]] = ..., lost_disk: _Optional[bytes] = ..., hold_ms: _Optional[int] = ..., mod_rev: _Optional[int] = ...) -> None: ...

class ClusterConfig(_message.Message):
    __slots__ = ("cluster_id", "slots", "replication_factor", "min_in_sync", "last_incarnation", "removed_rev", "mod_rev", "rebalance")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_FACTOR_FIELD_NUMBER: _ClassVar[int]
    MIN_IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    LAST_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REMOVED_REV_FIELD_NUMBER: _ClassVar[int]
    MOD_REV_FIELD_NUMBER: _ClassVar[int]
    REBALANCE_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    slots: int
    replication_factor: int
    min_in_sync: int
    last_incarnation: int
    removed_rev: int
    mod_rev: int
    rebalance: bool
    def __init__(self, cluster_id: _Optional[bytes] = ..., slots: _Optional[int] = ..., replication_factor: _Optional[int] = ..., min_in_sync: _Optional[int] = ..., last_incarnation: _Optional[int] = ..., removed_rev: _Optional[int] = ..., mod_rev: _Optional[int] = ..., rebalance: _Optional[bool] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("request", "node", "disk_id", "peer_address", "client_address", "zone", "weight")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DISK_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    request: RequestId
    node: str
    disk_id: bytes
    peer_address: str
    client_address: str
    zone: str
    weight: int
    def __init__(self, request: _Optional[_Union[RequestId, _Mapping]] = ..., node: _Optional[str] = ..., disk_id: _Optional[bytes] = ..., peer_address: _Optional[str] = ..., client_address: _Optional[str] = ..., zone: _Optional[str] = ..., weight: _Optional[int] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("incarnation", "rev", "lease_ms", "heartbeat_ms")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REV_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    rev: int
    lease_ms: int
    heartbeat_ms: int
    def __init__(self, incarnation: _Optional[int] = ..., rev: _Optional[int] = ..., lease_ms: _Optional[int] = ..., heartbeat_ms: _Optional[int] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("node", "incarnation")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ("rev",)
    REV_FIELD_NUMBER: _ClassVar[int]
    rev: int
    def __init__(self, rev: _Optional[int] = ...) -> None: ...

class ReportPeerRequest(_message.Message):
    __slots__ = ("node", "incarnation", "suspect", "suspect_incarnation")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SUSPECT_FIELD_NUMBER: _ClassVar[int]
    SUSPECT_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    suspect: str
    suspect_incarnation: int
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ..., suspect: _Optional[str] = ..., suspect_incarnation: _Optional[int] = ...) -> None: ...

class ReportPeerReply(_message.Message):
    __slots__ = ("taken",)
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    taken: bool
    def __init__(self, taken: _Optional[bool] = ...) -> None: ...

class GroupLag(_message.Message):
    __slots__ = ("mailbox", "address", "group", "lag", "oldest_age_ms")
    MAILBOX_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    OLDEST_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    mailbox: int
    address: str
    group: str
    lag: int
    oldest_age_ms: int
    def __init__(self, mailbox: _Optional[int] = ..., address: _Optional[str] = ..., group: _Optional[str] = ..., lag: _Optional[int] = ..., oldest_age_ms: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("node", "incarnation", "seq", "free_bytes", "offsets_waiting", "groups")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_WAITING_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    seq: int
    free_bytes: int
    offsets_waiting: int
    groups: _containers.RepeatedCompositeFieldContainer[GroupLag]
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ..., seq: _Optional[int] = ..., free_bytes: _Optional[int] = ..., offsets_waiting: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[GroupLag, _Mapping]]] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("seq", "term", "rev", "renewed", "changed_rev")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    REV_FIELD_NUMBER: _ClassVar[int]
    RENEWED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_REV_FIELD_NUMBER: _ClassVar[int]
    seq: int
    term: int
    rev: int
    renewed: bool
    changed_rev: int
    def __init__(self, seq: _Optional[int] = ..., term: _Optional[int] = ..., rev: _Optional[int] = ..., renewed: _Optional[bool] = ..., changed_rev: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("from_rev", "cluster_id")
    FROM_REV_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    from_rev: int
    cluster_id: bytes
    def __init__(self, from_rev: _Optional[int] = ..., cluster_id: _Optional[bytes] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("rev", "full", "config", "brokers", "slots")
    REV_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    BROKERS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    rev: int
    full: bool
    config: ClusterConfig
    brokers: _containers.RepeatedCompositeFieldContainer[Broker]
    slots: _containers.RepeatedCompositeFieldContainer[Slot]
    def __init__(self, rev: _Optional[int] = ..., full: _Optional[bool] = ..., config: _Optional[_Union[ClusterConfig, _Mapping]] = ..., brokers: _Optional[_Iterable[_Union[Broker, _Mapping]]] = ..., slots: _Optional[_Iterable[_Union[Slot, _Mapping]]] = ...) -> None: ...

class ViewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IsrChange(_message.Message):
    __slots__ = ("slot", "epoch", "ver", "isr", "incarnations")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    ISR_FIELD_NUMBER: _ClassVar[int]
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    ver: int
    isr: _containers.RepeatedScalarFieldContainer[str]
    incarnations: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., ver: _Optional[int] = ..., isr: _Optional[_Iterable[str]] = ..., incarnations: _Optional[_Iterable[int]] = ...) -> None: ...

class SlotResult(_message.Message):
    __slots__ = ("outcome", "text", "slot")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    text: str
    slot: Slot
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ..., text: _Optional[str] = ..., slot: _Optional[_Union[Slot, _Mapping]] = ...) -> None: ...

class AlterIsrRequest(_message.Message):
    __slots__ = ("request", "node", "incarnation", "changes")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    request: RequestId
    node: str
    incarnation: int
    changes: _containers.RepeatedCompositeFieldContainer[IsrChange]
    def __init__(self, request: _Optional[_Union[RequestId, _Mapping]] = ..., node: _Optional[str] = ..., incarnation: _Optional[int] = ..., changes: _Optional[_Iterable[_Union[IsrChange, _Mapping]]] = ...) -> None: ...

class AlterIsrReply(_message.Message):
    __slots__ = ("rev", "results")
    REV_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    rev: int
    results: _containers.RepeatedCompositeFieldContainer[SlotResult]
    def __init__(self, rev: _Optional[int] = ..., results: _Optional[_Iterable[_Union[SlotResult, _Mapping]]] = ...) -> None: ...

class Floor(_message.Message):
    __slots__ = ("mailbox", "consumer", "tier", "floor")
    MAILBOX_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    mailbox: int
    consumer: int
    tier: int
    floor: int
    def __init__(self, mailbox: _Optional[int] = ..., consumer: _Optional[int] = ..., tier: _Optional[int] = ..., floor: _Optional[int] = ...) -> None: ...

class SlotFloors(_message.Message):
    __slots__ = ("slot", "epoch", "floors", "forget")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FLOORS_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    floors: _containers.RepeatedCompositeFieldContainer[Floor]
    forget: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., floors: _Optional[_Iterable[_Union[Floor, _Mapping]]] = ..., forget: _Optional[_Iterable[int]] = ...) -> None: ...

class CommitOffsetsRequest(_message.Message):
    __slots__ = ("request", "slots")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    request: RequestId
    slots: _containers.RepeatedCompositeFieldContainer[SlotFloors]
    def __init__(self, request: _Optional[_Union[RequestId, _Mapping]] = ..., slots: _Optional[_Iterable[_Union[SlotFloors, _Mapping]]] = ...) -> None: ...

class CommitOffsetsReply(_message.Message):
    __slots__ = ("rev", "stale_slots")
    REV_FIELD_NUMBER: _ClassVar[int]
    STALE_SLOTS_FIELD_NUMBER: _ClassVar[int]
    rev: int
    stale_slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, rev: _Optional[int] = ..., stale_slots: _Optional[_Iterable[int]] = ...) -> None: ...

class GetOffsetsRequest(_message.Message):
    __slots__ = ("slot",)
    SLOT_FIELD_NUMBER: _ClassVar[int]
    slot: int
    def __init__(self, slot: _Optional[int] = ...) -> None: ...

class GetOffsetsReply(_message.Message):
    __slots__ = ("rev", "floors")
    REV_FIELD_NUMBER: _ClassVar[int]
    FLOORS_FIELD_NUMBER: _ClassVar[int]
    rev: int
    floors: _containers.RepeatedCompositeFieldContainer[Floor]
    def __init__(self, rev: _Optional[int] = ..., floors: _Optional[_Iterable[_Union[Floor, _Mapping]]] = ...) -> None: ...

class AdminRequest(_message.Message):
    __slots__ = ("request", "drain", "forget", "transfer", "start_move", "finish_move", "cancel_move", "unclean_elect", "configure")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    START_MOVE_FIELD_NUMBER: _ClassVar[int]
    FINISH_MOVE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_MOVE_FIELD_NUMBER: _ClassVar[int]
    UNCLEAN_ELECT_FIELD_NUMBER: _ClassVar[int]
    CONFIGURE_FIELD_NUMBER: _ClassVar[int]
    request: RequestId
    drain: Drain
    forget: ForgetBroker
    transfer: TransferPrimary
    start_move: StartMove
    finish_move: FinishMove
    cancel_move: CancelMove
    unclean_elect: UncleanElect
    configure: Configure
    def __init__(self, request: _Optional[_Union[RequestId, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., forget: _Optional[_Union[ForgetBroker, _Mapping]] = ..., transfer: _Optional[_Union[TransferPrimary, _Mapping]] = ..., start_move: _Optional[_Union[StartMove, _Mapping]] = ..., finish_move: _Optional[_Union[FinishMove, _Mapping]] = ..., cancel_move: _Optional[_Union[CancelMove, _Mapping]] = ..., unclean_elect: _Optional[_Union[UncleanElect, _Mapping]] = ..., configure: _Optional[_Union[Configure, _Mapping]] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("node", "cancel")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    node: str
    cancel: bool
    def __init__(self, node: _Optional[str] = ..., cancel: _Optional[bool] = ...) -> None: ...

class ForgetBroker(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class TransferPrimary(_message.Message):
    __slots__ = ("slot", "epoch", "ver", "to")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    ver: int
    to: str
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., ver: _Optional[int] = ..., to: _Optional[str] = ...) -> None: ...

class StartMove(_message.Message):
    __slots__ = ("slot", "epoch", "ver", "add", "remove")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    ver: int
    add: _containers.RepeatedScalarFieldContainer[str]
    remove: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., ver: _Optional[int] = ..., add: _Optional[_Iterable[str]] = ..., remove: _Optional[_Iterable[str]] = ...) -> None: ...

class FinishMove(_message.Message):
    __slots__ = ("slot", "epoch", "ver")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    ver: int
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., ver: _Optional[int] = ...) -> None: ...

class CancelMove(_message.Message):
    __slots__ = ("slot", "epoch", "ver")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    ver: int
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., ver: _Optional[int] = ...) -> None: ...

class UncleanElect(_message.Message):
    __slots__ = ("slot", "epoch", "ver", "to")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VER_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    slot: int
    epoch: int
    ver: int
    to: str
    def __init__(self, slot: _Optional[int] = ..., epoch: _Optional[int] = ..., ver: _Optional[int] = ..., to: _Optional[str] = ...) -> None: ...

class Configure(_message.Message):
    __slots__ = ("replication_factor", "min_in_sync", "rebalance")
    REPLICATION_FACTOR_FIELD_NUMBER: _ClassVar[int]
    MIN_IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    REBALANCE_FIELD_NUMBER: _ClassVar[int]
    replication_factor: int
    min_in_sync: int
    rebalance: bool
    def __init__(self, replication_factor: _Optional[int] = ..., min_in_sync: _Optional[int] = ..., rebalance: _Optional[bool] = ...) -> None: ...

class AdminReply(_message.Message):
    __slots__ = ("rev", "result")
    REV_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    rev: int
    result: SlotResult
    def __init__(self, rev: _Optional[int] = ..., result: _Optional[_Union[SlotResult, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "leader", "leader_address", "role", "term", "commit_index", "applied_index", "first_index", "last_index", "connected", "cluster_id", "fsyncs", "heard")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    FSYNCS_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    node: str
    leader: str
    leader_address: str
    role: str
    term: int
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    connected: _containers.RepeatedScalarFieldContainer[str]
    cluster_id: bytes
    fsyncs: int
    heard: _containers.RepeatedCompositeFieldContainer[HeartbeatRequest]
    def __init__(self, node: _Optional[str] = ..., leader: _Optional[str] = ..., leader_address: _Optional[str] = ..., role: _Optional[str] = ..., term: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., first_index: _Optional[int] = ..., last_index: _Optional[int] = ..., connected: _Optional[_Iterable[str]] = ..., cluster_id: _Optional[bytes] = ..., fsyncs: _Optional[int] = ..., heard: _Optional[_Iterable[_Union[HeartbeatRequest, _Mapping]]] = ...) -> None: ...
