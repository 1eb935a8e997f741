"""The server as a process: its flags, its exit codes, and how many clients its descriptors carry."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import pytest

from mq9.limits import DESCRIPTORS_RESERVED
from tests.support.raw import Closed, RawClient
from tests.support.server import COMMAND, HOST, ROOT, ServerProcess


def _run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)


def test_help_names_every_flag() -> None:
    done = _run("--help")
    assert done.returncode == 0
    assert "--max-payload" in done.stdout
    assert "--config" in done.stdout


@pytest.mark.parametrize(
    "flags", [("--port", "x"), ("--storage", "tape"), ("--no-such-flag",), ("--config", "/no/such/file.toml")]
)
def test_wrong_flags_are_a_usage_error(flags: tuple[str, ...]) -> None:
    done = _run(*flags)
    assert done.returncode == 2
    assert flags[0] in done.stderr or flags[-1] in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(start_server: Any, make_server: Any) -> None:
    first = start_server()
    refusal = make_server(port=first.port).start_error()
    assert refusal.code == 1
    assert str(first.port) in refusal.log
    taken_monitor = make_server(monitor_port=first.ready.monitor_port).start_error()
    assert taken_monitor.code == 1
    assert str(first.ready.monitor_port) in taken_monitor.log


def test_a_second_process_on_the_same_directory_is_refused_by_name(start_server: Any, make_server: Any) -> None:
    first = start_server()
    refusal = make_server(data_dir=str(first.data_dir)).start_error()
    assert refusal.code == 1
    assert str(first.data_dir) in refusal.log
    assert str(first.pid) in refusal.log
    assert first.raw().flush() == []


def test_log_lines_as_json(start_server: Any) -> None:
    server: ServerProcess = start_server(log_format="json", log_level="debug")
    server.raw(name="hello").close()
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert any(line["message"].startswith("listening on") for line in lines)


def test_more_clients_than_descriptors_are_refused_and_nobody_is_lost(make_server: Any) -> None:
    """The limit is lowered for the process; the server takes what is left after its own needs, and says so."""
    hard = DESCRIPTORS_RESERVED + 60
    set_limit = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard})); os.execv(sys.argv[1], sys.argv[1:])"
    )
    server: ServerProcess = make_server(command=[sys.executable, "-c", set_limit, *COMMAND]).start()
    assert "for at most 60 clients" in server.log
    _, ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert ours > hard, "this test needs descriptors of its own"
    first = server.raw()
    first.sub(b"a")
    flood = [RawClient(HOST, server.port, read_info=False) for _ in range(150)]
    refused = 0
    for client in flood:
        try:
            refused += client.line() == b"-ERR 'maximum connections exceeded'"
        except Closed:
            refused += 1
    assert refused == 150 - 59
    first.pub(b"a", b"still here")
    assert [frame.payload for frame in first.flush()] == [b"still here"]
    for client in flood:
        client.close()
    while True:
        late = RawClient(HOST, server.port, read_info=False)
        welcome = late.line()
        if welcome.startswith(b"INFO"):
            late.connect()
            late.close()
            return
        late.close()
