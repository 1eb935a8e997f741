"""A client on the shared server, and mailboxes that nobody else uses."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import mq9
from tests.support.server import ServerProcess


@pytest.fixture
async def client(shared_server: ServerProcess) -> AsyncIterator[mq9.Client]:
    async with mq9.connect(shared_server.url) as connected:
        yield connected


@pytest.fixture
async def box(client: mq9.Client) -> AsyncIterator[mq9.Mailbox]:
    """A mailbox of this test alone."""
    mailbox = await client.mailbox_create()
    yield mailbox
    try:
        await client.mailbox_remove(mailbox)
    except mq9.NotFound:
        return  # the test removed it
