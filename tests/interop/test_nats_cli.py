"""The NATS command line, unmodified: what a person at a terminal does with any NATS server, and the mq9 commands by hand."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interop.programs import NATS_CLI, prepare
from tests.support.process import Process
from tests.support.server import ServerProcess

RUN_TIMEOUT_S = 60

pytestmark = [pytest.mark.interop, pytest.mark.heavy, pytest.mark.timeout(1200)]


class NatsCli:
    """`nats` against one server, with a home of its own."""

    def __init__(self, server: ServerProcess, home: str) -> None:
        self.command = [*prepare(NATS_CLI), "--server", server.url, "--no-context"]
        self.env = {"HOME": home, "XDG_CONFIG_HOME": home, "PATH": "/usr/bin:/bin", "NO_COLOR": "1"}

    def run(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [*self.command, *arguments], input=stdin, capture_output=True, text=True, env=self.env, timeout=RUN_TIMEOUT_S,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def request(self, command: str, body: str = "", *headers: str) -> Any:
        flags = [word for header in headers for word in ("-H", header)]
        output = self.run("request", f"$mq9.AI.{command}", body, "--raw", *flags)
        return json.loads(output.strip())


@pytest.fixture
def cli(shared_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> NatsCli:
    return NatsCli(shared_server, str(tmp_path_factory.mktemp("nats-cli")))


def test_it_connects_and_measures(cli: NatsCli, shared_server: ServerProcess) -> None:
    assert shared_server.url in cli.run("rtt", "3")
    assert "OK" in cli.run("server", "check", "connection")


def test_it_publishes_and_subscribes(cli: NatsCli, shared_server: ServerProcess) -> None:
    client = shared_server.raw()
    client.sub(b"natscli.published")
    client.flush()
    cli.run("publish", "natscli.published", "hello", "-H", "Trace:abc")
    frame = client.expect(b"HMSG")
    assert (frame.payload, frame.headers) == (b"hello", {"trace": "abc"})


def test_it_serves_a_request(cli: NatsCli, shared_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its service joins a queue group of its own; requests reach it until it has answered as many as it was told to."""
    log = tmp_path_factory.mktemp("reply") / "log"
    service = Process([*cli.command, "reply", "natscli.service", "pong", "--count", "1"], log, cli.env, log_to_output=True)
    service.spawn()
    while "Listening" not in service.read_line():
        pass
    service.drain_output()
    client = shared_server.raw()
    reply = client.request(b"natscli.service", b"ping")
    while reply.status == b"503":  # it says that it listens before it does
        reply = client.request(b"natscli.service", b"ping")
    assert reply.payload == b"pong"
    service.wait()  # having said "Exiting" it exits 1, on nats-server too


def test_it_benchmarks(cli: NatsCli) -> None:
    output = cli.run("bench", "pub", "natscli.bench", "--msgs", "2000", "--size", "64", "--no-progress")
    assert "msgs/sec" in output


def test_the_ten_commands_by_hand(cli: NatsCli) -> None:
    made = cli.request("MAILBOX.CREATE", '{"name":"natscli.a"}')
    assert (made["error"], made["mail_address"]) == ("", "natscli.a")
    assert cli.request("MSG.SEND.natscli.a", "plain")["msg_id"] == 1
    assert cli.request("MSG.SEND.natscli.a", "hello", "mq9-priority:urgent", "mq9-key:k")["msg_id"] == 2
    body = '{"group_name":"g","deliver":"earliest","from_time":null}'
    assert [item["payload"] for item in cli.request("MSG.FETCH.natscli.a", body)["messages"]] == ["hello", "plain"]
    assert cli.request("MSG.ACK.natscli.a", '{"group_name":"g","msg_id":1}')["error"] == ""
    # Known by its name, it gets text from QUERY without asking.
    assert [item["payload"] for item in cli.request("MSG.QUERY.natscli.a", '{"key":"k"}')["messages"]] == ["hello"]
    assert cli.request("MSG.DELETE.natscli.a.1")["deleted"] is True
    assert cli.request("AGENT.REGISTER", '{"name":"natscli.agent","payload":"a person at a terminal"}')["error"] == ""
    assert cli.request("AGENT.REPORT", '{"name":"natscli.agent","status":"typing"}')["error"] == ""
    found = cli.request("AGENT.DISCOVER", '{"text":"terminal"}')["agents"]
    assert [agent["name"] for agent in found] == ["natscli.agent"]
    assert cli.request("AGENT.UNREGISTER", '{"name":"natscli.agent"}')["error"] == ""


def test_the_commands_of_the_readme(cli: NatsCli) -> None:
    """Word for word; each answers without an error."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    lines = [line for block in re.findall(r"```console\n(.*?)```", readme, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("nats ")]
    assert len(commands) >= 4
    for command in commands:
        assert '"error":""' in cli.run(*command)
