"""What Raft needs from the rest of the node, and the one place that knows how we hang on PySyncObj's insides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pysyncobj.version import VERSION as PYSYNCOBJ_VERSION

from meta_service.frames import Message
from meta_service.snapshot import Incoming
from mq9 import limits

SUPPORTED_VERSION: Final = "0.3.17"
if PYSYNCOBJ_VERSION != SUPPORTED_VERSION:
    raise ImportError(f"meta_service needs pysyncobj {SUPPORTED_VERSION} exactly, not {PYSYNCOBJ_VERSION}")

# The private names of SyncObj that raft.py uses: attributes it reads or writes, methods it calls, methods of its own that
# take the place of SyncObj's. tests/meta/test_pysyncobj.py fails when one of them, or what SyncObj does with it, changes.
LEANED_ON: Final = {
    "attributes": (
        "commandsWaitingCommit", "connectedNodes", "leaderCommitIndex", "newAppendEntriesTime", "raftCommitIndex",
        "raftCurrentTerm", "raftElectionDeadline", "raftLastApplied", "raftLeader", "raftLog", "raftNextIndex", "raftState",
        "votedForNodeId",
    ),
    "called": (
        "generateRaftTimeout", "onLeaderChanged", "onMessageReceived", "onNodeConnected", "onNodeDisconnected",
        "setCurrentTerm", "setState",
    ),
    "replaced": ("connectedToAnyone", "doApplyCommand", "sendAppendEntries", "tryLogCompaction"),
}  # fmt: skip

# How a proposal ended: its result, or None and why (FAIL_REASON).
Done = Callable[[Any, int], None]


class Machine(Protocol):
    """The state machine. Its rows are in the same disk's tables; what it writes is committed with the journal."""

    applied: int

    def apply(self, index: int, command: bytes | None) -> Any:
        """Become the state after entry `index`; None: an entry without a command. Never raises for what a command says."""

    def save(self) -> None:
        """Add `applied` to the disk's open transaction."""

    def install(self, snapshot: Incoming) -> None:
        """Replace the state by the snapshot's, in the disk's open transaction."""


class Link(Protocol):
    """The way to the peers."""

    def send(self, peer: str, message: Message) -> None:
        """Send, or forget when the peer is not there or does not read."""

    def has_room(self, peer: str) -> bool:
        """Whether the peer is taking what it is sent."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Times in seconds. A follower that hears nothing for a random time between the two timeouts asks for an election."""

    heartbeat_s: float = 0.05
    election_min_s: float = 0.3
    election_max_s: float = 0.6
    step_down_s: float = 1.0  # a leader that hears no majority for this long stops leading
    log_entries_max: int = limits.META_LOG_ENTRIES_MAX
    log_entries_kept: int = limits.META_LOG_ENTRIES_KEPT


class RaftBroken(Exception):
    """What must never happen happened: the node has to stop before it does harm."""
