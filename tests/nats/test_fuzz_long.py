"""Two minutes of coverage-guided fuzzing, for `make long`; needs atheris, which is published for Linux only."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = int(os.environ.get("MQ9_TEST_FUZZ_SECONDS", "120"))


@pytest.mark.long
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (pip install atheris)")
def test_the_parser_under_coverage_guided_fuzzing(tmp_path: Path) -> None:
    seeds = tmp_path / "corpus"
    seeds.mkdir()
    for number, stream in enumerate(
        [
            b"SUB a.* q 1\r\nUNSUB 1 5\r\nPING\r\nPONG\r\n",
            b"PUB a b 5\r\nhello\r\npub a 0\n\r\n",
            b"HPUB a b 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
            b'CONNECT {"verbose":false,"user":"u","pass":"p"}\r\n',
        ]
    ):
        (seeds / str(number)).write_bytes(b"\x01\x07" + stream)
    flags = [f"-max_total_time={SECONDS}", "-max_len=6000", "-verbosity=0"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.nats.fuzz_parser", *flags, str(seeds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
