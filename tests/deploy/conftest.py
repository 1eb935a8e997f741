"""Fixtures of the deployment's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.composition import Composition


@pytest.fixture
def composition(tmp_path: Path) -> Iterator[Composition]:
    """The services of docker-compose.yml as local processes, none of them started; those that run in the end must exit 0."""
    if sys.platform != "linux":
        pytest.skip("all of 127.0.0.0/8 is this machine on Linux alone")
    directory = tmp_path / "composition"
    directory.mkdir()
    made = Composition(directory)
    made.make_keys()
    yield made
    codes = made.close()
    logs = "\n".join(process.log for process in made.processes.values())
    assert set(codes.values()) <= {0}, f"{codes}\n{logs}"
    assert "Traceback" not in logs, logs
