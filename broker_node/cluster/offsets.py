"""How far consumers have confirmed, told to the meta service in batches: for placement and for whoever watches the lag.

The truth is in the slots: a group's floors are rows that replicate with the acknowledgement that moves them. What the meta
service could not take is said again; floors only grow, so repeating and reordering do no harm.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from broker_node.cluster.host import Changes
from broker_node.mailbox.model import GroupRow
from mq9.errors import Mq9Error
from mq9.limits import META_FLOORS_PER_COMMAND_MAX
from mq9.storage.layout import unpack_u64
from mq9.storage.records import unseal
from mq9.v1 import meta_pb2 as meta

if TYPE_CHECKING:
    from mq9.meta.client import MetaClient

log = logging.getLogger("mq9.cluster")

EVERY_S: Final = 0.05
_WAITING_MAX: Final = 8 * META_FLOORS_PER_COMMAND_MAX  # beyond it changes are dropped: the next change of the group says more
_PER_REQUEST: Final = 1000
_decode: Final = msgspec.msgpack.Decoder(GroupRow).decode


class Offsets:
    """What this node's leaders have committed and the meta service has not heard."""

    def __init__(self, client: MetaClient) -> None:
        self._client = client
        self._floors: dict[tuple[int, int, int], tuple[int, int]] = {}  # mailbox, consumer, tier -> epoch, floor
        self._forget: dict[int, int] = {}  # mailbox -> epoch
        self._task: asyncio.Task[None] | None = None
        self.committed = 0  # floors that were taken
        self.dropped = 0

    def changed(self, epoch: int, changes: Changes) -> None:
        """An entry of a slot is committed that changed groups, or ended mailboxes."""
        groups, trash = changes
        for key, row in groups.items():
            if row is None or len(self._floors) >= _WAITING_MAX:
                self.dropped += row is not None
                continue
            mailbox = unpack_u64(key[:8])
            group = _decode(unseal(key, row))
            for tier, floor in enumerate(group.floors):
                if floor:
                    self._floors[mailbox, group.group_id, tier] = (epoch, floor)
        for key, row in trash.items():
            if row is not None and len(self._forget) < _WAITING_MAX:
                self._forget[unpack_u64(key)] = epoch
        if self._task is None and (self._floors or self._forget):
            self._task = asyncio.ensure_future(self._tell())

    @property
    def waiting(self) -> int:
        """Floors that the meta service has not heard of."""
        return len(self._floors)

    async def _tell(self) -> None:
        """One request at a time, as long as there is something to say."""
        try:
            while self._floors or self._forget:
                await asyncio.sleep(EVERY_S)
                request = self._next_request()
                try:
                    reply = await self._client.commit_offsets(request)
                except Mq9Error as failure:
                    log.warning("the meta service did not take consumer offsets: %s", failure.text)
                    self._put_back(request)
                    continue
                stale = set(reply.stale_slots)
                self.committed += sum(len(each.floors) for each in request.slots if each.slot not in stale)
        finally:
            self._task = None

    def _next_request(self) -> meta.CommitOffsetsRequest:
        """The longest waiting, by slot and epoch."""
        by_slot: dict[tuple[int, int], meta.SlotFloors] = {}

        def of(mailbox: int, epoch: int) -> meta.SlotFloors:
            slot = mailbox >> 48
            return by_slot.setdefault((slot, epoch), meta.SlotFloors(slot=slot, epoch=epoch))

        for key in list(self._floors)[:_PER_REQUEST]:
            mailbox, consumer, tier = key
            epoch, floor = self._floors.pop(key)
            of(mailbox, epoch).floors.add(mailbox=mailbox, consumer=consumer, tier=tier, floor=floor)
        for mailbox in list(self._forget)[:_PER_REQUEST]:
            of(mailbox, self._forget.pop(mailbox)).forget.append(mailbox)
        return meta.CommitOffsetsRequest(slots=by_slot.values())

    def _put_back(self, request: meta.CommitOffsetsRequest) -> None:
        """Nobody heard it: it is still to be said, where nothing newer is."""
        for slot in request.slots:
            for each in slot.floors:
                self._floors.setdefault((each.mailbox, each.consumer, each.tier), (slot.epoch, each.floor))
            for mailbox in slot.forget:
                self._forget.setdefault(mailbox, slot.epoch)

    def close(self) -> None:
        """Say no more."""
        if self._task is not None:
            self._task.cancel()
