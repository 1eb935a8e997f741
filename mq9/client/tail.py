"""Reading a mailbox without a group: everything that comes, nothing recorded at the broker.

A FETCH without a group gives what lies at or after a position, most urgent first and bounded in count and bytes. As long as
a reply is not near its bounds it holds everything there was, and the position moves behind it. Near the bounds, less urgent
messages with smaller ids may be missing; then the rest is read with QUERY, which goes by id and so cannot leave gaps.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from mq9.client.message import Message
from mq9.client.wire import FetchOptions
from mq9.errors import NotFound, RequestError
from mq9.limits import FETCH_BYTES_MAX, FETCH_MESSAGES_MAX, QUERY_MESSAGES_MAX

if TYPE_CHECKING:
    from mq9.client.client import Client

log = logging.getLogger("mq9.client")

WHOLE_BELOW_BYTES: Final = FETCH_BYTES_MAX // 2  # a reply this small was not cut by the byte bound


class Tail:
    """A position in a mailbox. `start` is where it begins, as in a FETCH."""

    def __init__(self, client: Client, mail_address: str, start: FetchOptions) -> None:
        self._client = client
        self._address = mail_address
        self._start = start
        self._last: Message | None = None  # the one with the highest id
        self._placed = start.get("deliver") != "latest"

    async def read(self, max_wait_ms: int) -> list[Message]:
        """What has come since the last call; waits up to `max_wait_ms` for the first message."""
        if not self._placed:
            await self._place()
        options = self._start
        if self._last is not None:
            options = FetchOptions(deliver="from_id", from_id=self._last.msg_id + 1)
            if tags := self._start.get("tags"):
                options["tags"] = tags
        messages = await self._client.fetch(self._address, num_msgs=FETCH_MESSAGES_MAX, max_wait_ms=max_wait_ms, **options)
        size_bytes = sum(len(message.payload) for message in messages)
        if len(messages) >= FETCH_MESSAGES_MAX or size_bytes >= WHOLE_BELOW_BYTES:
            messages = await self._by_id(min(message.msg_id for message in messages)) or messages
        if messages:
            self._last = max(messages, key=lambda message: message.msg_id)
        return messages

    async def _place(self) -> None:
        """Turn `latest` into a position, so that nothing is missed between the first read and the second."""
        try:
            last_id = (await self._client.mailbox_info(self._address)).last_msg_id
        except NotFound:
            raise
        except RequestError as unknown:
            log.debug("this broker has no MAILBOX.INFO (%s): messages between two reads may be missed", unknown)
        else:
            self._start = FetchOptions(**{**self._start, "deliver": "from_id", "from_id": last_id + 1})
        self._placed = True

    async def _by_id(self, first_id: int) -> list[Message]:
        """One page of what is there, in order of id: from the last message read, or the earliest this Tail may see."""
        since: float | None = self._start.get("from_time")
        least = self._start.get("from_id") or 0
        if self._last is not None:
            since, least = self._last.create_time_ms, self._last.msg_id + 1
        elif self._start.get("deliver") == "latest":
            least = first_id  # of an older broker: see _place
        found = await self._client.query(self._address, since=since, limit=QUERY_MESSAGES_MAX, tags=self._start.get("tags"))
        return [message for message in found if message.msg_id >= least]
