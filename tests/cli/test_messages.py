"""mq9 send, fetch, query, ack, delete, watch"""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest

from tests.cli.conftest import COMMAND, TIMEOUT_S, Cli


def _messages(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_send_takes_an_argument_or_standard_input(cli: Cli, box: str) -> None:
    assert cli.ok("send", box, "from the argument").out == "1\n"
    assert cli.ok("send", box, stdin="from\nstandard input\n").out == "2\n"
    assert cli.ok("send", box, "-", stdin=b"\x00\xff").out == "3\n"
    assert cli.ok("send", box, "", "--json").json == {"msg_id": 4, "duplicate": False}
    payloads = [(each["payload"], each["payload_encoding"]) for each in _messages(cli.ok("query", box, "--json").out)]
    assert payloads == [("from the argument", "text"), ("from\nstandard input\n", "text"), ("AP8=", "base64"), ("", "text")]


def test_send_with_everything(cli: Cli, box: str) -> None:
    options = ["--priority", "urgent", "--key", "k", "--ttl", "1h", "-t", "a", "-t", "b", "-H", "X-A: 1", "-H", "X-B:2"]
    cli.ok("send", box, "hello", *options)
    assert cli.ok("send", box, "later", "--delay", "1h").out == "-1\n"
    assert cli.ok("send", box, "once", "--msg-id", "id-1").out == "2\n"
    assert cli.ok("send", box, "once", "--msg-id", "id-1").out == "2 duplicate\n"
    (message,) = _messages(cli.ok("fetch", box, "--json", "--count", "1").out)
    assert (message["priority"], message["key"], message["tags"]) == ("urgent", "k", ["a", "b"])
    assert message["headers"] == {"X-A": "1", "X-B": "2"}
    assert message["expires_at"] > message["create_time"]


def test_send_every_line_of_a_pipe(cli: Cli, box: str) -> None:
    lines = [f"line {number}" for number in range(1000)]
    done = cli.ok("send", box, "--lines", "--json", stdin="\n".join(lines) + "\n")
    assert sorted(each["msg_id"] for each in _messages(done.out)) == list(range(1, 1001))
    stored = cli.ok("query", box, "--raw", "--limit", "1000").lines
    assert sorted(stored) == sorted(lines)


def test_fetch_shows_the_most_urgent_first(cli: Cli, box: str) -> None:
    cli.ok("send", box, "one", "-H", "X-A: 1")
    cli.ok("send", box, "two", "-p", "critical", "-t", "a")
    lines = cli.ok("fetch", box).lines
    assert lines[0].startswith("#2  critical  ")
    assert lines[0].endswith("tags=a")
    assert lines[1] == "two"
    assert lines[3].startswith("#1  normal  ")
    assert lines[4:6] == ["X-A: 1", "one"]
    assert cli.ok("fetch", box, "--raw").out == "two\none\n"
    assert cli.ok("fetch", box, "--raw", "--from-id", "2").out == "two\n"
    assert cli.ok("fetch", box, "--raw", "--tag", "a").out == "two\n"
    assert cli.ok("fetch", box, "--raw", "--from-time", "1h").out == "two\none\n"
    assert cli.ok("fetch", box, "--raw", "--from-time", "2099-01-01").out == ""
    assert cli.ok("fetch", box, "--raw", "--deliver", "latest", "--wait", "1ms").out == ""


def test_fetch_by_group_confirms_when_told(cli: Cli, box: str) -> None:
    for number in range(3):
        cli.ok("send", box, str(number))
    assert cli.ok("fetch", box, "-g", "g", "-n", "2", "--raw").out == "0\n1\n"
    # Without --ack they went back to the group when the command ended.
    assert cli.ok("fetch", box, "-g", "g", "-n", "2", "--raw", "--ack").out == "0\n1\n"
    assert cli.ok("fetch", box, "-g", "g", "--raw", "--ack").out == "2\n"
    assert cli.ok("fetch", box, "-g", "g", "--raw", "--wait", "1ms").out == ""
    assert cli.ok("fetch", box, "-g", "g", "--raw", "--force").out == "0\n1\n2\n"


def test_ack_and_nack(cli: Cli, box: str) -> None:
    for number in range(1, 6):
        cli.ok("send", box, str(number))
    cli.ok("fetch", box, "-g", "g")
    assert cli.ok("ack", box, "g", "2", "--up-to").out == ""
    assert cli.ok("ack", box, "g", "4", "--json").json == {"acked": [4]}
    assert cli.ok("ack", box, "g", "3", "--nack", "--delay", "1h", "--json").json == {"nacked": [3]}
    assert cli.ok("fetch", box, "-g", "g", "--raw").out == "5\n"


def test_query_and_delete(cli: Cli, box: str) -> None:
    cli.ok("send", box, "old", "--key", "k")
    cli.ok("send", box, "new", "--key", "k")
    cli.ok("send", box, "other", "--tag", "t")
    assert cli.ok("query", box, "--raw").out == "new\nother\n"
    assert cli.ok("query", box, "--raw", "--key", "k").out == "new\n"
    assert cli.ok("query", box, "--raw", "--tag", "t", "--since", "1m").out == "other\n"
    assert cli.ok("query", box, "--raw", "-n", "1").out == "new\n"
    assert cli.ok("delete", box, "2", "3", "--json").json == {"deleted": [2, 3]}
    assert cli.ok("query", box).out == ""
    assert cli("delete", box, "2").code == 5


def test_watch_ends_after_a_count(cli: Cli, box: str) -> None:
    for number in range(3):
        cli.ok("send", box, str(number))
    assert cli.ok("watch", box, "--deliver", "earliest", "--count", "3", "--raw").out == "0\n1\n2\n"
    assert cli.ok("watch", box, "--group", "g", "--count", "2", "--raw").out == "0\n1\n"
    assert cli.ok("fetch", box, "--group", "g", "--raw").out == "2\n"


def test_watch_shows_what_comes_until_it_is_interrupted(cli: Cli, box: str) -> None:
    command = [*COMMAND, "watch", box, "--group", "g", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.env, text=True) as watching:
        assert watching.stdout is not None
        for text in ("first", "second"):
            cli.ok("send", box, text)
            assert json.loads(watching.stdout.readline())["payload"] == text
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=TIMEOUT_S)
    assert (watching.returncode, out, err) == (0, "", "")


def test_a_reader_that_goes_away_is_no_traceback(cli: Cli, box: str) -> None:
    cli.ok("send", box, "--lines", stdin="x" * 1000 + "\n" + ("y" * 1000 + "\n") * 300)
    command = [*COMMAND, "query", box, "--raw", "--limit", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.env) as asking:
        assert asking.stdout is not None
        assert asking.stderr is not None
        assert asking.stdout.read(1) == b"x"
        asking.stdout.close()
        assert asking.wait(TIMEOUT_S) == 1
        assert asking.stderr.read() == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "x", "y", "--priority", "whenever"],
        ["send", "x", "--lines", "payload"],
        ["send", "x", "y", "--ttl", "soon"],
        ["send", "x", "y", "-H", "no colon"],
        ["fetch", "x", "--ack"],
        ["fetch", "x", "--from-id", "1", "--from-time", "2"],
        ["fetch", "x", "--from-time", "yesterdayish"],
        ["fetch", "x", "--deliver", "sometimes"],
        ["ack", "x", "g", "1", "--nack", "--up-to"],
        ["ack", "x", "g", "one"],
        ["ack", "x", "g"],
        ["query"],
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Usage: mq9" in done.err
