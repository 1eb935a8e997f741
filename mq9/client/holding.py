"""What one consumer holds of its group: a state machine over messages and the time, no IO.

A message is *held* from the FETCH that brought it until its confirmation is on disk or it was given back: first in the
buffer, then in hand, then done. The broker leases it to this connection for a while; then anyone may get it.

Rules
- No more than `capacity` are held and not done, so a worker that is stuck keeps at most that many from the others. What is
  done waits for its confirmation beside them, up to a bound: beyond it the broker does not take confirmations, and then
  it makes no sense to do more.
- A buffered message whose lease ran out is dropped, never handed out: somebody else may be working on it.
- A message that comes again while it is in hand (its lease ran out under a slow handler, or the broker repeats what a
  connection holds) is not handed out twice: it will be confirmed when the handler is done. When the program confirms by
  itself (`manual`), nobody can know that it ever will: there, a message whose lease ran out is forgotten, and handed out
  again when it comes again.
- A new connection holds nothing: the broker took the leases back when the old one ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from mq9.client.message import Message

UNCONFIRMED_MAX: Final = 2000  # done, and waiting for its confirmation: two batches


class Holding:
    """See the module. Times are seconds of one monotonic clock."""

    def __init__(self, capacity: int, *, manual: bool) -> None:
        self.capacity = capacity
        self._manual = manual
        self._leases: dict[int, float] = {}  # every held id -> when its lease ends
        self._buffer: deque[Message] = deque()
        self._done: dict[int, None] = {}  # to be confirmed, in order
        self._confirmed: set[int] = set()  # since the last FETCH was sent: its reply may still carry them

    # --- Fetching ---------------------------------------------------------------------------------------------

    def room(self, now_s: float) -> int:
        """How many more to fetch: none while more than half of the places are taken, so that fetches come in batches."""
        if self._manual:
            for msg_id in self.in_hand():
                if self._leases[msg_id] <= now_s:
                    self._forget(msg_id)
        if len(self._done) >= UNCONFIRMED_MAX:
            return 0
        room = self.capacity - sum(msg_id not in self._done for msg_id in self._leases)
        return room if 2 * room >= self.capacity else 0

    def lease_end_s(self) -> float | None:
        """When the first lease of a held message ends; None when nothing is held."""
        return min(self._leases.values(), default=None)

    def asked(self) -> None:
        """A FETCH is sent now: its reply cannot carry what was confirmed before."""
        self._confirmed.clear()

    def take(self, messages: Iterable[Message], lease_end_s: float) -> list[Message]:
        """A FETCH reply came; those of its messages that are new, which are now in the buffer."""
        fresh = []
        for message in messages:
            msg_id = message.msg_id
            if msg_id in self._confirmed:
                continue
            if msg_id not in self._leases:
                fresh.append(message)
            self._leases[msg_id] = lease_end_s
        self._buffer.extend(fresh)
        return fresh

    # --- Handing out ------------------------------------------------------------------------------------------

    def next(self, now_s: float) -> Message | None:
        """The next message for a worker, or None."""
        while self._buffer:
            message = self._buffer.popleft()
            if self._leases[message.msg_id] > now_s:
                return message
            self._forget(message.msg_id)
        return None

    def finish(self, msg_id: int) -> None:
        """A worker is done with a message: confirm it with the next batch."""
        self._done[msg_id] = None

    def to_confirm(self, most: int) -> list[int]:
        """Up to `most` ids that are done and not confirmed, oldest first."""
        return [msg_id for msg_id, _ in zip(self._done, range(most), strict=False)]

    def confirmed(self, msg_ids: Iterable[int]) -> None:
        """The broker has these confirmations on disk, or will never take them."""
        for msg_id in msg_ids:
            self._forget(msg_id)
            self._confirmed.add(msg_id)

    def release(self, msg_id: int) -> None:
        """A message is about to be given back: from now on it may come again."""
        self._forget(msg_id)

    # --- The end ----------------------------------------------------------------------------------------------

    def empty_buffer(self) -> list[int]:
        """Forget what no worker has begun; its ids, to be given back."""
        msg_ids = [message.msg_id for message in self._buffer]
        self._buffer.clear()
        for msg_id in msg_ids:
            self._forget(msg_id)
        return msg_ids

    def in_hand(self) -> list[int]:
        """What workers have and are not done with."""
        buffered = {message.msg_id for message in self._buffer}
        return [msg_id for msg_id in self._leases if msg_id not in buffered and msg_id not in self._done]

    def _forget(self, msg_id: int) -> None:
        self._leases.pop(msg_id, None)
        self._done.pop(msg_id, None)
