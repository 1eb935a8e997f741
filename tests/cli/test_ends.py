"""How commands end: exit codes, and errors in words or in JSON."""

from __future__ import annotations

import socket

import pytest

from mq9.cli.exits import exit_code
from mq9.errors import CODES, error
from tests.cli.conftest import Cli
from tests.conftest import MakeServer
from tests.support.nats_server import NatsServer


def test_not_found(cli: Cli) -> None:
    done = cli("mailbox", "info", "no.such.box")
    assert (done.code, done.out) == (5, "")
    assert done.err == "error: mailbox no.such.box does not exist (MAILBOX_NOT_FOUND)\n"
    done = cli("mailbox", "info", "no.such.box", "--json")
    assert (done.code, done.err) == (5, "")
    assert done.json == {"error": "mailbox no.such.box does not exist", "code": "MAILBOX_NOT_FOUND"}


def test_failed(cli: Cli) -> None:
    assert cli("mailbox", "create", "NOT A NAME").code == 1


def test_not_reachable(offline: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        url = f"nats://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        done = offline("mailbox", "ls", "--server", url)
    assert done.code == 3
    assert "cannot connect to nats://127.0.0.1" in done.err
    assert "secret" not in done.err


def test_not_allowed(offline: Cli, start_server: MakeServer) -> None:
    server = start_server(user="agent", password="right")
    for how in ({}, {"MQ9_USER": "agent", "MQ9_PASSWORD": "wrong"}):
        assert offline("mailbox", "ls", "--server", server.url, **how).code == 4
    assert offline("mailbox", "ls", "--server", server.url, MQ9_USER="agent", MQ9_PASSWORD="right").code == 0
    assert offline("mailbox", "ls", "--server", server.url, "--user", "agent", "--password=right").code == 0
    assert offline("mailbox", "ls", NATS_URL=server.url.replace("://", "://agent:right@")).code == 0


def test_timeout(offline: Cli, nats_server: NatsServer) -> None:
    """A server that takes the request and never answers."""
    with nats_server.raw() as mute:
        mute.sub(b"$mq9.AI.>")
        mute.flush()
        done = offline("mailbox", "ls", "--server", nats_server.url, "--timeout", "0.2")
    assert done.code == 6
    assert done.err == "error: no answer within 0.2 s (TIMEOUT)\n"


def test_no_broker_is_not_reachable(offline: Cli, nats_server: NatsServer) -> None:
    done = offline("mailbox", "ls", "--server", nats_server.url, "--timeout", "0.2")
    assert done.code == 3
    assert "no mq9 broker" in done.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["mailbox", "nonsense"], ["send"], ["mailbox", "ls", "--nonsense"]])
def test_usage(offline: Cli, arguments: list[str]) -> None:
    done = offline(*arguments)
    assert (done.code, done.out) == (2, "")


def test_a_url_that_is_none_is_refused(offline: Cli) -> None:
    assert offline("mailbox", "ls", "--server", "http://x").code == 1


def test_tls_files_that_cannot_be_read_are_a_usage_error(offline: Cli) -> None:
    done = offline("mailbox", "ls", "--tls-ca", "no/such/file.pem")
    assert done.code == 2
    assert "cannot use the TLS files" in done.err


def test_the_server_option_wins_over_its_variables(cli: Cli) -> None:
    assert cli("mailbox", "ls", "--server", "nats://127.0.0.1:1").code == 3
    assert cli("mailbox", "ls", NATS_URL="nats://127.0.0.1:1").code == 0
    assert cli("mailbox", "ls", MQ9_URL="nats://127.0.0.1:1").code == 3


def test_every_error_has_its_exit_code() -> None:
    fields = {"reason": "", "name": "", "size": 1, "limit": 1, "seconds": 1.0, "subject": "", "msg_id": 1}
    codes = {code: exit_code(error(code, **fields)) for code in CODES}
    special = {
        "MAILBOX_NOT_FOUND": 5, "MESSAGE_NOT_FOUND": 5, "AGENT_NOT_FOUND": 5, "FORBIDDEN": 4, "UNAVAILABLE": 3, "TIMEOUT": 6,
    }  # fmt: skip
    assert {code: number for code, number in codes.items() if code in special} == special
    assert {number for code, number in codes.items() if code not in special} == {1}
