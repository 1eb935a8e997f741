"""A cluster of three brokers with the face of one server: each client is connected to a broker chosen at random.

With `pytest --cluster` the fixtures of tests/conftest.py give this instead of a single server, so that what holds for one
node is shown to hold for three. What cannot hold is in `APART`, with its reason; it is skipped then.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from tests.cluster.processes import Cluster
from tests.support.process import START_TIMEOUT_S, Process, StartError
from tests.support.raw import TIMEOUT_S, Frame, RawClient
from tests.support.server import Ready, ServerProcess

SERVER_FIXTURES: Final = frozenset(("server", "shared_server", "session_server", "start_server", "make_server"))
CALM: Final = {"heartbeat_s": 0.5, "lease_s": 2.5, "session_s": 4.0}  # the defaults: nothing here is about leases that end
NOT_HERE: Final = frozenset(("port", "monitor_port", "data_dir", "storage"))  # each broker has its own

# What one server has and a cluster has not: test, by pattern -> reason.
APART: Final[dict[str, str]] = {
    "*test_transcript?mq9/info?": "INFO of a broker in a cluster names the others",
    "*test_transcript?mq9/limits-mailboxes?": "each broker counts the mailboxes it serves",
    "tests/chaos/*": "about one process and its disk; faults of a cluster are in tests/cluster/test_chaos*.py",
    "tests/push/test_killed_server.py::*killed*": "all brokers are killed at once: the last confirmations find no second replica",
    "tests/push/test_killed_server.py::test_many_ends": "some of them are kills",
    "tests/interop/test_published_sdk_push.py::*after_a_restart?killed?": "as tests/push/test_killed_server.py",
    "tests/deploy/test_balancer.py::*": "brokers behind a balancer are what it is about; a cluster of them is in its last test",
    "tests/push/test_slow_members.py::*plain_subscriber_that_stalls*": "what one process holds for a subscriber, two hold",
    "tests/examples/*capability_discovery*": "brokers of these tests compare agents by keyword alone",
    "tests/examples/*agent_that_left*": "brokers of these tests compare agents by keyword alone",
    "tests/broker/test_drain.py::*": "a signal to one process; restarts in turn are in tests/cluster/test_chaos.py",
    "tests/broker/test_process.py::*": "about one process: its port, its directory, its log",
}


def apart(node_id: str) -> str:
    """Why a test says nothing of a cluster; empty when it does."""
    return next((reason for pattern, reason in APART.items() if fnmatch(node_id, pattern)), "")


class PatientClient(RawClient):
    """A client that, once it has said what it listens to, reads no PONG before all brokers know of it."""

    def __init__(self, host: str, port: int, *, read_info: bool, known: Callable[[], None]) -> None:
        self._known = known
        self._has_said = False
        super().__init__(host, port, read_info=read_info)

    def send(self, data: bytes) -> None:
        self._has_said = self._has_said or b"SUB " in data
        super().send(data)

    def frame(self) -> Frame:
        frame = super().frame()
        if frame.verb == b"PONG" and self._has_said:
            self._has_said = False
            self._known()
        return frame


class Anywhere(ServerProcess):
    """See the module."""

    def __init__(self, directory: Path, **values: Any) -> None:
        super().__init__(directory, **values)
        own = {name: value for name, value in values.items() if name not in NOT_HERE}
        if "ws_port" in own:
            own["ws_port"] = 0
        self.cluster = Cluster(directory, meta_settings=CALM, **own)
        self._rng = random.Random(str(directory))
        self._has_started = False
        self._probes = 0

    def start(self, timeout_s: float = START_TIMEOUT_S) -> ServerProcess:
        """Start the brokers, and the first time the meta service; wait until all slots are served in sync."""
        self.cluster.start(*(self.cluster.names if self._has_started else ()))
        self._has_started = True
        with ThreadPoolExecutor(1) as pool:  # the test may run in a loop of its own
            pool.submit(asyncio.run, self.cluster.settled()).result()
        return self

    def start_error(self) -> StartError:
        """The meta service starts; the brokers are expected not to."""
        if not self._has_started:
            self.cluster.start(*self.cluster.metas.names)
            self._has_started = True
        return next(iter(self.cluster.brokers.values())).start_error()

    @property
    def any(self) -> ServerProcess:
        """One of the brokers."""
        return self._rng.choice(self.cluster.running or list(self.cluster.brokers.values()))

    @property
    def ready(self) -> Ready:
        return self.any.ready

    @property
    def process(self) -> Process:
        raise AssertionError("there are three: such a test belongs in APART")

    @property
    def host(self) -> str:
        return self.any.host

    @property
    def port(self) -> int:
        return self.any.port

    @property
    def url(self) -> str:
        return self.any.url

    @property
    def monitor_urls(self) -> list[str]:
        return [broker.monitor_url for broker in self.cluster.running]

    @property
    def monitor_url(self) -> str:
        return self.any.monitor_url

    @property
    def websocket_url(self) -> str | None:
        return self.any.websocket_url

    @property
    def running(self) -> bool:
        return bool(self.cluster.running)

    @property
    def log(self) -> str:
        return self.cluster.log()

    def stop(self) -> int:
        """SIGTERM to all brokers at once; the worst exit code."""
        codes = self.cluster.stop_brokers()
        return max(codes.values(), key=abs, default=0)

    def kill(self) -> int:
        """SIGKILL to all brokers at once. The meta service goes on, as a server's supervisor would."""
        self.cluster.kill(*(str(broker.values["node_id"]) for broker in self.cluster.running))
        return -9

    def restart(self, **values: Any) -> ServerProcess:
        if self.running:
            code = self.stop()
            assert code == 0, f"exit code {code}; log:\n{self.log}"
        for broker in self.cluster.brokers.values():
            broker.values.update({name: value for name, value in values.items() if name not in NOT_HERE})
        return self.start()

    def dial(self, *, read_info: bool = True) -> RawClient:
        broker = self.any
        return PatientClient(broker.host, broker.port, read_info=read_info, known=lambda: self._wait_until_known(broker))

    def _wait_until_known(self, broker: ServerProcess) -> None:
        with contextlib.suppress(ConnectionError):  # brokers that stop need not know
            self._known(broker)

    def _known(self, broker: ServerProcess) -> None:
        """Wait until the other brokers know what clients of this one listen to.

        They are told in order: when they know of something said later, they know. NATS promises no more than that it
        happens soon, so a test that is written for one server cannot see it any other way.
        """
        self._probes += 1
        subject = b"_probe.%d" % self._probes
        with broker.dial() as listener:
            listener.connect()
            listener.sub(subject)
            for other in self.cluster.running:
                if other is broker:
                    continue
                with other.dial() as speaker:
                    speaker.connect()
                    deadline_s = time.monotonic() + TIMEOUT_S
                    while not any(frame.payload == other.url.encode() for frame in listener.flush()):
                        assert time.monotonic() < deadline_s, f"{other.url} does not learn of {subject!r}"
                        speaker.pub(subject, other.url.encode())
                        speaker.flush()

    def check_log(self) -> None:
        self.cluster.finish()
