"""A real server on real sockets, in a thread of this process, so that a test owns its clock and can look inside.

hosted = Hosted(ping_interval_s=10)
client = hosted.raw()
hosted.pass_time(11)                # every deadline up to then has been looked at when this returns
hosted.on_loop(lambda: len(hosted.server.hub.sessions))
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from broker_node.broker import Broker
from broker_node.event_loop import new_event_loop
from broker_node.hub import Timing
from broker_node.server import Server
from mq9.settings import Settings
from mq9.testing.clock import ManualClock
from tests.support.raw import RawClient

HOST = "127.0.0.1"
TIMEOUT_S = 20.0
T = TypeVar("T")


class Hosted:
    """One server. `values` are settings; `timing`, `make_broker` and `loop` replace what a process would take."""

    def __init__(
        self,
        *,
        timing: Timing | None = None,
        make_broker: Callable[..., Broker] = Broker,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
        **values: Any,
    ) -> None:
        defaults = {
            "host": HOST,
            "port": 0,
            "monitor_port": -1,
            "storage": "memory",
            "lame_duck_grace_s": 0.05,
            "lame_duck_close_s": 0.05,
        }
        self.settings = Settings(**{**defaults, **values})
        self.clock = ManualClock()
        # The timer of the server never ticks by itself: what is due is looked at when the test says so.
        self.timing = timing or Timing(tick_s=1e6)
        self._clients: list[RawClient] = []
        self._make_broker = make_broker
        self._loop_factory = loop_factory
        self._ready: Future[Server] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.server = self._ready.result(TIMEOUT_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._loop_factory) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = Server(self.settings, self.clock, self._make_broker, timing=self.timing)
        try:
            await server.start()
        except BaseException as failure:
            self._ready.set_exception(failure)
            raise
        self._ready.set_result(server)
        await server.wait_closed()

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def monitor_url(self) -> str:
        return f"http://{HOST}:{self.server.monitor_port}"

    def on_loop(self, call: Callable[[], T]) -> T:
        """The result of `call`, made on the server's loop."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(call())
            except Exception as failure:  # noqa: BLE001  # raised again where the test waits
                result.set_exception(failure)

        self._loop.call_soon_threadsafe(run)
        return result.result(TIMEOUT_S)

    def pass_time(self, seconds: float) -> None:
        """Let that much time pass and the server look at its deadlines."""

        def sweep() -> None:
            self.clock.advance(seconds)
            self.server.hub.sweep()

        self.on_loop(sweep)

    def dial(self, **options: Any) -> RawClient:
        """A client that has read INFO and said nothing yet."""
        client = RawClient(HOST, self.port, **options)
        self._clients.append(client)
        return client

    def raw(self, **options: Any) -> RawClient:
        """A client that has sent CONNECT with these options."""
        client = self.dial()
        client.connect(**options)
        return client

    def begin_drain(self) -> None:
        self.on_loop(self.server.stop_soon)

    def wait_stopped(self) -> None:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "the server does not stop"

    def stop(self) -> None:
        """Drain and wait, if the test has not."""
        for client in self._clients:
            client.close()
        if self._thread.is_alive():
            self.begin_drain()
        self.wait_stopped()
