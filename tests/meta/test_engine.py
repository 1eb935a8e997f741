"""The Raft thread of one node: whoever asks it something is answered, whatever becomes of the node."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Final

from meta_service.engine import Engine, NotLeader, OutcomeUnknown
from mq9.errors import Mq9Error
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb
from tests.meta.programs import commit, run_engines

PATIENCE_S: Final = 30.0
BURST: Final = 22


def refusals(asked: list[Future[Any]]) -> list[BaseException]:
    """How those ended that did not succeed."""
    assert not wait(asked, PATIENCE_S).not_done, "somebody waits for ever"
    failures = [failure for each in asked if (failure := each.exception()) is not None]
    assert all(isinstance(each, Mq9Error | NotLeader | OutcomeUnknown) for each in failures), failures
    assert {each.code for each in failures if isinstance(each, Mq9Error)} <= {"UNAVAILABLE"}
    return failures


def burst(engine: Engine, number: int) -> list[Future[Any]]:
    """Registrations whose addresses take 2 kB each, and barriers."""
    far = "c" * 2000
    requests = (
        meta.RegisterRequest(node=f"b{number}.{each}", disk_id=b"d%d.%d" % (number, each), peer_address="p", client_address=far)
        for each in range(BURST - 2)
    )
    asked: list[Future[Any]] = [engine.propose(pb.MetaCommand(register=request)) for request in requests]
    return [*asked, engine.barrier(), engine.barrier(disk=True)]


def test_everybody_is_answered_when_the_disk_of_the_leader_fails(tmp_path: Path, small_disk: Path) -> None:
    _, leader = engines = run_engines(tmp_path, 2, patient="n0")
    assert leader.options.directory == small_disk
    while not leader.state.view.founded:
        commit([leader], pb.MetaCommand(barrier=pb.Barrier()))
    asked: list[Future[Any]] = []
    while leader.failure is None:
        asked += burst(leader, len(asked))
        wait(asked[: -4 * BURST], PATIENCE_S)  # so that some are on their way whenever it fails
    assert 0 < len(refusals(asked)) < len(asked)
    for engine in engines:
        engine.stop()


def test_everybody_is_answered_when_a_node_is_told_to_stop(tmp_path: Path) -> None:
    asked: list[Future[Any]] = []
    for number in range(20):
        (engine,) = run_engines(tmp_path / str(number), 1)
        stopping = threading.Thread(target=engine.stop)
        stopping.start()
        while stopping.is_alive():
            asked.append(engine.barrier())
    assert refusals(asked)
