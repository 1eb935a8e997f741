"""A broker and the meta service, which is real processes: sessions, leases, and a view that never goes back."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker_node.cluster.membership import Membership
from mq9.clock import SystemClock
from mq9.errors import Mq9Error
from mq9.settings import Settings
from mq9.testing.clock import ManualClock
from mq9.v1 import meta_pb2 as meta
from tests.meta.cluster import MetaCluster, until
from tests.support.certificates import Authority

pytestmark = pytest.mark.anyio

# Leases that a test can wait for, and sessions that outlast a busy machine.
BRIEF: dict[str, Any] = {
    "slots": 4, "replication_factor": 1, "min_in_sync": 1,
    "heartbeat_s": 0.1, "lease_s": 1.0, "session_s": 2.0, "barrier_s": 0.05,
}  # fmt: skip


class Broker(Membership):
    """A membership that remembers what it told."""

    def __init__(self, cluster: MetaCluster, directory: Path, name: str = "b", disk: bytes = b"", **settings: Any) -> None:
        where = {"data_dir": str(directory), "port": 4222, "peer_port": 9324, **settings}
        whole = Settings(node_id=name, meta=",".join(cluster.addresses), **where)
        super().__init__(whole, SystemClock(), disk or name.encode())
        self.deltas: list[meta.Delta] = []
        self.leases: list[bool] = []
        self.revisions: list[int] = []
        self.on_change = self._changed
        self.on_lease = self.leases.append

    def _changed(self, delta: meta.Delta) -> None:
        self.deltas.append(delta)
        self.revisions.append(self.rev)

    async def until_lease(self, holds: bool) -> None:
        async def reached() -> bool:
            return self.lease_holds() is holds and bool(self.leases) and self.leases[-1] is holds

        await until(f"a lease that {'holds' if holds else 'is over'}", reached)

    async def until_leading(self, slots: int) -> None:
        async def leads() -> bool:
            return sum(slot.primary == self.node for slot in self.slots.values()) == slots

        await until(f"{self.node} to lead {slots} slots", leads)

    async def until_known(self, name: str) -> meta.Broker:
        async def known() -> meta.Broker | None:
            return self.brokers.get(name)

        return await until(f"{name} in the view", known)


@pytest.fixture
async def single(tmp_path: Path) -> AsyncIterator[MetaCluster]:
    async with MetaCluster(tmp_path, size=1, **BRIEF) as cluster:
        yield cluster


async def test_a_broker_registers_and_leads_while_its_lease_holds(single: MetaCluster, tmp_path: Path) -> None:
    broker = Broker(single, tmp_path, zone="z", weight=7, client_advertise="clients.example:1")
    try:
        assert not broker.lease_holds()
        await broker.start()
        assert broker.lease_holds()
        assert broker.leases == [True]
        assert broker.config is not None
        assert broker.config.slots == 4
        await broker.until_leading(4)
        mine = broker.brokers["b"]
        assert (mine.incarnation, mine.disk_id, mine.zone, mine.weight) == (broker.incarnation, b"b", "z", 7)
        assert (mine.peer_address, mine.client_address) == ("127.0.0.1:9324", "clients.example:1")
        assert broker.deltas
        assert broker.deltas[0].full
    finally:
        await broker.close()
    assert not broker.lease_holds()
    assert broker.leases[-1] is False


async def test_brokers_see_each_other_come_and_leave(single: MetaCluster, tmp_path: Path) -> None:
    one, other = Broker(single, tmp_path, "one"), Broker(single, tmp_path, "other", peer_port=9999)
    try:
        await one.start()
        await one.until_leading(4)
        await other.start()
        assert (await one.until_known("other")).peer_address == "127.0.0.1:9999"
        await one.leave()
        assert not one.lease_holds()

        async def fenced() -> bool:
            return other.brokers["one"].state == meta.FENCED

        await until("the one that left to be fenced", fenced)
        await one.leave()  # again: harmless
    finally:
        await one.close()
        await other.close()


async def test_the_lease_ends_while_the_meta_service_is_silent_and_comes_back(single: MetaCluster, tmp_path: Path) -> None:
    broker = Broker(single, tmp_path)
    try:
        await broker.start()
        await broker.until_leading(4)
        single.processes["n0"].signal(signal.SIGSTOP)
        await broker.until_lease(holds=False)
        single.processes["n0"].signal(signal.SIGCONT)
        await broker.until_lease(holds=True)
        assert broker.leases[:3] == [True, False, True]
        await broker.until_leading(4)
    finally:
        await broker.close()


async def test_a_broker_whose_session_was_ended_registers_again(single: MetaCluster, tmp_path: Path) -> None:
    broker = Broker(single, tmp_path)
    try:
        await broker.start()
        first = broker.incarnation
        await broker.until_leading(4)
        epochs = {slot.slot: slot.epoch for slot in broker.slots.values()}
        async with single.client() as client:
            await client.leave(meta.LeaveRequest(node="b", incarnation=first))

        async def again() -> bool:
            return broker.incarnation > first and broker.lease_holds()

        await until("another session", again)
        assert False in broker.leases
        # With the new lease comes a view that knows of it: nothing of the old session is served under it.
        assert broker.brokers["b"].incarnation == broker.incarnation
        assert all(slot.epoch > epochs[slot.slot] for slot in broker.slots.values())
        assert any(each.incarnation == broker.incarnation for delta in broker.deltas for each in delta.brokers)
    finally:
        await broker.close()


async def test_a_second_broker_of_the_same_name_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, size=1, **BRIEF) as cluster:
        first = Broker(cluster, tmp_path)
        second = Broker(cluster, tmp_path, disk=b"another", peer_port=9999)
        second.client._deadline_s = 0.5  # it would go on trying until the session of the first has surely ended
        again = Broker(cluster, tmp_path)
        try:
            await first.start()
            with pytest.raises(Mq9Error, match="b is in use by the broker at "):
                await second.start()
            assert first.lease_holds()
            await first.close()
            await again.start()  # the same disk and address: a restart, which waits for nothing
            assert again.incarnation == first.incarnation + 1
        finally:
            for each in (first, second, again):
                await each.close()


async def test_the_view_never_goes_back_when_the_leader_is_killed(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, **{**BRIEF, "lease_s": 4, "session_s": 8}) as cluster:
        broker, late = Broker(cluster, tmp_path), Broker(cluster, tmp_path, "late")
        try:
            await broker.start()
            leader = await cluster.leader()
            cluster.kill(leader)
            await late.start()
            await broker.until_known("late")
            cluster.start(leader)
            await late.leave()

            async def fenced() -> bool:
                return broker.brokers["late"].state == meta.FENCED

            await until("the news to come through", fenced)
            assert broker.revisions == sorted(broker.revisions)
            await broker.until_lease(holds=True)
        finally:
            await broker.close()
            await late.close()


async def test_a_delta_that_is_older_than_the_view_says_nothing(single: MetaCluster, tmp_path: Path) -> None:
    broker = Broker(single, tmp_path)
    try:
        await broker.start()
        await broker.until_leading(4)
        assert broker.config is not None
        told = len(broker.deltas)
        broker._take(meta.Delta(rev=1, full=True, config=broker.config))
        assert len(broker.slots) == 4
        assert len(broker.deltas) == told
        with pytest.raises(Mq9Error, match="another cluster"):
            broker._take(meta.Delta(rev=broker.rev + 1, full=True, config=meta.ClusterConfig(cluster_id=b"other")))
    finally:
        await broker.close()


async def test_a_meta_service_that_was_founded_anew_is_not_followed(single: MetaCluster, tmp_path: Path) -> None:
    broker = Broker(single, tmp_path)
    try:
        await broker.start()
        single.kill("n0")
        shutil.rmtree(single.data("n0"))
        single.start("n0")

        async def failed() -> Mq9Error | None:
            return broker.failure

        assert "another cluster" in (await until("the broker to see it", failed)).text
        assert not broker.lease_holds()
        assert broker.leases[-1] is False
    finally:
        await broker.close()


async def test_a_lease_waits_for_the_view(single: MetaCluster, tmp_path: Path) -> None:
    """What the answer to a heartbeat names has not been watched yet: the lease is not longer for it."""
    broker = Broker(single, tmp_path)
    broker.lease_s = 60.0
    now_s = SystemClock().monotonic_s()
    broker._renewals.append((now_s, 5))
    broker._renew()
    assert not broker.lease_holds()
    broker._take(meta.Delta(rev=4))
    assert not broker.lease_holds()
    broker._take(meta.Delta(rev=5))
    assert broker.lease_holds()
    await broker.close()
    assert broker.leases == [True, False]


async def test_a_lease_is_counted_from_when_the_heartbeat_was_sent(tmp_path: Path) -> None:
    """The meta service counts from when it came in, so an answer that is late makes no lease longer."""
    clock = ManualClock()
    broker = Broker(MetaCluster(tmp_path, size=1), tmp_path)
    broker._clock = clock
    broker.lease_s = 1.0

    class Slow:
        """A stream on which the answer takes most of a lease."""

        async def write(self, request: meta.HeartbeatRequest) -> None: ...

        async def read(self) -> meta.HeartbeatReply:
            clock.advance(0.7)
            return meta.HeartbeatReply(seq=1, renewed=True)

    stream: Any = Slow()
    assert await broker._beat_once(stream, 1, clock.monotonic_s())
    assert broker.lease_holds()
    clock.advance(0.29)
    assert broker.lease_holds()
    clock.advance(0.02)
    assert not broker.lease_holds()
    await broker.close()


async def test_a_hook_that_fails_ends_nothing(single: MetaCluster, tmp_path: Path) -> None:
    broker = Broker(single, tmp_path)

    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    broker.on_change = broken
    try:
        await broker.start()
        await broker.until_leading(4)
        assert broker.lease_holds()
    finally:
        await broker.close()


async def test_a_broker_without_the_token_is_refused(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, size=1, token="right", **BRIEF) as cluster:
        wrong, right = Broker(cluster, tmp_path, cluster_token="wrong"), Broker(cluster, tmp_path, cluster_token="right")
        try:
            with pytest.raises(Mq9Error, match="token"):
                await wrong.start()
            await right.start()
        finally:
            await wrong.close()
            await right.close()


async def test_certificates_open_the_way(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    theirs: dict[str, Any] = {**authority.issue("meta").settings()}
    async with MetaCluster(tmp_path, size=1, **BRIEF, **theirs) as cluster:
        mine: dict[str, Any] = {f"cluster_{key}": value for key, value in authority.issue("b").settings().items()}
        broker = Broker(cluster, tmp_path, **mine)
        try:
            await broker.start()
            assert broker.lease_holds()
        finally:
            await broker.close()


async def test_a_start_that_is_cancelled_leaves_nothing_running(tmp_path: Path) -> None:
    cluster = MetaCluster(tmp_path, size=1)  # not started: nobody answers
    broker = Broker(cluster, tmp_path)
    starting = asyncio.ensure_future(broker.start())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(starting, 0.2)
    assert not broker._tasks
    assert not broker.lease_holds()
