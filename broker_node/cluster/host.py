"""What the replication of one slot needs of its node. The replicator provides it; a simulation does too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from google.protobuf.message import Message

from mq9.errors import StorageError
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Store
from mq9.v1 import meta_pb2 as meta

if TYPE_CHECKING:
    from broker_node.cluster.leader import Leader


Changes = tuple[Mapping[bytes, bytes | None], Mapping[bytes, bytes | None]]  # of the tables GROUP and TRASH


class Host(Protocol):
    """One node."""

    store: Store
    commit: GroupCommit

    @property
    def node(self) -> str:
        """The name of this node."""

    @property
    def incarnation(self) -> int:
        """Of this node."""

    def send(self, node: str, kind: str, message: Message) -> bool:
        """Say something to a replica; False when there is no link or it is crowded, and nothing was said."""

    def linked(self, node: str) -> int:
        """The incarnation of the node at the other end of our link to `node`; 0 without a link."""

    def known(self, node: str) -> int:
        """The incarnation of `node` as the meta service has it; 0 when it has none or has fenced it."""

    def now_s(self) -> float:
        """Monotonic."""

    def min_in_sync(self) -> int:
        """Members an in-sync set needs for a commit."""

    def may_copy(self, node: str) -> bool:
        """Whether one more copy may be on its way to the node."""

    def dirty(self, leader: Leader) -> None:
        """The slot has something staged: have `leader.seal` called when the node's commit seals."""

    def ask_isr(self, leader: Leader, change: meta.IsrChange) -> None:
        """Ask the meta service; `leader.isr_answered` or a new view tells what became of it."""

    def may_serve(self, leader: Leader) -> bool:
        """Everything the slot has is committed in the leader's epoch: serve it. False: not now; call `leader.resume` later."""

    def must_not_serve(self, leader: Leader) -> None:
        """Too few replicas for too long: whoever waits is to be told, until `may_serve` is called again."""

    def cannot_commit(self, leader: Leader) -> None:
        """It has had too few replicas for too long, and it still has. Said again and again, also before it could serve."""

    def deposed(self, leader: Leader) -> None:
        """A replica knows a newer epoch, or our own disk refused: the leader is at its end."""

    def damaged(self, slot: int, failure: StorageError) -> None:
        """A record of the slot is damaged on this node's disk: let another lead it, if another has everything."""

    def pending_changed(self, change: int) -> None:
        """So many bytes more, or less, are sealed and not committed."""

    def floors_changed(self, epoch: int, changes: Changes) -> None:
        """An entry is committed that moved floors of groups, or ended mailboxes."""
