"""What makes a client's tests skip: a toolchain that is not here, a registry out of reach. Everything else fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.interop.programs import HERE, PROGRAMS, Program, prepare

pytestmark = pytest.mark.interop

NO_NETWORK = [
    "npm error code ENOTFOUND\nnpm error network request to https://packages.example/nats failed",
    "npm error code ECONNREFUSED\nnpm error FetchError: request to http://127.0.0.1:1/nats failed",
    "go: github.com/nats-io/nats.go@v1.37.0: Get https://packages.example: dial tcp: lookup packages.example: no such host",
    "go: dial tcp 127.0.0.1:1: connect: connection refused",
    "go: dial tcp 10.0.0.1:443: i/o timeout",
    "[ERROR] Could not transfer artifact io.nats:jnats: packages.example: Name or service not known",
    "[ERROR] Connect to packages.example:443 failed: Connection refused",
    "error: failed to download: [6] Could not resolve hostname (Could not resolve host: packages.example)",
    "error: [28] Timeout was reached (Connection timed out after 30000 milliseconds)",
]
OUR_FAULT = [
    "npm error code EUSAGE\nnpm error `npm ci` can only install packages when package.json and package-lock.json are in sync",
    "npm error code EINTEGRITY\nnpm error sha512-x integrity checksum failed",
    "npm error code E404\nnpm error 404 Not Found - GET https://packages.example/nats",
    "verifying github.com/nats-io/nats.go@v1.37.0: checksum mismatch",
    "[ERROR] Could not find artifact io.nats:jnats:jar:0.0.0 in central",
    "error: the lock file Cargo.lock needs to be updated but --locked was passed to prevent this",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where these programs are built, so that nothing of them stays."""
    monkeypatch.setenv("MQ9_INTEROP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def failing(tmp_path: Path, said: str, *, builds: bool = False) -> Program:
    """A program that says that and fails, getting or building it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "said").write_text(said)
    step = (("sh", "-c", "cat said >&2; exit 1"),)
    return Program("a client", "folder", ("sh",), () if builds else step, step, root=tmp_path)


@pytest.mark.parametrize("said", NO_NETWORK)
def test_a_registry_out_of_reach_is_a_skip(tmp_path: Path, said: str) -> None:
    with pytest.raises(pytest.skip.Exception, match="a client cannot be had here"):
        prepare(failing(tmp_path, said))


@pytest.mark.parametrize("said", OUR_FAULT)
def test_anything_else_that_keeps_a_client_away_is_a_failure(tmp_path: Path, said: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="a client cannot be fetched"):
        prepare(failing(tmp_path, said))


@pytest.mark.parametrize("said", ["suite.c:1: error: expected ';'", NO_NETWORK[0]])
def test_a_client_that_does_not_build_is_a_failure(tmp_path: Path, said: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="a client does not build"):
        prepare(failing(tmp_path, said, builds=True))


def test_a_tool_that_is_not_here_is_a_skip() -> None:
    with pytest.raises(pytest.skip.Exception, match="mq9-no-such-tool not installed"):
        prepare(Program("a client", "folder", ("sh", "mq9-no-such-tool")))


def test_a_broken_lock_file_is_a_failure(tmp_path: Path) -> None:
    shutil.copytree(HERE / "js", tmp_path / "js", ignore=shutil.ignore_patterns("node_modules"))
    lock = tmp_path / "js" / "package-lock.json"
    lock.write_text(lock.read_text()[:-100])
    [real] = [program for program in PROGRAMS if program.name == "nats.js-2"]
    with pytest.raises(pytest.fail.Exception, match=r"nats\.js-2 cannot be fetched"):
        prepare(Program(real.name, real.folder, real.tools, real.fetch, command=real.command, root=tmp_path))
