"""Every example does what its page says, against a real server, two side by side; and the page names every example."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.examples.programs import EXAMPLES, TIMEOUT_S, Example, user_environment
from tests.support.server import ServerProcess

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
ROW = re.compile(
    r"^\|[^|]+\| \[(\w+)\.py\]\(\1\.py\) \|[^|]+\| `python docs/examples/\1\.py` \| `(result: .+)` \|$", re.MULTILINE
)
RESULTS = dict(ROW.findall((EXAMPLES / "README.md").read_text()))

Run = Callable[[str], tuple[Example, Example]]


@pytest.fixture(scope="module")
def run(session_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run(name) -> two finished processes of that example, which ran at the same time. They run once for this module."""

    @cache
    def finished(name: str) -> tuple[Example, Example]:
        with ExitStack() as running:
            one, other = (
                running.enter_context(Example(name, session_server.url, tmp_path_factory.mktemp(name))) for _ in range(2)
            )
            one.finish()
            other.finish()
        return one, other

    return finished


def pattern_of(result: str) -> str:
    """The page's last line as a regular expression; `...` stands for anything."""
    return ".*".join(map(re.escape, result.split("...")))


def test_the_page_has_every_example() -> None:
    assert sorted(RESULTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_example_ends_as_the_page_says(name: str, run: Run) -> None:
    for example in run(name):
        assert re.fullmatch(pattern_of(RESULTS[name]), example.lines[-1])
        assert example.log == ""


def test_the_address_may_be_given_as_an_argument(shared_server: ServerProcess, tmp_path: Path) -> None:
    with Example("task_result", "nats://127.0.0.1:1", tmp_path, shared_server.url) as example:
        assert example.finish() == RESULTS["task_result"]


# The pump has the patience of a device whose network comes and goes: it tries for half a minute.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "offline_edge"])
def test_without_a_server_an_example_says_so_and_ends(name: str) -> None:
    url = "nats://127.0.0.1:1"
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"], env=user_environment(url), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    *before, last = done.stderr.splitlines()
    assert f"cannot connect to {url}: " in last
    assert not [line for line in before if "encountered error" in line]


def test_a_result_is_stored_while_the_planner_is_away(run: Run) -> None:
    for example in run("task_result"):
        steps = ("planner: the job is handed out; going offline", "analyst: the result is stored", RESULTS["task_result"])
        assert [line for line in example.lines if line in steps] == list(steps)


def test_a_killed_agent_is_gone_and_its_last_word_is_not(run: Run) -> None:
    for example in run("status_awareness"):
        together, late, _ = example.lines
        assert together == "dashboard: both are painting; in the registry: ada, bob"
        painted = re.fullmatch(r"dashboard that came late: ada is at fence (\d+), bob's last word was fence (\d+)", late)
        assert painted is not None
        ada, bob = map(int, painted.groups())
        assert ada > bob >= 3


def test_a_task_of_a_killed_worker_is_done_by_another(run: Run) -> None:
    for example in run("task_broadcast"):
        assert example.lines[0].startswith("ada: hangs in task 1 ")
        killed = example.lines.index("boss: only task 1 is missing; ada is killed")
        assert re.fullmatch(r"(bob|cyd): finished task 1", example.lines[killed + 1])
        done = [int(line.rpartition(" ")[2]) for line in example.lines if ": finished task " in line]
        assert sorted(done) == list(range(1, 21))


def test_alerts_come_to_the_late_most_urgent_first_and_to_the_pager_only_if_critical(run: Run) -> None:
    for example in run("alert_broadcast"):
        said = [line.split(": ") for line in example.lines]
        heard = {who: [each[1] for each in said if each[0] == who] for who in ("pager", "logbook", "analyst")}
        assert heard["pager"] == ["critical"]
        assert sorted(heard["logbook"]) == ["critical", "low", "normal", "urgent"]
        assert heard["analyst"] == ["critical", "urgent", "normal", "low"]


def test_edge_commands_are_done_in_order_and_what_is_stale_never(run: Run) -> None:
    for example in run("offline_edge"):
        assert [line for line in example.lines if line.startswith("pump: ")] == [
            "pump: online",
            "pump: done: close the valve (critical)",
            "pump: done: restart the camera (urgent)",
            "pump: has no power for: set pressure to 2.4 bar",
            "pump: offline",
            "pump: online",
            "pump: done: set pressure to 2.4 bar (normal)",
            "pump: done: upload the logs (low)",
            "pump: offline",
        ]


def test_an_agent_that_left_is_not_found_any_more(run: Run) -> None:
    for example in run("capability_discovery"):
        assert [line for line in example.lines if line.startswith("customer: ")] == [
            "customer: found lex, poly, monet, best first",
            "customer: lex did: page 1",
            "customer: found poly, monet, best first",
            "customer: poly did: page 2",
        ]


def test_a_person_reads_the_request_before_the_agent_acts(run: Run) -> None:
    for example in run("human_approval"):
        reads, result = example.lines
        assert reads.startswith("person: reads (urgent): May I delete 1204 log files of last year? Answer: mq9 send ")
        assert result == RESULTS["human_approval"]
