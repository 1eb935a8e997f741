"""mq9 cluster, mq9 meta, mq9 broker and mq9 check cluster, against real processes of the meta service."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mq9.cli.cluster_files import load, prepare, runner
from mq9.errors import Mq9Error
from mq9.meta.client import Access, MetaClient
from mq9.v1 import meta_pb2 as meta
from tests.cli.conftest import COMMAND, Cli, Done, environment
from tests.meta.cluster import until
from tests.support.process import Process

SLOTS = 12
# Brokers of these tests are registered and never heard of again: their sessions must not end.
LONG = {"MQ9_META_SESSION_S": "3600", "MQ9_META_LEASE_S": "60", "MQ9_META_DISK_RESERVE": "0"}


@dataclass
class Up:
    """A running `mq9 cluster up`, and the command line that finds it."""

    process: Process
    directory: Path
    cli: Cli

    def __call__(self, *arguments: str) -> Done:
        return self.cli(*arguments, "--data-dir", str(self.directory))

    def ok(self, *arguments: str) -> Done:
        return self.cli.ok(*arguments, "--data-dir", str(self.directory))

    def status(self) -> Any:
        return self.ok("cluster", "status", "--slots", "--json").json

    def run(self, work: Callable[[MetaClient], Coroutine[Any, Any, Any]]) -> Any:
        """Let `work` use a client of the meta service."""

        async def whole() -> Any:
            files = load(self.directory)
            async with MetaClient(files.meta_addresses, Access(files.secret("token"))) as client:
                return await work(client)

        return asyncio.run(whole())


def start(directory: Path, *arguments: str, nodes: int = 0, metas: int = 1, **env: str) -> Up:
    flags = ["--nodes", str(nodes), "--meta", str(metas), "--port", "0", "--slots", str(SLOTS), "--data-dir", str(directory)]
    log = directory.with_suffix(".log")
    process = Process([*COMMAND, "cluster", "up", *flags, *arguments], log, environment(**{**LONG, **env}))
    process.spawn()
    while " cluster ready " not in process.read_line(60):
        pass
    process.drain_output()
    return Up(process, directory, Cli(None))


def end(up: Up) -> None:
    assert up.process.stop() == 0, up.process.log
    assert runner(up.directory) is None
    assert "Traceback" not in up.process.log, up.process.log


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A cluster of one meta node, without brokers."""
    running = start(tmp_path / "cluster")
    yield running
    end(running)


def register(up: Up, *names: str) -> None:
    """Brokers that the meta service takes for alive. With three of them, slots have primaries."""

    async def work(client: MetaClient) -> None:
        for name in names:
            request = meta.RegisterRequest(node=name, disk_id=name.encode())
            request.peer_address, request.client_address = f"{name}:1", f"{name}:2"
            await client.register(request)

        async def led() -> bool:
            return all(slot.primary for slot in (await client.view()).slots)

        await until("primaries", led)

    up.run(work)


@pytest.fixture
def three(up: Up) -> Up:
    register(up, "b1", "b2", "b3")
    return up


# --- Running one ------------------------------------------------------------------------------------------------------


def _command_lines(directory: Path) -> dict[int, str]:
    """The processes whose arguments name this directory."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text()
        except OSError:
            continue  # it has ended
        if f"{directory}/" in words:
            found[int(path.parent.name)] = words
    return found


def test_a_process_that_dies_is_started_again_and_secrets_are_seen_by_nobody(tmp_path: Path) -> None:
    up = start(tmp_path / "cluster", metas=3)
    files = load(up.directory)
    for name in ("token", "secret"):
        assert stat.S_IMODE((up.directory / name).stat().st_mode) == 0o600
    before = _command_lines(up.directory)
    assert len(before) == 3
    assert not [words for words in before.values() if files.secret("token") in words or files.secret("secret") in words]
    os.kill(min(before), signal.SIGKILL)

    async def replaced(client: MetaClient) -> None:
        async def again() -> bool:
            return len(_command_lines(up.directory)) == 3 and min(before) not in _command_lines(up.directory)

        await until("another process", again)
        for address in files.meta_addresses:

            async def serves(address: str = address) -> bool:
                try:
                    return (await client.status(address)).role in {"leader", "follower"}
                except Mq9Error:
                    return False

            await until(f"{address} to serve", serves)

    up.run(replaced)
    assert "ended with -9; starting it again" in up.process.log
    second = up.cli("cluster", "up", "--nodes", "0", "--data-dir", str(up.directory))
    assert (second.code, "another `mq9 cluster up`" in second.err) == (1, True)
    up.process.signal(signal.SIGINT)
    assert up.process.wait() == 0
    end(up)
    assert not _command_lines(up.directory)


def test_in_the_background_and_again_with_what_was_there(offline: Cli, tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    flags = ["--nodes", "0", "--meta", "1", "--port", "0", "--slots", "4", "--data-dir", str(directory), "--detach"]
    done = offline.ok("cluster", "up", *flags)
    assert " cluster ready " in done.lines[-1]
    first = offline.ok("cluster", "status", "--data-dir", str(directory), "--json").json
    offline.ok("cluster", "down", "--data-dir", str(directory))
    assert not _command_lines(directory)
    assert offline("cluster", "down", "--data-dir", str(directory)).code == 5
    offline.ok("cluster", "up", *flags)
    second = offline.ok("cluster", "status", "--data-dir", str(directory), "--json").json
    assert second["meta"][0]["address"] == first["meta"][0]["address"]
    assert second["cluster"]["rev"] > first["cluster"]["rev"]
    offline.ok("cluster", "down", "--data-dir", str(directory))


def test_what_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    done = Cli(None)(
        "cluster", "up", "--nodes", "0", "--data-dir", str(directory), MQ9_META_SLOTS="0", MQ9_META_BARRIER_S="nonsense"
    )
    assert done.code == 3
    assert "meta1 did not start" in done.err
    assert "--barrier-s must be" in done.err
    assert not _command_lines(directory)


def test_a_directory_keeps_its_size_and_its_ports(tmp_path: Path) -> None:
    files = prepare(tmp_path, brokers=2, metas=3, port=5000)
    assert [ports["client"] for ports in files.brokers.values()] == [5000, 5001]
    again = prepare(tmp_path, brokers=3, metas=3, port=0)
    assert {name: again.brokers[name] for name in files.brokers} == files.brokers
    assert again.meta == files.meta
    with pytest.raises(Mq9Error, match="has 3 brokers"):
        prepare(tmp_path, brokers=2, metas=3, port=0)
    with pytest.raises(Mq9Error, match="has 3 meta nodes"):
        prepare(tmp_path, brokers=3, metas=1, port=0)
    (tmp_path / "cluster.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(Mq9Error, match="another release"):
        load(tmp_path)


def _leads(up: Up) -> dict[str, int]:
    return {broker["id"]: broker["leads"] for broker in up.status()["brokers"]}


def test_what_a_killed_broker_led_others_lead_long_before_its_session_ends(tmp_path: Path) -> None:
    """The two that are left have lost it and say so; its session would last an hour."""
    up = start(
        tmp_path / "cluster", "--no-restart", nodes=3,
        MQ9_META_HEARTBEAT_S="0.2", MQ9_META_LEASE_S="2", MQ9_EMBEDDING="none", MQ9_DISK_RESERVE="0",
    )  # fmt: skip
    one, two, three = load(up.directory).client_urls.values()
    boxes = [f"box{number}" for number in range(4)]
    for box in boxes:
        up.cli.ok("mailbox", "create", box, "--server", one)
        up.cli.ok("send", box, f"to {box}", "--server", two)
    assert up.ok("check", "cluster").code == 0
    assert _leads(up)["broker1"] > 0
    victim = next(pid for pid, words in _command_lines(up.directory).items() if "\0--node-id\0broker1\0" in words)
    os.kill(victim, signal.SIGKILL)

    async def replaced(_: MetaClient) -> None:
        async def led_by_others() -> bool:
            leads = await asyncio.to_thread(_leads, up)
            return leads["broker1"] == 0 and sum(leads.values()) == SLOTS

        await until("other leaders", led_by_others)

    up.run(replaced)
    assert next(broker["state"] for broker in up.status()["brokers"] if broker["id"] == "broker1") == "alive"
    for box in boxes:
        assert up.cli.ok("fetch", box, "--raw", "--server", three).lines == [f"to {box}"]
        up.cli.ok("send", box, "more", "--server", three)
    assert up("check", "cluster").code == 1, "replicas are missing"
    end(up)


def test_a_drained_broker_hands_over_and_may_come_back(tmp_path: Path) -> None:
    up = start(tmp_path / "cluster", nodes=3, MQ9_EMBEDDING="none", MQ9_DISK_RESERVE="0")
    up.ok("cluster", "drain", "broker3", "--wait")
    assert _leads(up)["broker3"] == 0
    up.ok("cluster", "drain", "broker3", "--cancel")
    up.ok("cluster", "rebalance")
    assert set(_leads(up).values()) == {SLOTS // 3}
    assert all(broker["offsets_lag"] == 0 < broker["disk_free"] for broker in up.status()["brokers"])
    end(up)


# --- Seeing -----------------------------------------------------------------------------------------------------------


def test_status(three: Up) -> None:
    status = three.status()
    assert status["cluster"]["slots"] == SLOTS
    assert [(node["node"], node["role"]) for node in status["meta"]] == [("meta1", "leader")]
    assert [broker["id"] for broker in status["brokers"]] == ["b1", "b2", "b3"]
    assert sum(broker["leads"] for broker in status["brokers"]) == SLOTS
    assert sum(broker["follows"] for broker in status["brokers"]) == 2 * SLOTS
    assert all(sorted(slot["in_sync"]) == ["b1", "b2", "b3"] for slot in status["slots"])
    lines = three.ok("cluster", "status").lines
    assert lines[0].startswith("meta1\t127.0.0.1:")
    assert lines[1].startswith("b1\talive\tb1:2\tb1:1\t-\t")
    assert "under replicated\t0" in lines
    assert len(three.ok("cluster", "status", "--slots").lines) == len(lines) + SLOTS


def test_groups_that_are_behind(tmp_path: Path) -> None:
    """The five that are furthest behind, and with --groups all that brokers tell of; those of every broker."""
    up = start(tmp_path / "cluster", nodes=3, MQ9_EMBEDDING="none", MQ9_DISK_RESERVE="0")
    server = next(iter(load(up.directory).client_urls.values()))
    boxes = [f"board{number}" for number in range(8)]
    for number, box in enumerate(boxes):
        up.cli.ok("mailbox", "create", box, "--public", "--server", server)
        for _ in range(number + 1):
            up.cli.ok("send", box, "hello", "--server", server)
        up.cli.ok("fetch", box, "--group", "readers", "--count", "1", "--ack", "--server", server)

    async def told(_: MetaClient) -> list[dict[str, Any]]:
        async def all_of_them() -> list[dict[str, Any]] | None:
            groups = (await asyncio.to_thread(up.ok, "cluster", "status", "--groups", "--json")).json["groups"]
            return groups if sum(group["lag"] for group in groups) == sum(range(8)) else None

        return await until("brokers to tell how far groups are behind", all_of_them)

    groups = up.run(told)
    assert [(group["mailbox"], group["group"], group["lag"]) for group in groups] == [
        (f"board{lag}", "readers", lag) for lag in range(7, -1, -1)
    ]
    assert len({group["leader"] for group in groups}) > 1
    assert all(group["oldest_age_s"] > 0 for group in groups if group["lag"])
    assert [group["lag"] for group in up.ok("cluster", "status", "--json").json["groups"]] == [7, 6, 5, 4, 3]
    lines = [line.split("\t")[:3] for line in up.ok("cluster", "status").lines]
    assert [line for line in lines if line[0].startswith("board")] == [
        [f"board{lag}", "readers", str(lag)] for lag in range(7, 2, -1)
    ]
    end(up)


def test_check_cluster(up: Up) -> None:
    done = up("check", "cluster")
    assert (done.code, done.out.split(":")[0]) == (2, "cluster CRITICAL")
    assert f"not_writable={SLOTS};;0" in done.out
    register(up, "b1", "b2", "b3")
    assert up.ok("check", "cluster").out.startswith("cluster OK: everything is within its limits | not_writable=0;;0 ")
    addresses = ",".join([*load(up.directory).meta_addresses, "127.0.0.1:1"])
    token = load(up.directory).secret("token")
    done = up.cli("check", "cluster", "--json", MQ9_META=addresses, MQ9_CLUSTER_TOKEN=token)
    assert (done.code, done.json["status"], done.json["text"]) == (1, "WARNING", "meta_unreachable is 1")
    assert up.cli("check", "cluster", "--meta", "127.0.0.1:1", "--timeout", "0.3").code == 2


def test_who_may_not_and_who_is_not_there(up: Up) -> None:
    address = load(up.directory).meta_addresses[0]
    assert up.cli("cluster", "status", "--meta", address).code == 4
    assert up.cli("cluster", "status", "--meta", address, MQ9_CLUSTER_TOKEN="wrong").code == 4
    assert up.cli("cluster", "status", "--meta", "127.0.0.1:1", "--timeout", "0.3").code == 3
    assert up.cli("cluster", "status", "--data-dir", "no/such/directory").code == 1


# --- Changing ---------------------------------------------------------------------------------------------------------


def test_a_drained_broker_leads_nothing(three: Up) -> None:
    done = three.ok("cluster", "drain", "b2", "--wait")
    assert done.out == f"b2 leads nothing; it leads 0 slots and holds {SLOTS}\n"
    broker = next(each for each in three.status()["brokers"] if each["id"] == "b2")
    assert (broker["state"], broker["leads"]) == ("draining", 0)
    assert three("cluster", "forget", "b2").code == 1
    three.ok("cluster", "drain", "b2", "--cancel")
    assert {each["state"] for each in three.status()["brokers"]} == {"alive"}
    done = three("cluster", "drain", "nobody")
    assert (done.code, "there is no broker nobody" in done.err) == (1, True)


def test_primaries_are_spread_again(three: Up) -> None:
    for slot in range(SLOTS):
        three("cluster", "transfer", str(slot), "b1")  # refused where it leads already
    assert {slot["primary"] for slot in three.status()["slots"]} == {"b1"}
    answer = three.ok("cluster", "rebalance", "--json").json
    assert answer == {"transferred": SLOTS - SLOTS // 3, "moving": 0, "auto": True}
    assert [broker["leads"] for broker in three.status()["brokers"]] == [SLOTS // 3] * 3
    assert three.ok("cluster", "rebalance", "--no-auto", "--json").json == {"transferred": 0, "moving": 0, "auto": False}


def test_a_slot_is_moved_and_a_move_called_off(three: Up) -> None:
    three.ok("cluster", "rebalance", "--no-auto")
    register(three, "b4")
    moving = three.ok("cluster", "move", "3", "--add", "b4", "--remove", "b1", "--json").json
    assert (moving["slot"], moving["adding"], moving["removing"]) == (3, ["b4"], ["b1"])
    assert three.status()["cluster"]["moving"] == [3]
    assert three.ok("cluster", "move", "3", "--cancel").out == "slot 3 stays where it is\n"
    assert three.status()["cluster"]["moving"] == []
    done = three("cluster", "move", "3", "--add", "nobody")
    assert (done.code, "is a replica already, or not there" in done.err) == (1, True)
    assert three("cluster", "transfer", "999", "b1").code == 1


def test_data_is_given_up_only_by_who_says_so(three: Up) -> None:
    assert three("cluster", "elect", "0", "b1").code == 2
    done = three("cluster", "elect", "0", "b1", "--lose-data")
    assert (done.code, "in-sync members that are there" in done.err) == (1, True)


# --- One process each -------------------------------------------------------------------------------------------------


def test_a_meta_node(tmp_path: Path) -> None:
    command = [
        *COMMAND,
        "meta",
        "--port",
        "0",
        "--raft-port",
        "0",
        "--monitor-port",
        "-1",
        "--data-dir",
        str(tmp_path / "m"),
        "--disk-reserve",
        "0",
    ]
    process = Process([*command, "--token", "seen by nobody"], tmp_path / "meta.log", environment())
    process.spawn()
    line = process.read_line()
    assert " meta ready node=meta1 grpc=127.0.0.1:" in line
    assert "seen by nobody" not in Path(f"/proc/{process.pid}/cmdline").read_text()
    address = line.split("grpc=")[1].split()[0]
    assert Cli(None)("cluster", "status", "--meta", address).code == 4
    Cli(None).ok("cluster", "status", "--meta", address, "--cluster-token", "seen by nobody")
    process.drain_output()
    assert process.stop() == 0


def test_a_member_without_a_cluster_is_a_usage_error(offline: Cli) -> None:
    done = offline("broker", "--port", "0")
    assert (done.code, "--node-id" in done.err) == (2, True)
    assert offline("meta", "--members", "nonsense").code == 2
