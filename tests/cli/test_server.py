"""mq9 server: its flags, where a setting comes from, and secrets that no other user can read."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mq9.cli import secrets
from mq9.settings import FIELDS, env, flag
from tests.cli.conftest import COMMAND, Cli, environment
from tests.support.process import Process, StartError
from tests.support.server import Ready, parse_ready

FREE = [
    "--port", "0", "--monitor-port", "-1", "--embedding", "none", "--lame-duck-grace-s", "0.05", "--lame-duck-close-s", "0.05",
    "--disk-reserve", "0",
]  # fmt: skip


@contextmanager
def _server(tmp_path: Path, *arguments: str, **env: str) -> Iterator[tuple[Process, Ready]]:
    """`mq9 server` with these flags, ready."""
    process = Process([*COMMAND, "server", *arguments], tmp_path / "server.log", environment(**env))
    process.spawn()
    try:
        yield process, parse_ready(process.read_line())
    finally:
        process.drain_output()
        assert process.stop() == 0, process.log


def test_it_says_when_it_is_ready_and_ends_well(tmp_path: Path) -> None:
    with _server(tmp_path, *FREE, "--data-dir", str(tmp_path / "data")) as (process, ready):
        assert ready.data == str(tmp_path / "data")
        assert ready.monitor_port is None
        assert Cli(f"nats://127.0.0.1:{ready.port}").ok("check", "connection").out.startswith("connection OK")
        process.signal(signal.SIGINT)
        assert process.wait() == 0


def test_a_flag_wins_over_a_variable_wins_over_the_file_wins_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "mq9.toml"
    file.write_text(
        f'data_dir = "{tmp_path}/file"\nnaming = "extended"\nmax_payload = 3000\nuser = "from the file"\npassword = "p"\n'
    )
    variables = {"MQ9_DATA_DIR": str(tmp_path / "variable"), "MQ9_MAX_PAYLOAD": "2000", "MQ9_USER": "from the variable"}
    with _server(tmp_path, *FREE, "--config", str(file), "--user", "from-the-flag", **variables) as (_, ready):
        assert ready.data == str(tmp_path / "variable")
        cli = Cli(f"nats://from-the-flag:p@127.0.0.1:{ready.port}")
        cli.ok("mailbox", "create", "under_score")
        cli.ok("send", "under_score", "x" * 1500)
        assert cli("send", "under_score", "x" * 2500).code == 1


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_no_secret_is_in_the_process_list(tmp_path: Path) -> None:
    flags = [*FREE, "--data-dir", str(tmp_path / "data"), "--user", "agent", "--password", "hush-hush"]
    with _server(tmp_path, *flags) as (process, ready):
        shown = _command_line(process.pid)
        assert b"--user\0agent" in shown
        assert b"--password" not in shown
        assert b"hush" not in shown
        cli = Cli(f"nats://127.0.0.1:{ready.port}")
        assert cli("mailbox", "ls").code == 4
        assert cli("mailbox", "ls", MQ9_USER="agent", MQ9_PASSWORD="hush-hush").code == 0
        assert "hush" not in process.log


def test_no_secret_of_a_client_is_in_the_process_list(tmp_path: Path, cli: Cli, box: str) -> None:
    url = cli.env["MQ9_URL"].replace("://", "://someone:hush-hush@")
    cli.ok("send", box, "it watches")
    watching = Process([*COMMAND, "watch", box, "--raw", "-s", url, "--token=hush-hush"], tmp_path / "watch.log", environment())
    watching.spawn()
    assert watching.read_line() == "it watches\n"
    shown = _command_line(watching.pid)
    watching.kill()
    assert b"watch" in shown
    assert b"hush" not in shown


@pytest.mark.parametrize(
    ("given", "kept", "moved"),
    [
        (["server", "--password", "p"], ["server"], {"MQ9_PASSWORD": "p"}),
        (["server", "--token=t", "--port", "1"], ["server", "--port", "1"], {"MQ9_TOKEN": "t"}),
        (["send", "a", "-s", "nats://u:p@h"], ["send", "a"], {"MQ9_URL": "nats://u:p@h"}),
        (["send", "a", "--server=nats://t@h"], ["send", "a"], {"MQ9_URL": "nats://t@h"}),
        (["send", "a", "--server", "nats://h"], ["send", "a", "--server", "nats://h"], {}),
        (["send", "a", "--server=nats://h"], ["send", "a", "--server=nats://h"], {}),
        (["send", "a", "--", "--password", "x"], ["send", "a", "--", "--password", "x"], {}),
        (["server", "--password"], ["server", "--password"], {}),
        ([], [], {}),
    ],
)
def test_which_arguments_are_secrets(given: list[str], kept: list[str], moved: dict[str, str]) -> None:
    assert secrets.split_secrets(given) == (kept, moved)


def test_every_secret_setting_is_taken_out() -> None:
    marked = {flag(name): env(name) for name, field in FIELDS.items() if field.metadata["secret"]}
    assert marked == secrets.VARIABLES


def test_every_setting_is_a_flag(offline: Cli) -> None:
    shown = offline.ok("server", "--help").out
    missing = [flag(name) for name in FIELDS if f"{flag(name)} " not in shown and f"{flag(name)}\n" not in shown]
    assert not missing
    assert "--no-sync" in shown


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--storage", "paper"], "paper"),
        (["--port", "many"], "many"),
        (["--port", "99999"], "--port must be from 0 to 65535"),
        (["--config", "no/such/file.toml"], "file.toml"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_setting_that_cannot_be_is_a_usage_error(offline: Cli, arguments: list[str], word: str) -> None:
    done = offline("server", *arguments)
    assert (done.code, done.out) == (2, "")
    assert word in done.err


def test_an_unknown_setting_in_the_file_is_named(offline: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mq9.toml"
    file.write_text("prot = 4222\n")
    done = offline("server", "--config", str(file))
    assert (done.code, "no such setting: prot" in done.err) == (2, True)


def test_a_directory_that_is_in_use_is_refused_by_name(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with _server(tmp_path, *FREE, "--data-dir", data) as (process, _):
        second = Process([*COMMAND, "server", *FREE, "--data-dir", data], tmp_path / "second.log", environment())
        second.spawn()
        with pytest.raises(StartError) as refused:
            second.read_line()
        assert refused.value.code == 1
        assert data in refused.value.log
        assert str(process.pid) in refused.value.log


def test_verify_reads_the_directory_of_a_stopped_server(tmp_path: Path, offline: Cli) -> None:
    data = tmp_path / "data"
    with _server(tmp_path, *FREE, "--data-dir", str(data)) as (_, ready):
        cli = Cli(f"nats://127.0.0.1:{ready.port}")
        cli.ok("mailbox", "create", "verified")
        cli.ok("send", "verified", "x")
        busy = offline("verify", str(data))
        assert (busy.code, "in use" in busy.err) == (1, True)
    report = offline.ok("verify", str(data), "--json").json
    assert (report["ok"], report["mailboxes"], report["rows"]["MESSAGE"]) == (True, 1, 1)
    assert "whole" in offline.ok("verify", str(data)).out

    file = data / "data.mdb"
    damaged = bytearray(file.read_bytes())
    position = damaged.rindex(b"verified")
    damaged[position] ^= 1
    file.write_bytes(damaged)
    done = offline("verify", str(data))
    assert done.code == 1
    assert "damaged" in done.out
    assert offline("verify", str(data), "--json").json["ok"] is False
    assert offline("verify", str(tmp_path / "nothing")).code == 1


def test_the_secret_leaves_the_environment_of_the_server_too(tmp_path: Path) -> None:
    """What the server starts, or what dumps its environment, has no copy. (/proc shows that of the start, to its owner.)"""
    program = (
        "import os, sys, broker_node.__main__ as node\n"
        "node.run = lambda settings: print(settings.password, os.environ.get('MQ9_PASSWORD')) or 0\n"
        "sys.argv = ['mq9', 'server']\n"
        "from mq9.cli.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(MQ9_PASSWORD="hush"), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["hush", "None"], done.stderr
