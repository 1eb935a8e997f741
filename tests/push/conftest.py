"""Mailboxes of one test on the shared server, taken away when it ends: they are large."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.push.mail import make
from tests.support.server import ServerProcess


@pytest.fixture
def box(shared_server: ServerProcess) -> Iterator[str]:
    name = f"push.{secrets.token_hex(4)}"
    make(shared_server, name)
    yield name
    shared_server.raw().call(b"$mq9.AI.MAILBOX.REMOVE." + name.encode())
