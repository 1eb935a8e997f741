"""The measurement of a growing cluster runs through and finds what it looks for. No figure is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_four_brokers_are_measured(tmp_path: Path) -> None:
    """The fourth is given slots; and a broker is lost."""
    command = [sys.executable, "-m", "bench.scaling", "--brokers", "4", "--slots", "8", "--seconds", "0.3", "--json"]
    done = subprocess.run([*command, "--directory", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures["brokers"] == 4
    assert figures["floors a second"] > 0
    assert figures["all have their share of the slots after s"] > 0
    assert figures["slots of a dead broker led again after s"] > 0
