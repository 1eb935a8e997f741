"""What `import mq9` brings, and what it does not."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mq9

ROOT = Path(__file__).parents[2]


def _loaded_by(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `program`."""
    program += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    heavy = {"asyncio", "msgspec", "nats", "mq9.client.client", "mq9.errors", "typer"}
    assert not heavy & _loaded_by("import mq9; mq9.__version__")
    assert "nats" not in _loaded_by("from mq9 import Mq9Error, Message, Priority")


@pytest.mark.parametrize("name", mq9.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(mq9, name) is getattr(importlib.import_module("mq9"), name)
    assert name in dir(mq9)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mq9.nonsense  # noqa: B018


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert mq9.__version__ == project["version"]


def test_it_says_that_it_is_typed() -> None:
    assert (ROOT / "mq9" / "py.typed").is_file()
