"""The monitoring pages of a running meta node."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meta_service.monitor import raftz
from mq9.v1 import meta_pb2 as meta
from tests.meta.cluster import STORE, MetaCluster, found, until

pytestmark = pytest.mark.anyio


class Pages:
    """A node's pages by path."""

    def __init__(self, url: str) -> None:
        self._url = url

    def text(self, path: str, expected: int = 200) -> str:
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as answer:  # noqa: S310  # our own address
                code, body = answer.status, answer.read()
        except urllib.error.HTTPError as failure:
            with failure:
                code, body = failure.code, failure.read()
        assert code == expected, body
        return str(body.decode())

    def json(self, path: str, expected: int = 200) -> Any:
        return json.loads(self.text(path, expected))

    def metric(self, name: str) -> float:
        match = re.search(rf"^{re.escape(name)} (\S+)$", self.text("/metrics"), re.MULTILINE)
        assert match, name
        return float(match[1])


@pytest.fixture
async def pages(tmp_path: Path) -> AsyncIterator[tuple[MetaCluster, Pages]]:
    cluster = MetaCluster(tmp_path, size=1, **STORE, monitor_port=0)
    process = cluster.spawn("n0")
    match = re.search(r" monitor=(http://127\.0\.0\.1:\d+) data=", process.read_line())
    assert match
    process.drain_output()
    async with ending(cluster):
        yield cluster, Pages(match[1])


@asynccontextmanager
async def ending(cluster: MetaCluster) -> AsyncIterator[None]:
    """The end of a cluster that was started by hand."""
    try:
        yield
    finally:
        await cluster.__aexit__(None)


async def test_what_a_node_says_of_itself(pages: tuple[MetaCluster, Pages]) -> None:
    cluster, shown = pages
    await found(cluster, brokers=2)
    assert shown.json("/")["pages"] == ["/healthz", "/raftz", "/metrics"]
    assert shown.json("/healthz") == {"status": "ok"}
    page = shown.json("/raftz")
    assert (page["node"], page["leader"], page["role"], page["connected"]) == ("n0", "n0", "leader", [])
    assert len(page["cluster_id"]) == 32
    assert shown.metric('mq9_meta_role{role="leader"}') == 1
    assert shown.metric('mq9_meta_brokers{state="alive"}') == 2
    assert shown.metric("mq9_meta_slots") == 4
    assert shown.metric("mq9_meta_slots_without_primary") == 0
    assert shown.metric("mq9_meta_term") == page["term"]
    assert shown.metric("mq9_meta_proposals_total") >= 2
    assert 0 < page["applied_index"] <= shown.metric("mq9_meta_applied_index")


async def test_a_node_without_a_leader_is_not_healthy(tmp_path: Path) -> None:
    """One of three: it can neither lead nor follow."""
    cluster = MetaCluster(tmp_path, monitor_port=0)
    process = cluster.spawn("n0")
    match = re.search(r" monitor=(\S+) ", process.read_line())
    assert match
    shown = Pages(match[1])

    async def answered() -> bool:
        return bool(shown.json("/healthz", 503)["error"] in {"no leader", "joining"})

    async with ending(cluster):
        await until("an answer", answered)
        process.drain_output()


def test_every_field_of_the_status_is_shown() -> None:
    page = raftz(meta.StatusReply(node="n", connected=["a", "b"], cluster_id=b"\x01\xff", term=1 << 60))
    assert page.keys() == {field.name for field in meta.StatusReply.DESCRIPTOR.fields}
    assert (page["connected"], page["cluster_id"], page["term"]) == (["a", "b"], "01ff", 1 << 60)
    json.dumps(page)
