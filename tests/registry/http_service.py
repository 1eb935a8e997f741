"""Real HTTP servers on this machine, in a thread of their own, that answer what a test tells them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextmanager
def serving(handler: Handler, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve every path with `handler`; gives the port."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    ports: list[int] = []
    stop: list[asyncio.Event] = []

    async def serve() -> None:
        stop.append(asyncio.Event())
        runner = web.AppRunner(_application(handler, stop[0]), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, host, 0)
        await site.start()
        ports.append(runner.addresses[0][1])
        ready.set()
        await stop[0].wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop[0].set)
        thread.join(10)
        loop.close()


STOPPING = web.AppKey("stopping", asyncio.Event)


async def pause(request: web.Request, seconds: float) -> bool:
    """For a handler that is slow: wait, but not longer than the test; False when the test is over."""
    try:
        await asyncio.wait_for(request.app[STOPPING].wait(), seconds)
    except TimeoutError:
        return True
    return False


def _application(handler: Handler, stopping: asyncio.Event) -> web.Application:
    application = web.Application(client_max_size=1 << 26)
    application[STOPPING] = stopping
    application.router.add_route("*", "/{path:.*}", handler)
    return application
