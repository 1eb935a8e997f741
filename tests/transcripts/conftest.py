"""The flag that writes transcripts anew."""

from __future__ import annotations

import pytest


@pytest.fixture
def rewriting(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite-transcripts"))
