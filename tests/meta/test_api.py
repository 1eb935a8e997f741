"""The API of running nodes: who is served, what is answered when, and what happens where nobody leads."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from mq9.errors import Mq9Error
from mq9.meta.client import Access, MetaClient
from mq9.meta.rpc import CHANNEL_OPTIONS
from mq9.v1 import meta_pb2 as meta
from tests.meta.cluster import STORE, MetaCluster, command, found, free_ports, until
from tests.support.certificates import Authority

pytestmark = pytest.mark.anyio

# Sessions a test can wait for.
BRIEF: dict[str, Any] = {"slots": 4, "heartbeat_s": 0.1, "lease_s": 0.5, "session_s": 1.0, "barrier_s": 0.05}


def register(name: str, **more: Any) -> meta.RegisterRequest:
    fields = {"node": name, "disk_id": name.encode(), "peer_address": f"{name}:1", "client_address": f"{name}:2", **more}
    return meta.RegisterRequest(**fields)


@pytest.fixture
async def single(tmp_path: Path) -> AsyncIterator[MetaCluster]:
    """One node with brief sessions."""
    async with MetaCluster(tmp_path, size=1, **BRIEF) as cluster:
        yield cluster


class Beating:
    """A broker that sends heartbeats until it is told to stop."""

    def __init__(self, cluster: MetaCluster, name: str) -> None:
        self.client = cluster.client()
        self.name = name
        self.incarnation = 0
        self.renewed = 0
        self.lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.incarnation = (await self.client.register(register(self.name))).incarnation
        self._task = asyncio.ensure_future(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.client.close()

    async def _beat(self) -> None:
        seq = 0
        while True:
            stream = self.client.heartbeats()
            try:
                while True:
                    seq += 1
                    await stream.write(meta.HeartbeatRequest(node=self.name, incarnation=self.incarnation, seq=seq))
                    reply = await stream.read()
                    if reply is grpc.aio.EOF:
                        break
                    if not reply.renewed:
                        self.lost.set()
                        return
                    assert reply.seq == seq
                    self.renewed += 1
            except grpc.aio.AioRpcError as failure:
                self.client.learn(failure)
            finally:
                stream.cancel()

    async def renewals(self, more: int) -> None:
        wanted = self.renewed + more

        async def enough() -> bool:
            return self.renewed >= wanted

        await until(f"{more} renewals", enough)


async def broker(client: MetaClient, name: str) -> meta.Broker:
    return next(each for each in (await client.view()).brokers if each.id == name)


async def test_a_broker_that_beats_lives_and_one_that_does_not_is_fenced(single: MetaCluster) -> None:
    async with single.client() as client, Beating(single, "alive") as alive:
        await client.register(register("silent"))

        async def fenced() -> bool:
            return (await broker(client, "silent")).state == meta.FENCED

        await until("the silent one to be fenced", fenced)
        await alive.renewals(5)
        assert (await broker(client, "alive")).state == meta.ALIVE
        assert not alive.lost.is_set()


async def test_a_broker_that_leaves_is_fenced_at_once(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, size=1, **STORE) as cluster:  # sessions that nobody can wait for
        view = await found(cluster, brokers=2)
        led = {slot.primary for slot in view.slots}
        incarnations = {each.id: each.incarnation for each in view.brokers}
        async with cluster.client() as client:
            (leaving, *_) = led
            await client.leave(meta.LeaveRequest(node=leaving, incarnation=incarnations[leaving] + 100))  # not this session
            assert (await broker(client, leaving)).state == meta.ALIVE
            for _ in range(2):  # repeated, it has been done
                await client.leave(meta.LeaveRequest(node=leaving, incarnation=incarnations[leaving]))
            assert (await broker(client, leaving)).state == meta.FENCED
            await client.register(register(leaving, peer_address="elsewhere:1"))


async def test_a_renewal_names_the_newest_change(single: MetaCluster) -> None:
    async with Beating(single, "b") as beating, single.client() as client:
        await beating.renewals(1)
        registered = await client.register(register("another"))
        stream = client.heartbeats()
        await stream.write(meta.HeartbeatRequest(node="another", incarnation=registered.incarnation, seq=1))
        reply = await stream.read()
        assert reply.changed_rev >= registered.rev
        assert reply.rev >= reply.changed_rev
        stream.cancel()


async def test_others_lead_before_the_session_ends_what_a_silent_broker_led_that_two_have_lost(tmp_path: Path) -> None:
    times: dict[str, Any] = {"heartbeat_s": 0.1, "lease_s": 40, "session_s": 3600, "barrier_s": 0.05}
    async with MetaCluster(tmp_path, size=1, slots=8, **times) as cluster, cluster.client() as client:
        rows = {name: (await client.register(register(name))).incarnation for name in ("silent", "a", "b")}

        async def led() -> meta.Delta | None:
            view = await client.view()
            return view if all(slot.primary for slot in view.slots) else None

        before = await until("primaries", led)
        for name in "ab":
            request = meta.ReportPeerRequest(node=name, incarnation=rows[name])
            request.suspect, request.suspect_incarnation = "silent", rows["silent"]
            assert (await client.report_peer(request)).taken

        async def deposed() -> meta.Delta | None:
            view = await client.view()
            return view if not any("silent" in slot.isr for slot in view.slots) else None

        after = await until("another primary for each", deposed)
        assert (await broker(client, "silent")).state == meta.ALIVE
        led_before = {slot.slot for slot in before.slots if slot.primary == "silent"}
        assert led_before
        for slot in after.slots:
            assert slot.epoch == 1 + (slot.slot in led_before)
            assert (0 < slot.hold_ms <= 44_000) is (slot.slot in led_before)


async def test_a_report_about_or_by_nobody_is_not_taken(single: MetaCluster) -> None:
    async with Beating(single, "one") as one, single.client() as client:
        other = (await client.register(register("other"))).incarnation
        for node, incarnation, suspect, suspected in (
            ("one", one.incarnation, "nobody", 1), ("nobody", 1, "one", one.incarnation),
            ("other", other + 1, "one", one.incarnation), ("other", other, "one", one.incarnation + 5),
        ):  # fmt: skip
            request = meta.ReportPeerRequest(node=node, incarnation=incarnation, suspect=suspect, suspect_incarnation=suspected)
            assert not (await client.report_peer(request)).taken


async def test_a_heartbeat_of_an_old_incarnation_is_not_renewed(single: MetaCluster) -> None:
    async with Beating(single, "b") as one, single.client() as client:
        await one.renewals(1)
        await client.register(register("b"))  # its process started again elsewhere
        async with asyncio.timeout(10):
            await one.lost.wait()


async def test_a_heartbeat_waits_for_a_barrier(tmp_path: Path) -> None:
    """Two of three nodes are stopped: the third still leads as far as it knows, and renews nothing."""
    async with MetaCluster(tmp_path, **{**BRIEF, "lease_s": 2, "session_s": 5, "heartbeat_s": 0.5}) as cluster:
        leader = await cluster.leader()
        async with Beating(cluster, "b") as beating:
            await beating.renewals(2)
            others = [name for name in cluster.names if name != leader]
            for name in others:
                cluster.processes[name].signal(19)
            async with cluster.client(deadline_s=1.0) as client:
                with pytest.raises(Mq9Error) as caught:  # a request in between has passed more than a barrier's time
                    await client.view()
            assert caught.value.code == "UNAVAILABLE"
            renewed = beating.renewed
            async with cluster.client(deadline_s=1.0) as client:
                with pytest.raises(Mq9Error):
                    await client.view()
            assert beating.renewed == renewed
            for name in others:
                cluster.processes[name].signal(18)
            await beating.renewals(3)


async def test_without_a_majority_a_request_fails_in_bounded_time_and_can_be_repeated(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, **STORE) as cluster:
        await found(cluster)
        leader = await cluster.leader()
        cluster.kill(*(name for name in cluster.names if name != leader))
        async with cluster.client(deadline_s=2.0) as client:
            started_s = time.monotonic()
            for call in (client.view(), client.register(register("x")), client.offsets(0)):
                with pytest.raises(Mq9Error) as caught:
                    await call
                assert (caught.value.code, caught.value.retryable) == ("UNAVAILABLE", True)
            assert time.monotonic() - started_s < 15
        cluster.start(*(name for name in cluster.names if name != leader))
        async with cluster.client() as client:
            await client.register(register("x"))


async def test_a_write_that_is_repeated_with_its_id_happens_once(single: MetaCluster) -> None:
    async with single.client() as client:
        request = register("a", request=meta.RequestId(client="me", seq=1))
        first = await client.register(request)
        assert await client.register(request) == first
        request.request.seq = 2
        assert (await client.register(request)).incarnation > first.incarnation


async def test_another_node_names_the_leader(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, **STORE) as cluster:
        await found(cluster)
        leader = await cluster.leader()
        follower = next(name for name in cluster.names if name != leader)
        async with grpc.aio.insecure_channel(cluster.address(follower)) as channel:
            call = channel.unary_unary("/mq9.v1.Meta/GetView", meta.ViewRequest.SerializeToString, meta.Delta.FromString)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(meta.ViewRequest())
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert dict(caught.value.trailing_metadata() or ())["mq9-leader"] == cluster.address(leader)
        async with MetaClient([cluster.address(follower)]) as client:
            assert len((await client.view()).slots) == 4
            assert client.leader == cluster.address(leader)


@pytest.mark.long
async def test_an_idle_connection_that_is_kept_alive_is_not_sent_away(single: MetaCluster) -> None:
    """gRPC's server takes a ping of an idle connection for an attack unless five minutes lie between two."""
    options = [*{**dict(CHANNEL_OPTIONS), "grpc.keepalive_time_ms": 5_500, "grpc.use_local_subchannel_pool": 1}.items()]
    async with grpc.aio.insecure_channel(single.address(single.names[0]), options=options) as channel:
        await channel.channel_ready()
        with pytest.raises(TimeoutError):  # five pings
            async with asyncio.timeout(30):
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


# --- Watch --------------------------------------------------------------------------------------------------------------


async def next_with(deltas: AsyncIterator[meta.Delta], broker_id: str) -> meta.Delta:
    async with asyncio.timeout(20):
        async for delta in deltas:
            if any(each.id == broker_id for each in delta.brokers):
                return delta
    raise AssertionError("the watch ended")


async def test_a_watch_goes_on_where_it_was_with_another_node(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, **STORE) as cluster, cluster.client() as client, cluster.client() as watcher:
        await found(cluster)
        deltas = watcher.watch(silence_s=1.5)
        first = await anext(deltas)
        assert (first.full, len(first.slots)) == (True, 4)
        await client.register(register("one"))
        delta = await next_with(deltas, "one")
        assert (delta.full, len(delta.slots)) == (False, 0)
        watched = next(name for name in cluster.names if cluster.address(name) == watcher.leader)
        cluster.kill(watched)
        await client.register(register("two"))
        delta = await next_with(deltas, "two")
        assert (delta.full, [each.id for each in delta.brokers]) == (False, ["two"])
        await deltas.aclose()  # type: ignore[attr-defined]  # an async generator
        cluster.start(watched)


async def test_a_watch_begins_anew_after_a_broker_was_forgotten_or_in_another_cluster(single: MetaCluster) -> None:
    async with single.client() as client:
        await client.register(register("gone"))
        view = await client.view()

        async def forget() -> bool:
            reply = await client.admin(meta.AdminRequest(forget=meta.ForgetBroker(node="gone")))
            return reply.result.outcome == meta.OK

        await until("the broker to be forgotten", forget)
        for rev, cluster_id, full in (
            (view.rev, view.config.cluster_id, True),
            ((await client.view()).rev, view.config.cluster_id, False),
            ((await client.view()).rev, b"another", True),
            (10**9, view.config.cluster_id, True),
        ):
            deltas = client.watch(rev, cluster_id)
            delta = await anext(deltas)
            await deltas.aclose()  # type: ignore[attr-defined]  # an async generator
            assert delta.full is full
            assert not any(each.id == "gone" for each in delta.brokers)


async def test_a_watcher_hears_that_nothing_happens(single: MetaCluster) -> None:
    async with single.client() as client:
        deltas = client.watch()
        revs = [(await anext(deltas)).rev for _ in range(3)]
        await deltas.aclose()  # type: ignore[attr-defined]  # an async generator
        assert revs == sorted(revs)


# --- Slots over the API ---------------------------------------------------------------------------------------------------


async def test_slots_are_assigned_altered_and_handed_over(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, size=1, **{**STORE, "replication_factor": 3, "min_in_sync": 2}) as cluster:
        view = await found(cluster, brokers=3)
        incarnations = {each.id: each.incarnation for each in view.brokers}
        slot = view.slots[0]
        keep = [slot.primary, next(name for name in slot.isr if name != slot.primary)]
        change = meta.IsrChange(
            slot=slot.slot, epoch=slot.epoch, ver=slot.ver, isr=keep, incarnations=[incarnations[name] for name in keep]
        )
        request = meta.AlterIsrRequest(node=slot.primary, incarnation=incarnations[slot.primary], changes=[change])
        async with cluster.client() as client:
            reply = await client.alter_isr(request)
            assert (reply.results[0].outcome, list(reply.results[0].slot.isr)) == (meta.OK, keep)
            again = await client.alter_isr(request)
            assert (again.results[0].outcome, again.results[0].slot.ver) == (meta.STALE, slot.ver + 1)
            transfer = meta.TransferPrimary(slot=slot.slot, epoch=slot.epoch, ver=slot.ver + 1, to=keep[1])
            moved = await client.admin(meta.AdminRequest(transfer=transfer))
            assert (moved.result.slot.primary, moved.result.slot.epoch) == (keep[1], slot.epoch + 1)
            refused = await client.admin(meta.AdminRequest(transfer=transfer))
            assert refused.result.outcome == meta.STALE


async def test_wrong_requests_are_named(single: MetaCluster) -> None:
    async with single.client(deadline_s=5) as client:
        too_many = meta.SlotFloors(slot=0, epoch=1, forget=range(10_001))
        wrong = (
            client.register(register("")),
            client.register(register("a", zone="z", peer_address="x" * 300)),
            client.admin(meta.AdminRequest()),
            client.admin(meta.AdminRequest(drain=meta.Drain(node="nobody"))),
            client.commit_offsets(meta.CommitOffsetsRequest(slots=[too_many])),
            client.offsets(100_000),
            client.register(register("a", disk_id=b"x" * 600_000)),
            client.register(register("a", request=meta.RequestId(client="c" * 300, seq=1))),
        )
        for call in wrong:
            with pytest.raises(Mq9Error) as caught:
                await call
            assert caught.value.code == "INVALID_REQUEST", caught.value


# --- Who is let in ----------------------------------------------------------------------------------------------------------


async def refusals(cluster: MetaCluster, access: Access) -> list[str]:
    """The codes with which a call and a stream are refused."""
    codes = []
    async with MetaClient(cluster.addresses, access, deadline_s=2) as client:
        for call in (client.view(), client.offsets(0)):
            with pytest.raises(Mq9Error) as caught:
                await call
            codes.append(caught.value.code)
    return codes


async def test_a_token_is_asked_for(tmp_path: Path) -> None:
    async with MetaCluster(tmp_path, size=1, **{**STORE, "token": "let me in"}) as cluster:
        async with cluster.client() as client:
            await client.view()
        for token in ("", "wrong"):
            assert await refusals(cluster, Access(token=token)) == ["FORBIDDEN", "FORBIDDEN"]


async def test_with_tls_a_client_shows_a_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    node, tool = authority.issue("node"), authority.issue("tool", hosts=["tool"])
    async with MetaCluster(tmp_path, **{**STORE, **node.settings()}) as cluster:
        access = Access(tls_ca=tool.ca.read_bytes(), tls_key=tool.key.read_bytes(), tls_cert=tool.cert.read_bytes())
        async with MetaClient(cluster.addresses, access) as client:

            async def founded() -> bool:
                return bool((await client.view()).config.cluster_id)

            await until("a founded cluster", founded)
        stranger = Authority(tmp_path / "other").issue("tool", hosts=["tool"])
        for wrong in (
            Access(),
            Access(tls_ca=tool.ca.read_bytes()),
            Access(tls_ca=tool.ca.read_bytes(), tls_key=stranger.key.read_bytes(), tls_cert=stranger.cert.read_bytes()),
        ):
            async with MetaClient(cluster.addresses, wrong, deadline_s=1) as client:
                with pytest.raises(Mq9Error) as caught:
                    await client.view()
                assert caught.value.code == "UNAVAILABLE"


# --- The process ------------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    whole = command("--monitor-port", "-1", *map(str, arguments))
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=60)


async def test_two_processes_on_one_directory(single: MetaCluster) -> None:
    result = await asyncio.to_thread(run, "--node", "n0", "--port", 0, "--raft-port", 0, "--data-dir", single.data("n0"))
    assert (result.returncode, result.stdout) == (1, "")
    assert f"is in use by process {single.processes['n0'].pid}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--host", "0.0.0.0"), "the API on 0.0.0.0 needs --token"),  # noqa: S104  # that is what is refused
        (("--raft-host", "0.0.0.0"), "the Raft port on 0.0.0.0 needs --secret"),  # noqa: S104  # the same
        (("--tls-cert", "/no/such", "--tls-key", "/no/such", "--tls-ca", "/no/such"), "No such file"),
        (("--port", "99999"), "--port must be"),
    ],
)
async def test_a_node_that_cannot_start_says_why(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    result = await asyncio.to_thread(run, "--data-dir", tmp_path / "data", "--port", 0, "--raft-port", 0, *arguments)
    assert result.returncode in {1, 2}
    assert text in result.stderr
    assert "Traceback" not in result.stderr


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for flags in (("--port", port, "--raft-port", 0), ("--raft-port", port, "--port", 0)):
            result = await asyncio.to_thread(run, "--data-dir", tmp_path / "data", *flags)
            assert result.returncode == 1
            assert str(port) in result.stderr
            assert "Traceback" not in result.stderr


async def test_a_node_without_settings_is_a_cluster_of_one(tmp_path: Path) -> None:
    ports = free_ports(2)
    process = await asyncio.create_subprocess_exec(
        *command("--data-dir", str(tmp_path / "data"), "--monitor-port", "-1"),
        *("--port", str(ports[0]), "--raft-port", str(ports[1])),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    data = (tmp_path / "data").resolve()
    assert line.split(" ", 2)[2] == f"meta ready node=meta1 grpc=127.0.0.1:{ports[0]} raft=127.0.0.1:{ports[1]} data={data}\n"
    async with MetaClient([f"127.0.0.1:{ports[0]}"]) as client:
        assert (await client.status(f"127.0.0.1:{ports[0]}")).role in {"follower", "leader"}
        await client.view()
    process.terminate()
    assert await process.wait() == 0
