"""Fixtures of the server tests.

host            host(**settings) -> a server in this process, on a free port, whose clock the test moves
hosted          the same with no settings, for one test
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.broker.hosted import Hosted

Host = Callable[..., Hosted]


@pytest.fixture
def host() -> Iterator[Host]:
    started: list[Hosted] = []

    def start(**values: Any) -> Hosted:
        started.append(Hosted(**values))
        return started[-1]

    yield start
    for hosted in started:
        hosted.stop()


@pytest.fixture
def hosted(host: Host) -> Hosted:
    return host()
