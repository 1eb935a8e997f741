"""The examples while the server is killed and started again under them, and while agents die and stay away."""

from __future__ import annotations

import os
import re
import runpy
import signal
from pathlib import Path

import pytest

import mq9
from tests.examples.programs import EXAMPLES, Example
from tests.examples.test_examples import RESULTS, pattern_of
from tests.support.server import ServerProcess


def crash(server: ServerProcess) -> None:
    """kill -9, and start again on the same data and port."""
    server.kill()
    server.start()


def finished_tasks(example: Example) -> list[int]:
    return [int(match[1]) for line in example.lines if (match := re.search(r": finished task (\d+)$", line))]


def assert_all_finished(example: Example, server: ServerProcess, crashes: int) -> None:
    """All twenty tasks, by one server each once. In a cluster another broker may lead afterwards, and those under way at a
    crash (one for each of three workers, one report) may come again."""
    finished = finished_tasks(example)
    assert set(finished) == set(range(1, 21))
    again = 4 * crashes if len(server.monitor_urls) > 1 else 0
    assert len(finished) <= 20 + again


def test_tasks_survive_a_killed_server(server: ServerProcess, tmp_path: Path) -> None:
    """Workers come back by themselves. The hung one lost its lease with its connection, so it need not even be killed."""
    with Example("task_broadcast", server.url, tmp_path) as example:
        example.read_to("cyd: finished")
        before = len(finished_tasks(example))
        crash(server)
        assert re.fullmatch(pattern_of(RESULTS["task_broadcast"]), example.finish())
    assert before < 20
    assert sorted(finished_tasks(example)) == list(range(1, 21))


@pytest.mark.long
def test_tasks_survive_servers_killed_again_and_again(server: ServerProcess, tmp_path: Path) -> None:
    with Example("task_broadcast", server.url, tmp_path) as example:
        example.read_to("cyd: finished")
        for _ in range(3):
            crash(server)
            example.read_to(": finished")
        example.finish()
    assert_all_finished(example, server, crashes=3)


def test_a_task_goes_on_at_once_when_its_worker_is_killed_from_outside(shared_server: ServerProcess, tmp_path: Path) -> None:
    """Its lease would last half a minute; its connection ends now."""
    with Example("task_broadcast", shared_server.url, tmp_path) as example:
        hangs = re.search(r"process (\d+)", example.read_to("ada: hangs"))
        assert hangs is not None
        os.kill(int(hangs[1]), signal.SIGKILL)
        example.finish()
    assert sorted(finished_tasks(example)) == list(range(1, 21))
    assert not [line for line in example.lines if line.startswith("boss: ")]


def test_edge_commands_survive_a_server_killed_while_the_device_works(server: ServerProcess, tmp_path: Path) -> None:
    """A command that was done and not confirmed comes again; the device knows it and does it once."""
    with Example("offline_edge", server.url, tmp_path) as example:
        example.read_to("pump: done: close the valve")
        crash(server)
        example.read_to("pump: done: restart the camera")
        crash(server)
        assert example.finish() == RESULTS["offline_edge"]
    done = [line for line in example.lines if line.startswith("pump: done: ")]
    assert [line.removeprefix("pump: done: ") for line in done] == [
        "close the valve (critical)", "restart the camera (urgent)", "set pressure to 2.4 bar (normal)", "upload the logs (low)",
    ]  # fmt: skip


def test_edge_commands_survive_a_server_killed_while_the_device_is_away(server: ServerProcess, tmp_path: Path) -> None:
    with Example("offline_edge", server.url, tmp_path) as example:
        example.read_to("controller: 6 commands sent")
        crash(server)
        assert example.finish() == RESULTS["offline_edge"]


def test_a_result_survives_a_server_killed_while_the_planner_is_away(server: ServerProcess, tmp_path: Path) -> None:
    with Example("task_result", server.url, tmp_path) as example:
        example.read_to("analyst: working on job 1")
        crash(server)
        assert example.finish() == RESULTS["task_result"]


def test_questions_survive_a_server_killed_before_they_are_answered(server: ServerProcess, tmp_path: Path) -> None:
    with Example("request_reply", server.url, tmp_path) as example:
        example.read_to("asker: chat is cat")
        crash(server)
        example.finish()
    assert example.lines[-1].endswith("not answered: tomorrow")


@pytest.mark.anyio
async def test_an_answer_that_comes_again_is_no_new_one(shared_server: ServerProcess) -> None:
    """As after a crash between what an asker got and its confirmation."""
    collect = runpy.run_path(str(EXAMPLES / "request_reply.py"))["collect"]
    words = ["chat", "maison", "hippopotame", "tomorrow"]
    async with mq9.connect(shared_server.url) as asker:
        answers = await asker.mailbox_create(ttl=60)
        for word in ("chat", "chat", "maison", "hippopotame"):
            await asker.send(answers, word.upper(), headers={"correlation-id": word})
        questions = {word: word for word in words}
        assert await collect(asker, answers, questions) == {word: word.upper() for word in words[:3]}
        assert list(questions) == ["tomorrow"]
