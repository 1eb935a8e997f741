"""Where the partition of a slot writes: the surface of a GroupCommit, in front of the node's one.

What is staged here becomes one entry of the slot when the node's commit seals; the completions run once every in-sync replica
has it, or fail when the node stops leading the slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mq9 import limits
from mq9.errors import Mq9Error, error
from mq9.storage.commit import CommitStats, Completion, complete
from mq9.storage.interface import Batch

if TYPE_CHECKING:
    from broker_node.cluster.leader import Leader

_WAITING_MAX: Final = limits.COMMIT_OPS_MAX // 4


class SlotCommit:
    """See the module. `before_seal` is set by the partition's shelf, as on a GroupCommit."""

    __slots__ = ("_dirty", "_leader", "_waiting", "batch", "before_seal", "is_ended", "on_failure")

    def __init__(self, leader: Leader) -> None:
        self.batch = Batch()
        self.before_seal: Callable[[], None] | None = None
        self.on_failure: Callable[[Mq9Error], None] | None = None  # never called: a slot that failed is opened anew
        self.is_ended = False
        self._leader = leader
        self._waiting: list[Completion] = []
        self._dirty = False

    @property
    def stats(self) -> CommitStats:
        """Of the node's commits."""
        return self._leader.host.commit.stats

    @property
    def staged_bytes(self) -> int:
        """Bytes of the slot that are not committed yet."""
        return self._leader.pending_bytes + self.batch.bytes_staged

    def then(self, done: Callable[..., None], *args: Any) -> None:
        """Have `done(error_or_None, *args)` run when everything staged so far is committed, or will not be."""
        waiting = self._waiting
        waiting.append((done, args))
        if not self._dirty:
            if self.is_ended:
                self.end()
                return
            self._dirty = True
            self._leader.host.dirty(self._leader)
        elif self.batch.bytes_staged > limits.COMMIT_BYTES_MAX or len(waiting) > _WAITING_MAX:
            self._leader.host.commit.seal()

    def take(self) -> tuple[Batch, list[Completion]]:
        """Close what is staged and begin anew."""
        if self.before_seal is not None:
            self.before_seal()
        taken = self.batch, self._waiting
        self.batch, self._waiting, self._dirty = Batch(), [], False
        return taken

    def end(self) -> None:
        """The node does not lead the slot any more: fail what is not sealed, now and from now on."""
        self.is_ended = True
        self._dirty = False  # it will not be sealed: who asks from here on is told at once
        waiting, self._waiting = self._waiting, []
        self.batch = Batch()
        complete(waiting, ended())


def ended() -> Mq9Error:
    """What is said to whoever waits for an entry whose fate another leader decides."""
    return error("UNAVAILABLE", reason="the mailbox moved to another broker; whether this happened is not known, ask again")
