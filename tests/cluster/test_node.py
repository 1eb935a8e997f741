"""Brokers of a cluster as processes: how they join, what they say of themselves, and how they go."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from broker_node.broker import Broker
from broker_node.cluster.node import ClusterNode
from mq9.errors import StorageError
from mq9.settings import Settings
from mq9.testing.clock import ManualClock, ManualLoop
from tests.meta.cluster import MetaCluster, until
from tests.support.raw import RawClient
from tests.support.server import ServerProcess

pytestmark = pytest.mark.anyio

SLOTS = 8
SETTINGS: dict[str, Any] = {
    "slots": SLOTS, "replication_factor": 3, "min_in_sync": 2, "heartbeat_s": 0.2, "lease_s": 1.5, "session_s": 3.0,
    "barrier_s": 0.05,
}  # fmt: skip


class Nodes:
    """Brokers of one cluster, and its meta service, which is one process."""

    def __init__(self, meta: MetaCluster, directory: Path) -> None:
        self.meta = meta
        self._directory = directory
        self.brokers: dict[str, ServerProcess] = {}

    def make(self, name: str, **settings: Any) -> ServerProcess:
        whole = {"node_id": name, "meta": ",".join(self.meta.addresses), "peer_port": 0, "embedding": "none", **settings}
        self.brokers[name] = ServerProcess(self._directory / name, **whole)
        return self.brokers[name]

    async def start(self, *names: str, **settings: Any) -> list[ServerProcess]:
        """These brokers, each ready."""
        made = [self.make(name, **settings) for name in names]
        await asyncio.gather(*(asyncio.to_thread(broker.start) for broker in made))
        return made

    def served(self) -> int:
        """Slots that running brokers say they serve."""
        return sum(cluster(broker)["slots_served"] for broker in self.brokers.values() if broker.running)

    async def all_served(self) -> None:
        await until("every slot to be served", asked(lambda: self.served() == SLOTS))


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    async with MetaCluster(tmp_path / "meta", size=1, **SETTINGS) as meta:
        made = Nodes(meta, tmp_path)
        yield made
        for broker in made.brokers.values():
            broker.close_clients()
        running = [broker for broker in made.brokers.values() if broker.running]
        codes = await asyncio.gather(*(asyncio.to_thread(broker.stop) for broker in running))
        assert not any(codes)
        for broker in made.brokers.values():
            broker.check_log()


def page(broker: ServerProcess, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(broker.monitor_url + path, timeout=10) as answer:  # noqa: S310  # http on this machine
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)


def metrics(broker: ServerProcess) -> dict[str, float]:
    with urllib.request.urlopen(broker.monitor_url + "/metrics", timeout=10) as answer:  # noqa: S310  # http on this machine
        lines = [line.split() for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines if "{" not in name}


def cluster(broker: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = page(broker, "/varz")[1]["cluster"]
    return found


def asked(question: Callable[[], bool]) -> Callable[[], Any]:
    """The question off the loop, for `until`."""

    async def ask() -> bool:
        return await asyncio.to_thread(question)

    return ask


async def test_brokers_join_and_share_the_slots(nodes: Nodes) -> None:
    a, b, c = await nodes.start("a", "b", "c")
    assert a.ready.node == "a"
    assert a.ready.peer is not None
    assert a.ready.peer.startswith("127.0.0.1:")
    await nodes.all_served()
    await until("links both ways", asked(lambda: all(len(cluster(each)["peers_up"]) == 2 for each in (a, b, c))))
    shown = cluster(a)
    assert shown.items() >= {"node": "a", "lease": True, "brokers": 3, "brokers_alive": 3, "slots": SLOTS}.items()
    assert shown["slots_led"] + shown["slots_followed"] == SLOTS
    assert sum(cluster(each)["slots_led"] for each in (a, b, c)) == SLOTS
    assert len({cluster(each)["incarnation"] for each in (a, b, c)}) == 3
    assert page(a, "/healthz") == (200, {"status": "ok"})
    measured = await asyncio.to_thread(metrics, a)
    assert measured["mq9_cluster_lease"] == 1
    assert measured["mq9_cluster_peers_up"] == 2
    assert measured["mq9_cluster_slots_led"] + measured["mq9_cluster_slots_followed"] == SLOTS


async def test_a_core_message_reaches_clients_of_other_brokers(nodes: Nodes) -> None:
    a, b = await nodes.start("a", "b")
    await until("links both ways", asked(lambda: cluster(a)["peers_up"] == ["b"] and cluster(b)["peers_up"] == ["a"]))
    listener, speaker = a.raw(), b.raw()
    listener.send(b"SUB far.> 1\r\n")
    listener.flush()

    async def heard() -> bool:
        speaker.send(b"PUB far.away 2\r\nhi\r\n")  # until the interest has come through
        speaker.flush()
        return any(frame.verb == b"MSG" and frame.subject == b"far.away" for frame in listener.flush())

    await until("the message", heard)


def told(client: RawClient, key: str, value: object) -> dict[str, Any]:
    """The first INFO that says so: on a busy machine a session may end in between, and clients hear of that too."""
    info: dict[str, Any] = {}
    while info.get(key) != value:
        info = client.read_info()
    return info


async def test_clients_hear_where_else_they_can_go(nodes: Nodes) -> None:
    (a,) = await nodes.start("a")
    client = a.raw()
    assert client.info["connect_urls"] == [f"127.0.0.1:{a.port}"]
    (b,) = await nodes.start("b", client_advertise="elsewhere.example:4222")
    both = sorted([f"127.0.0.1:{a.port}", "elsewhere.example:4222"])
    await asyncio.to_thread(told, client, "connect_urls", both)
    assert a.raw().info["connect_urls"] == both
    assert b.raw().info["connect_urls"] == both
    stopping = asyncio.ensure_future(asyncio.to_thread(a.stop))
    leaving = await asyncio.to_thread(told, client, "ldm", True)
    assert leaving["connect_urls"] == ["elsewhere.example:4222"]
    assert await stopping == 0
    assert b.raw().info["connect_urls"] == ["elsewhere.example:4222"]


async def test_a_broker_that_stops_gives_up_its_slots_at_once(tmp_path: Path) -> None:
    long = {**SETTINGS, "lease_s": 60, "session_s": 120}  # no session ends by itself in this test
    async with MetaCluster(tmp_path / "meta", size=1, **long) as meta:
        nodes = Nodes(meta, tmp_path)
        a, b, c = await nodes.start("a", "b", "c")
        await nodes.all_served()
        incarnation = cluster(c)["incarnation"]
        assert await asyncio.to_thread(c.stop) == 0
        await nodes.all_served()
        assert cluster(a)["brokers_alive"] == 2
        await asyncio.to_thread(c.start)
        assert cluster(c)["incarnation"] > incarnation
        await until("the slots to be followed again", asked(lambda: cluster(c)["slots_followed"] == SLOTS))
        for broker in (a, b, c):
            assert await asyncio.to_thread(broker.stop) == 0
            broker.check_log()


async def test_the_slots_of_a_broker_that_was_killed_are_served_by_others(nodes: Nodes) -> None:
    *_, c = await nodes.start("a", "b", "c")
    await nodes.all_served()
    c.kill()
    await nodes.all_served()


async def test_a_broker_without_its_lease_says_so_and_serves_nothing(nodes: Nodes) -> None:
    a, *_ = await nodes.start("a", "b", "c")
    await nodes.all_served()
    nodes.meta.processes["n0"].signal(signal.SIGSTOP)
    await until("the lease to end", asked(lambda: page(a, "/healthz")[0] == 503))
    assert "lease" in page(a, "/healthz")[1]["error"]
    assert cluster(a)["slots_served"] == 0
    nodes.meta.processes["n0"].signal(signal.SIGCONT)
    await nodes.all_served()
    assert page(a, "/healthz")[0] == 200


def in_no_cluster_yet(directory: Path, clock: ManualClock) -> tuple[Broker, ClusterNode]:
    """A broker that has not been started, in this process."""
    settings = Settings(data_dir=str(directory), node_id="a", meta="127.0.0.1:1", peer_port=0, embedding="none", disk_reserve=0)
    broker = Broker(settings, clock, ManualLoop(clock), make_cluster=ClusterNode)
    assert isinstance(broker.cluster, ClusterNode)
    return broker, broker.cluster


async def test_damage_that_the_count_of_lags_meets_is_looked_at_in_each_tick(tmp_path: Path) -> None:
    broker, node = in_no_cluster_yet(tmp_path, ManualClock())
    node.group_lags.on_damaged(3, StorageError("DATA_DAMAGED", "a row"))
    assert list(node.served.damaged) == [3]
    node._tick()
    assert list(node.served.damaged) == [], "it is not led here"
    broker.close()
    await node.leave()


async def test_nothing_is_served_without_a_lease(tmp_path: Path) -> None:
    """Also in the time until the partitions are closed for it."""
    clock = ManualClock()
    broker, node = in_no_cluster_yet(tmp_path, clock)
    led: Any = object()
    node.served.partitions[3] = led
    assert node.partition(3) is None
    node.membership.lease_s = 1.0
    node.membership._renewals.append((clock.monotonic_s(), 0))
    node.membership._renew()
    assert node.partition(3) is led
    assert node.partition(4) is None
    clock.advance(1.1)
    assert node.partition(3) is None
    del node.served.partitions[3]
    broker.close()
    await node.leave()


async def test_a_data_directory_stays_what_it_is(nodes: Nodes, tmp_path: Path) -> None:
    alone = ServerProcess(tmp_path / "alone", embedding="none").start()
    with alone.raw() as client:
        client.call(b"$mq9.AI.MAILBOX.CREATE", {})
    assert alone.stop() == 0
    joining = nodes.make("x", data_dir=str(alone.data_dir))
    assert "that of a single node" in str(await asyncio.to_thread(joining.start_error))
    (member,) = await nodes.start("m")
    assert await asyncio.to_thread(member.stop) == 0
    leaving = ServerProcess(tmp_path / "leaving", data_dir=str(member.data_dir), embedding="none")
    assert "that of a member of a cluster" in str(await asyncio.to_thread(leaving.start_error))


async def test_a_directory_of_another_cluster_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    (member,) = await nodes.start("m")
    assert await asyncio.to_thread(member.stop) == 0
    async with MetaCluster(tmp_path / "other", size=1, **SETTINGS) as other:
        member.values["meta"] = ",".join(other.addresses)
        assert "belongs to another cluster" in str(await asyncio.to_thread(member.start_error))


async def test_a_broker_that_cannot_join_says_why(nodes: Nodes) -> None:
    (first,) = await nodes.start("a")
    second = nodes.make("b", peer_port=int(str(first.ready.peer).rpartition(":")[2]))
    assert "cannot listen for brokers" in str(await asyncio.to_thread(second.start_error))


async def test_a_broker_that_stood_still_comes_back_as_another_incarnation(nodes: Nodes) -> None:
    a, b, c = await nodes.start("a", "b", "c")
    await nodes.all_served()
    incarnation = cluster(c)["incarnation"]
    c.process.signal(signal.SIGSTOP)
    await until("it to be given up", asked(lambda: cluster(a)["brokers_alive"] == 2 and cluster(a)["peers_up"] == ["b"]))
    await until("others to serve all", asked(lambda: cluster(a)["slots_served"] + cluster(b)["slots_served"] == SLOTS))
    c.process.signal(signal.SIGCONT)
    await until("another session", asked(lambda: cluster(c)["incarnation"] > incarnation and cluster(c)["lease"]))
    await until("its links", asked(lambda: all(len(cluster(each)["peers_up"]) == 2 for each in (a, b, c))))
    await nodes.all_served()
