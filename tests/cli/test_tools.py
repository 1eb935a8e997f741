"""mq9 check, bench, errors, version, --help, and how little they load."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime

import pytest
import typer

from mq9 import __version__
from mq9.cli.arguments import duration, header, headers, moment
from mq9.cli.root import GROUPS, MODULES
from mq9.errors import CODES
from tests.cli.conftest import ROOT, TIMEOUT_S, Cli, environment


def test_version(offline: Cli) -> None:
    assert offline.ok("--version").out == f"mq9 {__version__}\n"
    assert offline.ok("version").out.startswith(f"mq9 {__version__} (Python 3.")
    assert offline.ok("version", "--json").json["version"] == __version__


def test_errors(offline: Cli) -> None:
    lines = offline.ok("errors", "lookup", "storage_full").lines
    assert lines[:2] == ["code\tSTORAGE_FULL", "text\tstorage full"]
    assert offline.ok("errors", "lookup", "TIMEOUT", "--json").json["retryable"] is True
    assert {row["code"] for row in offline.ok("errors", "ls", "--json").json["errors"]} == CODES.keys()
    assert len(offline.ok("errors", "ls").lines) == len(CODES)
    done = offline("errors", "lookup", "NONSENSE")
    assert (done.code, done.out) == (5, "")


# --- check ------------------------------------------------------------------------------------------------------


def test_check_connection(cli: Cli, offline: Cli) -> None:
    done = cli.ok("check", "connection", "--warn", "1m", "--crit", "2m")
    assert done.out.startswith("connection OK: everything is within its limits | rtt=")
    assert ";60;120 " in done.out
    report = cli("check", "connection", "--crit", "0", "--json")
    assert (report.code, report.json["status"]) == (2, "CRITICAL")
    assert cli("check", "connection", "--warn", "0").code == 1
    gone = offline("check", "connection", "--server", "nats://127.0.0.1:1")
    assert gone.code == 2
    assert gone.out.startswith("connection CRITICAL: unavailable: cannot connect")


def test_check_mailbox(cli: Cli, box: str) -> None:
    for number in range(3):
        cli.ok("send", box, str(number))
    cli.ok("fetch", box, "--group", "g", "--count", "1", "--ack")
    done = cli.ok("check", "mailbox", box, "--warn-messages", "3", "--crit-lag", "2")
    assert "messages=3;3; " in done.out
    assert "lag=2;;2" in done.out
    assert cli("check", "mailbox", box, "--warn-messages", "2").code == 1
    assert cli("check", "mailbox", box, "--warn-messages", "0", "--crit-messages", "2").code == 2
    report = cli("check", "mailbox", box, "--group", "g", "--crit-lag", "1", "--json")
    assert (report.code, report.json["values"]["lag"], report.json["text"]) == (2, 2, "lag is 2")
    assert cli("check", "mailbox", box, "--group", "nobody").code == 3
    assert cli("check", "mailbox", "no.such.box").code == 2


# --- bench ------------------------------------------------------------------------------------------------------


def test_bench(cli: Cli) -> None:
    sent = cli.ok("bench", "send", "-m", "200", "--size", "100", "-w", "10", "-c", "2", "--json").json
    assert (sent["bench"], sent["messages"], sent["size"]) == ("send", 200, 100)
    assert list(sent["latency_ms"]["SEND"]) == ["p50", "p99", "p99.9", "max"]
    fetched = cli.ok("bench", "fetch", "-m", "200", "-b", "50", "--json").json
    assert fetched["messages"] == 200
    assert fetched["latency_ms"].keys() == {"FETCH", "ACK"}
    published = cli.ok("bench", "pubsub", "-m", "200", "-w", "20", "-c", "2", "--json").json
    assert (published["messages"], published["latency_ms"].keys()) == (400, {"DELIVERY"})
    lines = cli.ok("bench", "send", "-m", "10").lines
    assert lines[0].startswith("send: 10 messages of 256 B in ")
    assert lines[2].startswith("SEND\t")


# --- help and loading -------------------------------------------------------------------------------------------


def test_help_of_everything(offline: Cli) -> None:
    shown = offline.ok("--help").out.split()
    assert not [noun for noun in MODULES if noun not in shown]
    for noun in GROUPS:
        assert "Usage: mq9" in offline.ok(noun, "--help").out
    assert offline("mailbox").code == 2  # and help, as git does


def _loaded_by(*arguments: str) -> set[str]:
    """The modules that a command has loaded when it ends."""
    program = (
        "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        f"sys.argv = ['mq9', *{list(arguments)!r}]; from mq9.cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return set(done.stderr.split())


HEAVY = {"asyncio", "nats", "msgspec", "lmdb", "aiohttp", "uvloop", "numpy", "broker_node", "mq9.client.client", "mq9.storage"}


@pytest.mark.parametrize("arguments", [["send", "--help"], ["mailbox", "--help"], ["server", "--help"], ["version"]])
def test_a_command_loads_what_it_needs(arguments: list[str]) -> None:
    """The start is fast because of this; a time would depend on the machine."""
    assert not HEAVY & _loaded_by(*arguments)


def test_version_loads_next_to_nothing() -> None:
    assert not {"typer", "rich", "json"} & _loaded_by("--version")


def test_a_client_command_does_without_the_broker() -> None:
    loaded = _loaded_by("mailbox", "ls", "--server", "nats://127.0.0.1:1")
    assert "nats.aio.client" in loaded
    assert not {"broker_node", "lmdb", "aiohttp.client", "uvloop", "rich"} & loaded


def test_shell_completion_is_typers(offline: Cli) -> None:
    asked = offline(_MQ9_COMPLETE="complete_bash", COMP_WORDS="mq9 mail", COMP_CWORD="1")
    assert asked.out.strip() == "mailbox"


# --- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5h", 5400), ("7d", 604_800), ("2W", 1_209_600), ("250ms", 0.25), ("15m", 900)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "5 m", "1e3", "5y", "m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        duration(text)


def test_moments() -> None:
    assert moment("1700000000") == 1_700_000_000
    assert moment("2026-01-31T12:00+00:00") == 1_769_860_800
    assert moment("2026-01-31") == datetime.fromisoformat("2026-01-31").astimezone().timestamp()
    assert moment("1h") < moment("1m")
    for text in ("", "yesterday", "2026-13-01"):
        with pytest.raises(typer.BadParameter):
            moment(text)


def test_headers() -> None:
    assert headers(["A: 1", "B:2", "C : x: y "]) == {"A": "1", "B": "2", "C": "x: y"}
    assert headers(None) == {}
    assert header("A: 1") == "A: 1"
    for text in ("no colon", ": no name", ""):
        with pytest.raises(typer.BadParameter):
            header(text)


def test_json_lines_are_one_object_each(cli: Cli, box: str) -> None:
    cli.ok("send", box, "two\nlines")
    (line,) = cli.ok("query", box, "--json").lines
    assert json.loads(line)["payload"] == "two\nlines"
