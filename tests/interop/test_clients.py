"""Real clients of seven makes, unmodified: core NATS against nats-server and against us, and the mq9 commands against us."""

from __future__ import annotations

import subprocess

import pytest

from tests.interop.programs import PROGRAMS, Program, prepare
from tests.support.nats_server import NatsServer
from tests.support.server import ServerProcess

CHECKS = {
    "core": ["connect", "pubsub", "wildcards", "queue", "request", "no_responders", "headers", "unsub_max", "large", "drain"],
    "mq9": ["create", "send", "fetch", "stream", "ack", "query", "delete", "register", "report", "discover", "unregister"],
}
SLOW = ("async-nats",)  # compiles for half a minute and more
RUN_TIMEOUT_S = 60

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1200)]
every_program = pytest.mark.parametrize(
    "program",
    [pytest.param(one, id=one.name, marks=[pytest.mark.heavy] if one.name in SLOW else []) for one in PROGRAMS],
)


def run(program: Program, url: str, suite: str) -> None:
    """Run one suite of one program; fails with what it printed unless exactly the checks of the suite passed."""
    command = [*prepare(program), url, suite, f"interop.{program.name.replace('-', '.')}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    passed = [line.removeprefix("ok ") for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert passed == CHECKS[suite], f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}{done.stderr}"


@every_program
def test_core_on_nats_server(program: Program, nats_server: NatsServer) -> None:
    """The program itself is right: the reference passes it."""
    run(program, nats_server.url, "core")


@every_program
def test_core(program: Program, shared_server: ServerProcess) -> None:
    run(program, shared_server.url, "core")


@every_program
def test_mq9_commands(program: Program, shared_server: ServerProcess) -> None:
    run(program, shared_server.url, "mq9")
