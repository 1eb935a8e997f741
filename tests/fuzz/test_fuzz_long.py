"""Two minutes of coverage-guided fuzzing of the commands, for `make long`; needs atheris, which is published for Linux only."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = int(os.environ.get("MQ9_TEST_FUZZ_SECONDS", "120"))
SEEDS = [
    b'{"name":"a","ttl":1,"public":true,"exist_ok":true}',
    b'{"group_name":"g","deliver":"earliest","config":{"num_msgs":1,"max_wait_ms":0,"stream":true}}',
    b'{"group_name":"g","msg_id":1,"mode":"single","msg_ids":[1,2],"nack":true,"delay":1.5}',
    b'{"key":"k","tags":["a"],"since":1.5,"limit":1,"encoding":"text"}',
    b'{"name":"a","mailbox":"mq9://h/b","payload":"{}","agent_card":{"skills":[{"tags":["x"]}]},"ttl":3,"status":"busy"}',
    b'{"text":"a","semantic":"b","limit":1,"page":2,"tags":"x","status":"any"}',
]


@pytest.mark.long
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (pip install atheris)")
def test_the_commands_under_coverage_guided_fuzzing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, body in enumerate(SEEDS * 16):
        start = bytes((number // len(SEEDS), 0)) + b"mq9-key: k\nmq9-delay: 1\nmq9-tags: a,b\0"
        (corpus / str(number)).write_bytes(start + body)
    flags = [f"-max_total_time={SECONDS}", "-max_len=4000", "-verbosity=0"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_commands", *flags, str(corpus)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
