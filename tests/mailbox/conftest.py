"""What many of these tests begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mq9.testing.broker import InProcessBroker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[InProcessBroker]:
    """A broker in this process, on disk, with a mailbox `box`."""
    broker = InProcessBroker(tmp_path, sync=False)
    broker.client().command("MAILBOX.CREATE", {"name": "box"})
    yield broker
    broker.close()
