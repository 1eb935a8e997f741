"""README.md, docs/quickstart.md, client.md and cli.md, word for word: every block is run in order against a real server.

    ```sh        run by bash -e; a ```text block right after it is what it must print (`...` stands for anything)
    ```python    run by this Python; likewise
    ```console   for people: another program than ours, or one that starts a server

The only change made is the address: examples name port 4222 of this machine, the server under test has a port of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.server import ServerProcess

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
RUN_TIMEOUT_S = 60
INSTALLING = ("make run", "make test")  # tests/docs/test_fresh_clone.py


@dataclass
class Example:
    kind: str
    text: str
    line: int
    output: str | None = None


def examples(page: Path) -> list[Example]:
    """The blocks to run, each with the output that stands behind it, if any."""
    found: list[Example] = []
    text = page.read_text()
    for match in BLOCK.finditer(text):
        if match["kind"] in ("sh", "python"):
            found.append(Example(match["kind"], match["text"], text[: match.start()].count("\n") + 1))
        elif match["kind"] == "text":
            assert found, f"{page.name}: output of nothing"
            found[-1].output = match["text"]
    return [example for example in found if not example.text.startswith(INSTALLING)]


def run(example: Example, server: ServerProcess, directory: Path) -> str:
    """Run one block; what it printed. Fails with that when it does not exit 0."""
    text = example.text.replace("127.0.0.1:4222", f"127.0.0.1:{server.port}")
    text = text.replace("http://127.0.0.1:8222", server.monitor_url)
    interpreter = ["bash", "-e", "-o", "pipefail"] if example.kind == "sh" else [sys.executable, "-W", "error"]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    env = {**os.environ, "PATH": path, "MQ9_URL": server.url, "NO_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [*interpreter, "-c", text],
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"line {example.line} exited {done.returncode}:\n{text}\n{done.stdout}{done.stderr}"
    return done.stdout


def check_output(example: Example, printed: str) -> None:
    """Compare line by line, blank lines and spaces at ends aside."""
    assert example.output is not None
    expected = "\n".join(line.rstrip() for line in example.output.strip().splitlines())
    actual = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    pattern = ".*?".join(re.escape(part) for part in expected.split("..."))
    assert re.fullmatch(pattern, actual, re.DOTALL), f"line {example.line}\nexpected:\n{expected}\nprinted:\n{actual}"


PAGES = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("quickstart.md", "client.md", "cli.md", "push.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_does_what_the_page_says(page: Path, server: ServerProcess, tmp_path: Path) -> None:
    blocks = examples(page)
    assert blocks
    for example in blocks:
        printed = run(example, server, tmp_path)
        if example.output is not None:
            check_output(example, printed)
