"""What tests of the meta service share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.small_disk import mounted_disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The data directory of a node n1, with room for 700 kB."""
    with mounted_disk(tmp_path / "n1", "700k") as path:
        yield path
