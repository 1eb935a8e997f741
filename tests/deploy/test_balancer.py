"""One address for three brokers: the configurations in deploy/, in the balancers they are for, with clients that know no broker.

haproxy comes from Debian (scripts/system-packages); nginx is tried where it is installed.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import mq9
from mq9.client.client import Client
from tests.cluster.processes import Cluster
from tests.conftest import MakeServer
from tests.deploy.composition import BROKERS, Composition
from tests.meta.cluster import free_ports, until
from tests.support.process import Process
from tests.support.raw import RawClient
from tests.support.server import ROOT, ServerProcess

DEPLOY = ROOT / "deploy"
DEADLINE_S = 30.0
CLUSTER_S = 60.0  # for a request that meets a change of leaders, on a busy machine


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {name})")
    return found


@dataclass
class Balancer:
    """A balancer that runs, in front of these brokers."""

    port: int
    process: Process
    brokers: list[ServerProcess]
    clients: list[RawClient] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def where(self) -> tuple[RawClient, str]:
        """A new client, and the name of the broker it came to."""
        client = RawClient("127.0.0.1", self.port)
        self.clients.append(client)
        client.connect()
        return client, str(client.info["server_name"])


def _configuration(name: str, port: int, places: list[tuple[str, int, int]], directory: Path) -> Path:
    """The file of deploy/ with these (host, port, monitoring port) for the brokers of its example, and nothing else changed."""
    text = (DEPLOY / name).read_text()
    for number, (host, client_port, monitor_port) in enumerate(places, 1):
        text = text.replace(f"broker{number}:4222 port 8222", f"{host}:{client_port} port {monitor_port}")
        text = text.replace(f"broker{number}:4222", f"{host}:{client_port}")
    text, binds = re.subn(r"^( +)(bind :|listen )4222", rf"\g<1>\g<2>{port}", text, flags=re.MULTILINE)
    assert binds == 1
    assert "broker1:" not in text
    path = directory / name
    path.write_text(text)
    return path


def _haproxy(path: Path) -> list[str]:
    program = _program("haproxy")
    subprocess.run([program, "-c", "-q", "-f", str(path)], check=True, timeout=DEADLINE_S)
    return [program, "-db", "-f", str(path)]


def _nginx(path: Path) -> list[str]:
    program = _program("nginx")
    if not Path("/usr/share/nginx/modules/ngx_stream_module.so").exists():
        pytest.skip("nginx has no stream module (Debian: libnginx-mod-stream)")
    where = ["-c", str(path), "-e", "stderr", "-g", f"pid {path.parent}/nginx.pid; daemon off;"]
    subprocess.run([program, "-q", "-t", *where], check=True, timeout=DEADLINE_S)
    return [program, *where]


BALANCERS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "haproxy": ("haproxy.cfg", _haproxy),
    "nginx": ("nginx.conf", _nginx),
}


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _running(kind: str, places: list[tuple[str, int, int]], directory: Path) -> Iterator[tuple[int, Process]]:
    """(port, process) of a balancer in front of brokers at these places."""
    _program(kind)
    name, command = BALANCERS[kind]
    (port,) = free_ports(1)
    arguments = command(_configuration(name, port, places, directory))
    process = Process(arguments, directory / "balancer.log", {"PATH": "/usr/bin:/bin"})
    process.spawn()
    try:
        end_s = time.monotonic() + DEADLINE_S
        while not _listens(port):
            assert process.running, process.log
            assert time.monotonic() < end_s, process.log
        yield port, process
    finally:
        process.stop()


@pytest.fixture(params=BALANCERS)
def balancer(request: pytest.FixtureRequest, start_server: MakeServer, tmp_path: Path) -> Iterator[Balancer]:
    """Three brokers that are no cluster: each keeps to itself, so that tests see which one they are at."""
    _program(request.param)
    brokers = [start_server(server_name=f"broker{number}", embedding="none") for number in (1, 2, 3)]
    places = [("127.0.0.1", broker.port, broker.ready.monitor_port or 0) for broker in brokers]
    with _running(request.param, places, tmp_path) as (port, process):
        made = Balancer(port, process, brokers)
        yield made
        for client in made.clients:
            client.close()


def test_clients_are_spread_over_the_brokers(balancer: Balancer) -> None:
    names = [balancer.where()[1] for _ in range(9)]
    # Not 3 each: a balancer may still count the connection that asked whether it listens.
    assert min(names.count(f"broker{number}") for number in (1, 2, 3)) >= 2, names


def test_a_killed_broker_is_passed_over(balancer: Balancer) -> None:
    """Clients of the others stay where they are; those that come next find a broker at the first try."""
    clients = {name: client for client, name in (balancer.where() for _ in range(3))}
    assert len(clients) == 3
    balancer.brokers[1].kill()
    clients["broker2"].expect_closed()
    for _ in range(6):
        client, name = balancer.where()
        assert name != "broker2"
        client.close()
    for name in ("broker1", "broker3"):
        clients[name].flush()
        clients[name].close()
    balancer.brokers[1].start()


async def _use(client: Client) -> None:
    inbox = await client.mailbox_create()
    msg_id = await client.send(inbox, b"hello")
    (message,) = await client.fetch(inbox, group_name="g", deliver="earliest")
    assert (message.payload, message.msg_id) == (b"hello", msg_id)
    await client.ack(inbox, "g", msg_id)


@pytest.mark.anyio
async def test_a_client_that_knows_the_balancer_alone_works_and_moves_when_its_broker_stops(balancer: Balancer) -> None:
    async with mq9.connect(balancer.url) as client:
        await _use(client)
        for number in (0, 1):  # whichever it is at, at most one of three is left in the end
            assert balancer.brokers[number].stop() == 0
            await _use(client)
        for number in (0, 1):
            balancer.brokers[number].start()


@pytest.mark.parametrize("balancer", ["haproxy"], indirect=True)
def test_a_broker_that_drains_gets_no_new_clients_and_keeps_those_it_has(balancer: Balancer) -> None:
    """Its /healthz says so while it still serves; the balancer waits for its clients to move."""
    broker = balancer.brokers[0].restart(lame_duck_grace_s=DEADLINE_S)
    client = broker.raw()
    broker.process.signal(15)
    client.expect(b"INFO")
    names = []
    for _ in range(6):
        other, name = balancer.where()
        names.append(name)
        other.close()
    assert "broker1" not in names
    client.flush()
    client.close()
    assert broker.process.wait() == 0


@pytest.mark.anyio
async def test_a_broker_without_a_lease_gets_no_clients_though_it_takes_connections(
    start_server: MakeServer, tmp_path: Path
) -> None:
    """The meta service of its cluster is gone; the two others have none, so that the same balancer has whom to choose."""
    _program("haproxy")
    alone = {"replication_factor": 1, "min_in_sync": 1}
    async with Cluster(tmp_path, metas=1, brokers=1, meta_settings=alone, server_name="leased") as cluster:
        others = [await asyncio.to_thread(start_server, server_name=name, embedding="none") for name in ("second", "third")]
        places = [
            ("127.0.0.1", each.ready.port, each.ready.monitor_port or 0) for each in (cluster.brokers["b0"], *others)
        ]  # fmt: skip
        with _running("haproxy", places, tmp_path) as (port, _):

            def names() -> set[str]:
                """Where six clients come to, one after another."""
                found = set()
                for _ in range(6):
                    with closing(RawClient("127.0.0.1", port)) as client:
                        client.connect()
                        found.add(str(client.info["server_name"]))
                return found

            async def all_three() -> bool:
                return len(await asyncio.to_thread(names)) == 3

            async def not_there() -> bool:
                return await asyncio.to_thread(names) == {"second", "third"}

            await until("clients at all three", all_three, DEADLINE_S)
            cluster.pause("n0")
            await until("no clients at the one without a lease", not_there, DEADLINE_S)
            cluster.brokers["b0"].raw()  # it takes them itself
            assert await not_there()
            cluster.resume("n0")
            await until("clients at all three again", all_three, DEADLINE_S)


@pytest.mark.timeout(400)
@pytest.mark.anyio
async def test_a_cluster_is_one_broker_to_clients_that_know_its_one_address(composition: Composition, tmp_path: Path) -> None:
    """Three meta nodes and three brokers as docker-compose.yml has them. One broker is killed; nothing acknowledged is lost."""
    _program("haproxy")
    await asyncio.to_thread(composition.up)
    places = [(composition.addresses[name], 4222, 8222) for name in BROKERS]
    with _running("haproxy", places, tmp_path) as (port, _):
        url = f"nats://127.0.0.1:{port}"
        async with mq9.connect(url) as first, mq9.connect(url) as second, mq9.connect(url) as third:
            inboxes = [await first.mailbox_create() for _ in range(6)]  # on slots of all brokers, or nearly so
            for inbox in inboxes:
                await second.send(inbox, b"before")
            await asyncio.to_thread(composition.processes["broker2"].kill)
            for inbox in inboxes:
                await second.send(inbox, b"after", timeout_s=CLUSTER_S)
            for inbox in inboxes:
                messages = await third.fetch(inbox, group_name="g", deliver="earliest", num_msgs=10, timeout_s=CLUSTER_S)
                assert [message.payload for message in messages] == [b"before", b"after"]
                await third.ack(inbox, "g", messages[-1].msg_id, timeout_s=CLUSTER_S)
