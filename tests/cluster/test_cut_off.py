"""A broker that is cut off while others serve has its clients go to those; without a meta service nobody is sent anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Nats

from broker_node.cluster.cut_off import PATIENCE_LEASES
from tests.cluster.checker import pause
from tests.cluster.namespaces import Network, unavailable
from tests.cluster.processes import TUNED, Cluster
from tests.meta.cluster import until
from tests.support.raw import RawClient
from tests.support.server import ServerProcess

pytestmark = pytest.mark.anyio

# From the last heartbeat that was answered until clients are sent away, and half as long again.
LONGER_S = 1.5 * (1 + PATIENCE_LEASES) * TUNED["lease_s"]
ATTEMPTS_MAX = 10  # of one SEND, refused ones and those whose connection broke


async def stats(cluster: Cluster, name: str) -> dict[str, Any]:
    page = await cluster.varz(name)
    assert page is not None
    found: dict[str, Any] = page["cluster"]
    return found


async def until_cut_off(cluster: Cluster, name: str, wanted: bool) -> None:
    async def reached() -> bool:
        return (await stats(cluster, name))["cut_off"] is wanted

    await until(f"{name} to be {'cut off' if wanted else 'one of them again'}", reached)


async def request(client: Nats, subject: str, payload: bytes, msg_id: str = "") -> dict[str, Any]:
    """Asked until it is answered without error."""
    for _ in range(ATTEMPTS_MAX):
        try:
            headers = {"mq9-msg-id": msg_id} if msg_id else None
            answer = json.loads((await client.request(f"$mq9.AI.{subject}", payload, timeout=6.0, headers=headers)).data)
        except (nats.errors.Error, OSError):
            continue
        if not answer["error"]:
            return dict(answer)
        assert answer["code"] == "UNAVAILABLE", answer
    raise AssertionError(f"{subject} was not done in {ATTEMPTS_MAX} attempts")


@asynccontextmanager
async def connected(servers: list[str]) -> AsyncIterator[Nats]:
    """A client that is at the first of these."""

    async def ignore(_: Exception) -> None:
        """Connections that break are what this is about."""

    client = await nats.connect(servers, dont_randomize=True, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=ignore)
    try:
        yield client
    finally:
        await client.close()


def turned_away(broker: ServerProcess) -> dict[str, Any]:
    """What somebody hears who connects to it: where else to go, and that this is the end."""
    with broker.raw(connect=False) as client:
        frames = client.expect_closed()
    assert [frame.verb for frame in frames] == [b"-ERR"]
    return client.info


async def create(client: Nats, mailbox: str) -> None:
    await request(client, "MAILBOX.CREATE", json.dumps({"name": mailbox, "ttl": 3600}).encode())


async def until_elsewhere(client: Nats, broker: ServerProcess) -> None:
    async def reached() -> bool:
        url = client.connected_url
        return client.is_connected and url is not None and f"nats://{url.netloc}" != broker.url

    await until(f"a client of {broker.url} to be connected to another", reached)


async def moves_its_client(cluster: Cluster, network: Network, name: str, cut: list[str]) -> None:
    """A client of `name` goes on at another when `name` cannot reach those in `cut`."""
    brokers = cluster.brokers
    others = [broker for other, broker in brokers.items() if other != name]
    box = f"of.{name}"
    async with connected([brokers[name].url, *(other.url for other in others)]) as client:
        await create(client, box)
        stays = brokers[name].raw()
        for other in cut:
            network.block(name, other)
        sent = {(await request(client, f"MSG.SEND.{box}", b"%d" % n, f"id-{n}"))["msg_id"] for n in range(3)}
        await until_cut_off(cluster, name, True)
        await until_elsewhere(client, brokers[name])
        sent |= {(await request(client, f"MSG.SEND.{box}", b"%d" % n, f"id-{n}"))["msg_id"] for n in range(3, 20)}
    assert sent == set(range(1, 21))
    told = [json.loads(frame.payload) for frame in stays.expect_closed() if frame.verb == b"INFO"]
    elsewhere = sorted(other.url.removeprefix("nats://") for other in others)
    assert [(info["ldm"], info["connect_urls"]) for info in told] == [(True, elsewhere)]
    assert turned_away(brokers[name])["connect_urls"] == elsewhere
    for other in cut:
        network.unblock(name, other)
    await until_cut_off(cluster, name, False)
    await cluster.settled()
    async with connected([brokers[name].url]) as client:
        assert (await request(client, f"MSG.SEND.{box}", b"again"))["msg_id"] == 21


async def test_clients_of_a_broker_that_cannot_reach_the_meta_service_go_on_elsewhere(tmp_path: Path) -> None:
    if reason := unavailable():
        pytest.skip(reason)
    with Network(["n0", "n1", "n2", "b0", "b1", "b2"]) as network:
        async with Cluster(tmp_path, network=network) as cluster:
            await moves_its_client(cluster, network, "b0", cluster.metas.names)
            await moves_its_client(cluster, network, "b1", [*cluster.metas.names, "b0", "b2"])


def assert_undisturbed(*clients: RawClient) -> None:
    """Core NATS between these works, and none was told anything."""
    first, second = clients
    second.sub(b"talk")
    assert second.flush() == []
    first.pub(b"talk", b"still here")
    assert first.flush() == []
    assert [frame.payload for frame in second.flush()] == [b"still here"]


async def test_clients_stay_while_there_is_no_meta_service(tmp_path: Path) -> None:
    """Nobody could serve them better, and what they say to each other goes on."""
    async with Cluster(tmp_path) as cluster:
        pairs = [(broker.raw(), broker.raw()) for broker in cluster.brokers.values()]
        for _ in range(2):
            cluster.kill(*cluster.metas.names)
            await pause(LONGER_S)
            for name in cluster.names:
                page = await stats(cluster, name)
                assert (page["lease"], page["cut_off"]) == (False, False), page
            await asyncio.to_thread(cluster.start, *cluster.metas.names)  # leases begin again at one broker before the others
            await cluster.settled()
        for pair in pairs:
            assert_undisturbed(*pair)


async def test_clients_of_a_broker_that_hears_nobody_may_look_elsewhere(tmp_path: Path) -> None:
    """It cannot know that nobody else serves either. It takes them back when it can serve them."""
    async with Cluster(tmp_path) as cluster:
        alone, *others = cluster.names
        client = cluster.brokers[alone].raw()
        cluster.kill(*cluster.metas.names, *others)
        await until_cut_off(cluster, alone, True)
        assert json.loads(client.expect_closed()[-1].payload)["ldm"] is True
        assert turned_away(cluster.brokers[alone])["ldm"] is True
        await asyncio.to_thread(cluster.start, *cluster.metas.names, *others)
        await until_cut_off(cluster, alone, False)
        await cluster.settled()
        async with connected([cluster.brokers[alone].url]) as back:
            await create(back, "again")
