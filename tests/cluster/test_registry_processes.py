"""Agents on a cluster of real brokers: registered anywhere, found everywhere, also when the broker that had them is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.processes import Cluster
from tests.meta.cluster import until
from tests.support.raw import RawClient

pytestmark = pytest.mark.anyio

NEEDS = {
    "translator": ("Translates legal contracts from French", "someone who turns a Gallic agreement into my language"),
    "weather": ("Forecasts rain, wind and temperature for any town", "will I need an umbrella tomorrow"),
    "recipes": ("Suggests dishes for what is in the fridge", "what can I cook tonight"),
    "payroll": ("Computes salaries and taxes of employees", "how much do I pay my staff after tax"),
    "routes": ("Plans the shortest way between addresses", "how do I drive from here to the station"),
    "images": ("Draws pictures from a description", "make me an illustration of a castle"),
}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, metas=1, embedding="minilm") as made:
        yield made


def agents(client: RawClient, **question: Any) -> list[str]:
    """Names of a DISCOVER that has everything."""
    reply = client.call(b"$mq9.AI.AGENT.DISCOVER", question)
    assert reply["error"] == "", reply
    assert "partial" not in reply
    return [agent["name"] for agent in reply["agents"]]


async def test_agents_are_found_on_every_broker_and_survive_any(cluster: Cluster) -> None:
    clients = [broker.raw() for broker in cluster.brokers.values()]
    for number, (name, (description, _)) in enumerate(NEEDS.items()):
        body = {"name": name, "description": description, "heartbeat": 60, "mailbox": f"{name}.in"}
        assert clients[number % 3].call(b"$mq9.AI.AGENT.REGISTER", body) == {"error": ""}
        for client in clients:
            assert agents(client)[0] == name
            assert agents(client, text=description.split()[0])[0] == name
            assert agents(client, semantic=NEEDS[name][1])[0] == name
    assert clients[0].call(b"$mq9.AI.AGENT.REPORT", {"mailbox": "routes.in", "status": "busy"}) == {"error": ""}
    for client in clients:
        assert agents(client, status="busy") == ["routes"]
    newest_first = agents(clients[0])

    for victim in cluster.names[:1]:
        cluster.kill(victim)
        left = [broker.raw() for broker in cluster.running]

        async def whole(client: RawClient) -> bool:
            return "partial" not in await asyncio.to_thread(client.call, b"$mq9.AI.AGENT.DISCOVER", {})

        for client in left:
            await until("everybody to be found", lambda client=client: whole(client))  # type: ignore[misc]
            assert agents(client) == newest_first
            for name, (_, need) in NEEDS.items():
                assert agents(client, semantic=need)[0] == name
        await asyncio.to_thread(cluster.start, victim)
        await cluster.settled()
    assert cluster.brokers["b0"].raw().call(b"$mq9.AI.AGENT.UNREGISTER", {"mailbox": "routes.in"}) == {"error": ""}
    for broker in cluster.brokers.values():
        assert agents(broker.raw(), name="routes") == []
