"""A server that has its clients move to others, and can have them back: it tells them, turns new ones away, and closes those
that stay, one after another.

The end of a server is another matter (server.py): it goes on serving for a while, and stops listening.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from broker_node.hub import Hub

log = logging.getLogger("mq9.clients")

CLOSE_INTERVAL_S_MAX: Final = 0.25  # between two clients of a lame duck, however few there are


def close_interval_s(clients: int, whole_s: float) -> float:
    """Seconds between two clients, so that they do not knock at other servers all at once."""
    return min(CLOSE_INTERVAL_S_MAX, whole_s / max(1, clients))


class LameDuck:
    """See the module. Everything happens on the event loop."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._closing: asyncio.Task[None] | None = None

    def begin(self, urls: list[str]) -> None:
        """Send clients to the servers at `urls`."""
        hub = self._hub
        log.warning("sending %d clients to %s", len(hub.sessions), ", ".join(urls))
        hub.turns_away = True
        hub.info["connect_urls"] = urls
        hub.tell_lame_duck()
        self._closing = asyncio.ensure_future(self._close_all())

    async def _close_all(self) -> None:
        """Those who know what the INFO means have begun to move; most clients move when they are closed."""
        sessions = list(self._hub.sessions.values())
        interval_s = close_interval_s(len(sessions), self._hub.settings.lame_duck_close_s)
        for session in sessions:
            if session.id not in self._hub.sessions:
                continue
            session.retire()  # and close it when what it asked for has had a chance to be answered
            try:
                await asyncio.sleep(interval_s)
            finally:
                session.close()

    def stop(self) -> None:
        """Close no more clients: they are let in again, or closed in another way."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def end(self, urls: list[str]) -> None:
        """Let clients in again; those that are still here may stay."""
        self.stop()
        hub = self._hub
        if not hub.turns_away:
            return
        log.info("letting clients in again")
        hub.turns_away = False
        hub.info.pop("ldm", None)
        hub.info["connect_urls"] = urls
        hub.tell_info()
