"""mq9 mailbox"""

from __future__ import annotations

import os
import pty
import select
import subprocess

from tests.cli.conftest import COMMAND, TIMEOUT_S, Cli


def test_create_prints_the_address(cli: Cli) -> None:
    assert cli.ok("mailbox", "create", "cli.made", "--ttl", "1h").out == "cli.made\n"
    again = cli.ok("mailbox", "create", "cli.made", "--exist-ok", "--json").json
    assert (again["mail_address"], again["is_new"], again["ttl"]) == ("cli.made", False, 3600)
    assert len(cli.ok("mailbox", "create", "--ttl", "60").out.strip()) == 26


def test_create_twice_fails(cli: Cli) -> None:
    cli.ok("mailbox", "create", "cli.twice", "--ttl", "1h")
    done = cli("mailbox", "create", "cli.twice")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: mailbox cli.twice already exists (MAILBOX_EXISTS)\n"


def test_info_ls_and_rm(cli: Cli) -> None:
    options = ["--desc", "for everybody", "--max-deliver", "3", "--dead-letter", "cli.dead"]
    cli.ok("mailbox", "create", "cli.listed.a", "--public", *options)
    cli.ok("mailbox", "create", "cli.listed.b", "--public")
    cli.ok("send", "cli.listed.a", "hello")
    cli.ok("fetch", "cli.listed.a", "--group", "readers")

    info = cli.ok("mailbox", "info", "cli.listed.a", "--json").json
    assert (info["messages"], info["desc"], info["max_deliver"], info["dead_letter"]) == (1, "for everybody", 3, "cli.dead")
    assert [(group["name"], group["lag"]) for group in info["groups"]] == [("readers", 1)]
    lines = cli.ok("mailbox", "info", "cli.listed.a").lines
    assert "messages\t1" in lines
    assert lines[-1].split("\t")[:2] == ["readers", "1"]

    listed = cli.ok("mailbox", "ls", "--prefix", "cli.listed.").lines
    assert [line.split("\t")[0] for line in listed] == ["cli.listed.a", "cli.listed.b"]
    page = cli.ok("mailbox", "ls", "--prefix", "cli.listed.", "--limit", "1", "--json").json
    assert [each["mail_address"] for each in page["mailboxes"]] == ["cli.listed.a"]

    assert cli.ok("mailbox", "rm", "cli.listed.a", "cli.listed.b", "--json").json == {"removed": ["cli.listed.a", "cli.listed.b"]}
    assert cli("mailbox", "info", "cli.listed.a").code == 5
    assert cli("mailbox", "rm", "cli.listed.a").code == 5


def _at_a_terminal(cli: Cli, arguments: list[str], typed: bytes, **env: str) -> tuple[int, bytes]:
    """Run a command with a terminal for all its streams; its exit code and what it showed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env={**cli.env, **env}) as child:
        os.close(theirs)
        os.write(ours, typed)
        shown = b""
        while select.select([ours], [], [], TIMEOUT_S)[0]:
            try:
                data = os.read(ours, 4096)
            except OSError:
                break  # the other end is closed
            if not data:
                break
            shown += data
        os.close(ours)
        return child.wait(TIMEOUT_S), shown


def test_rm_asks_at_a_terminal_and_only_there(cli: Cli, box: str) -> None:
    code, shown = _at_a_terminal(cli, ["mailbox", "rm", box], b"n\n")
    assert b"Remove" in shown
    assert code == 1
    cli.ok("mailbox", "info", box)
    code, shown = _at_a_terminal(cli, ["mailbox", "rm", box, "--yes"], b"")
    assert (code, b"Remove" in shown) == (0, False)
    assert cli("mailbox", "info", box).code == 5


def test_colours_only_at_a_terminal_that_wants_them(cli: Cli, box: str) -> None:
    cli.ok("send", box, "a \033[31mred\033[0m message")
    assert "\033[1m" not in cli.ok("fetch", box).out
    _, coloured = _at_a_terminal(cli, ["fetch", box], b"")
    assert b"\033[1m#1" in coloured
    assert b"\033[31m" not in coloured, "a message must not paint the terminal"
    _, plain = _at_a_terminal(cli, ["fetch", box], b"", NO_COLOR="1")
    assert b"\033[" not in plain
    _, table = _at_a_terminal(cli, ["errors", "ls"], b"", NO_COLOR="1", TERM="xterm")
    assert b"MAILBOX_NOT_FOUND" in table
    assert b"\033[3" not in table
