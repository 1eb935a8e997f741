"""The published Python SDK (PyPI robustmq 1.0.0, unmodified) speaks the v1 dialect; until that is here it must fail clearly."""

from __future__ import annotations

import pytest

from tests.support.server import ServerProcess

mq9_v1 = pytest.importorskip("robustmq.mq9", reason="robustmq is not installed (pip install robustmq==1.0.0)")

pytestmark = [pytest.mark.interop, pytest.mark.anyio]


async def test_it_connects_and_drains(shared_server: ServerProcess) -> None:
    async with mq9_v1.Client(shared_server.url) as client:
        assert client._nc.is_connected


async def test_a_command_of_its_dialect_is_an_error_it_understands(shared_server: ServerProcess) -> None:
    """Not a timeout: it raises its own error with our text."""
    async with mq9_v1.Client(shared_server.url) as client:
        with pytest.raises(mq9_v1.client.Mq9Error) as refusal:
            await client.list("nobody.there")
    assert str(refusal.value)
