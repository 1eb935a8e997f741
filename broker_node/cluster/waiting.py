"""Requests whose slot nobody serves at the moment, in the order they came; so many of a slot and no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from broker_node.cluster.requests import Nobody, PlacedRequest
from mq9.limits import FORWARD_WAITING_BYTES_MAX, FORWARD_WAITING_MAX


class WaitingRoom:
    """See the module."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lines: dict[int, deque[PlacedRequest]] = {}
        self._bytes_of: dict[int, int] = {}

    def __contains__(self, slot: int) -> bool:
        return slot in self._lines

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def slots(self) -> list[int]:
        """Those somebody waits for."""
        return list(self._lines)

    def add(self, request: PlacedRequest, *, first: bool = False) -> bool:
        """To the end of the line of its slot, or to the head. False: there is no room."""
        slot, size = request.slot, request.size
        line = self._lines.get(slot)
        if line is None:
            line = self._lines[slot] = deque()
            self._bytes_of[slot] = 0
        elif len(line) >= FORWARD_WAITING_MAX or self._bytes_of[slot] + size > FORWARD_WAITING_BYTES_MAX:
            return False
        if first:
            line.appendleft(request)
        else:
            line.append(request)
        self.bytes += size
        self._bytes_of[slot] += size
        return True

    def take(self, slot: int) -> PlacedRequest | None:
        """The one that has waited longest, out of the line."""
        line = self._lines.get(slot)
        if line is None:
            return None
        request = line.popleft()
        self._left(slot, request)
        return request

    def _left(self, slot: int, request: PlacedRequest) -> None:
        self.bytes -= request.size
        self._bytes_of[slot] -= request.size
        if not self._lines[slot]:
            del self._lines[slot]
            del self._bytes_of[slot]

    def overdue(self, now_s: float) -> list[PlacedRequest]:
        """Those that have waited long enough, out of their lines."""
        return self._sift(lambda request: request.deadline_s <= now_s)

    def client_closed(self, client_id: int) -> None:
        """A client has gone: nothing is fetched for it any more. What it sent still counts, as anybody's."""
        self._sift(lambda request: request.client.id == client_id and request.is_poll)
        for line in self._lines.values():
            for request in line:
                if request.client.id == client_id:
                    request.client = Nobody()

    def _sift(self, wanted: Callable[[PlacedRequest], bool]) -> list[PlacedRequest]:
        found: list[PlacedRequest] = []
        for slot, line in list(self._lines.items()):
            for request in [request for request in line if wanted(request)]:
                line.remove(request)
                self._left(slot, request)
                found.append(request)
        return found
