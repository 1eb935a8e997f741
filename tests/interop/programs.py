"""The clients under test as programs: what each needs, how it is built once and kept, how it is run.

Builds are kept outside the repository, in ~/.cache/mq9-interop (or $MQ9_INTEROP_CACHE), by a digest of their sources, so
that only the first run on a machine compiles. A client's registry may be out of reach: the tests then skip and say so. Any
other failure to get a client (a lock file that does not fit, a checksum) or to compile our own few lines against it fails.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FETCH_TIMEOUT_S = 240
BUILD_TIMEOUT_S = 840
Commands = list[list[str]]
# How npm, Go, Maven, Cargo and our own clock say that they could not reach where packages come from.
UNREACHABLE = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT"
    r"|no such host|unknown host|name or service not known|could(n't| not) resolve host|name resolution"
    r"|connection refused|(could not|couldn't|failed to) connect|network is unreachable|no route to host"
    r"|i/o timeout|tls handshake timeout|(connect(ion)?|read|operation|request|resolving) timed out|timeout was reached"
    r"|took more than \d+ s",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Program:
    """One client. In its commands `{build}` is where it is built and `{source}` the copy of its folder there."""

    name: str
    folder: str
    tools: tuple[str, ...] = ()
    fetch: tuple[tuple[str, ...], ...] = ()  # asks a registry: where it cannot be reached the tests skip
    build: tuple[tuple[str, ...], ...] = ()  # compiles: must work
    command: tuple[str, ...] = ()
    needs: Callable[[], str] = lambda: ""  # what is missing besides the tools, or ""
    root: Path = HERE  # where `folder` is


def _missing_nats_c() -> str:
    return "" if Path("/usr/include/nats/nats.h").exists() else "the C client is not installed (Debian: libnats-dev)"


MAVEN = ("mvn", "--quiet", "--batch-mode")
# By its whole name: without a network the short one is only said to be unknown.
COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"
PROGRAMS = (
    Program("nats-py", "python", command=(sys.executable, "{source}/suite.py")),
    Program(
        "nats.js-2",
        "js",
        ("node", "npm"),
        (("npm", "ci", "--loglevel=error", "--ignore-scripts", "--no-audit", "--no-fund"),),
        command=("node", "{source}/suite.mjs", "nats"),
    ),
    Program(
        "nats.js-3",
        "js",
        ("node", "npm"),
        (("npm", "ci", "--loglevel=error", "--ignore-scripts", "--no-audit", "--no-fund"),),
        command=("node", "{source}/suite.mjs", "@nats-io/transport-node"),
    ),
    Program(
        "nats.c",
        "c",
        ("gcc",),
        build=(("gcc", "-Wall", "-Wextra", "-O1", "-o", "{build}/suite", "suite.c", "-lnats"),),
        command=("{build}/suite",),
        needs=_missing_nats_c,
    ),
    Program(
        "nats.go",
        "go",
        ("go",),
        (("go", "mod", "download"),),
        (("go", "build", "-o", "{build}/suite", "."),),
        ("{build}/suite",),
    ),
    Program(
        "jnats",
        "java",
        ("mvn", "javac", "java"),
        ((*MAVEN, COPY_JARS, "-DoutputDirectory={build}/lib"),),
        (("javac", "-cp", "{build}/lib/*", "-d", "{build}/classes", "Suite.java"),),
        ("java", "-cp", "{build}/lib/*:{build}/classes", "Suite"),
    ),
    Program(
        "async-nats",
        "rust",
        ("cargo",),
        (("cargo", "fetch", "--quiet", "--locked"),),
        (("cargo", "build", "--quiet", "--locked", "--offline", "--target-dir", "{build}/target"),),
        ("{build}/target/debug/mq9-interop",),
    ),
)
NATS_CLI = Program(
    "natscli",
    "natscli",
    ("go",),
    (("go", "mod", "download"),),
    (("go", "build", "-o", "{build}/nats", "github.com/nats-io/natscli/nats"),),
    ("{build}/nats",),
)


def cache() -> Path:
    """Where builds are kept."""
    return Path(os.environ.get("MQ9_INTEROP_CACHE") or Path.home() / ".cache" / "mq9-interop")


def _digest(program: Program) -> str:
    digest = hashlib.sha256(repr((program.fetch, program.build)).encode())
    for path in sorted((program.root / program.folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(program.root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str], directory: Path, timeout_s: float) -> str:
    """Run one step; what it printed, if it failed or took too long, else ""."""
    # The toolchain that is here, as it is: none fetches another one of itself.
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    try:
        done = subprocess.run(
            command, cwd=directory, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{command[0]} took more than {timeout_s:.0f} s"
    return "" if done.returncode == 0 else (done.stderr + done.stdout).strip() or f"{command[0]} exited {done.returncode}"


def is_built(program: Program) -> bool:
    """Whether running it needs no registry and no compiler's minutes any more."""
    return (cache() / f"{program.folder}-{_digest(program)}" / "done").exists()


def prepare(program: Program) -> list[str]:
    """The command line that runs the program, after building it if need be. Skips the test, with the reason, or fails it."""
    missing = [tool for tool in program.tools if shutil.which(tool) is None]
    reason = f"{', '.join(missing)} not installed" if missing else program.needs()
    if reason:
        pytest.skip(f"{program.name}: {reason}")
    build = cache() / f"{program.folder}-{_digest(program)}"
    build.mkdir(parents=True, exist_ok=True)
    places = {"build": str(build), "source": str(build / "source")}
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (build / "done").exists():
            _build(program, build, places)
    return [word.format(**places) for word in program.command]


def _build(program: Program, build: Path, places: dict[str, str]) -> None:
    source = build / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(program.root / program.folder, source, ignore=shutil.ignore_patterns("node_modules", "target", "__pycache__"))
    for step in program.fetch:
        output = _run([word.format(**places) for word in step], source, FETCH_TIMEOUT_S)
        if output and UNREACHABLE.search(output):
            pytest.skip(f"{program.name} cannot be had here: {output[-300:]}")
        if output:
            pytest.fail(f"{program.name} cannot be fetched:\n{output}")
    for step in program.build:
        output = _run([word.format(**places) for word in step], source, BUILD_TIMEOUT_S)
        if output:
            pytest.fail(f"{program.name} does not build:\n{output}")
    (build / "done").touch()
