"""`mq9 watch` in front of a person: mail as it comes, most urgent first, until Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.examples.programs import MQ9, TIMEOUT_S, Example, Terminal, mq9_lines, user_environment
from tests.support.process import Process
from tests.support.server import ServerProcess

CTRL_C = b"\x03"

Watch = Callable[..., Process]


@pytest.fixture
def box(shared_server: ServerProcess) -> str:
    """A mailbox of this test alone."""
    return str(shared_server.raw().call(b"$mq9.AI.MAILBOX.CREATE")["mail_address"])


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """watch(server, box, *options) -> `mq9 watch --raw` with its output in a pipe."""
    started: list[Process] = []

    def start(server: ServerProcess, *arguments: str) -> Process:
        process = Process([*MQ9, "watch", "--raw", *arguments], tmp_path / "watch.log", user_environment(server.url))
        started.append(process)
        process.spawn()
        return process

    yield start
    for process in started:
        process.kill()


def make(server: ServerProcess, box: str) -> None:
    assert server.raw().call(b"$mq9.AI.MAILBOX.CREATE", {"name": box})["error"] == ""


def send(server: ServerProcess, box: str, text: str, **headers: str) -> None:
    """Headers by their names less `mq9-`."""
    named = {f"mq9-{name}": value for name, value in headers.items()}
    assert server.raw().call(b"$mq9.AI.MSG.SEND." + box.encode(), text.encode(), headers=named)["error"] == ""


def shown(screen: str) -> list[str]:
    """Of each message on a screen: its id and priority, then its text."""
    return re.findall(r"#\d+  \w+|(?<=\n)\w+ mail", re.sub(r"\x1b\[\d*m", "", screen))


@pytest.mark.parametrize("options", [(), ("--group", "ada"), ("--tag", "work")], ids=["all", "group", "tag"])
def test_a_terminal_shows_stored_mail_then_new_mail_as_it_comes(
    shared_server: ServerProcess, box: str, options: tuple[str, ...]
) -> None:
    send(shared_server, box, "stored mail", tags="work")
    send(shared_server, box, "urgent mail", tags="work", priority="critical")
    with Terminal(shared_server.url, *MQ9, "watch", box, *options) as terminal:
        screen = terminal.read_to("stored mail")
        assert screen.startswith(f"watching {box}; end with Ctrl-C\n")
        send(shared_server, box, "new mail", tags="work")
        terminal.read_to("new mail")
        terminal.type(CTRL_C)
        assert terminal.wait() == 0
    expected = ["#2  critical", "urgent mail", "#1  normal", "stored mail", "#3  normal", "new mail"]
    assert shown(terminal.screen) == expected
    assert "Traceback" not in terminal.screen


def test_a_message_cannot_repaint_the_terminal(shared_server: ServerProcess, box: str) -> None:
    send(shared_server, box, "\x1b[2Jwiped mail")
    with Terminal(shared_server.url, *MQ9, "watch", box, "--count", "1") as terminal:
        screen = terminal.read_to("wiped mail")
        assert terminal.wait() == 0
    assert "\x1b[2J" not in screen


@pytest.mark.parametrize("options", [(), ("--group", "ada")], ids=["all", "group"])
def test_an_interrupt_is_how_a_watch_ends(
    shared_server: ServerProcess, box: str, watch: Watch, options: tuple[str, ...]
) -> None:
    send(shared_server, box, "hello")
    watching = watch(shared_server, box, *options)
    assert watching.read_line() == "hello\n"
    watching.signal(signal.SIGINT)
    assert watching.wait() == 0
    assert watching.log == ""


def test_what_a_group_was_shown_is_confirmed_and_not_shown_again(shared_server: ServerProcess, box: str, watch: Watch) -> None:
    for text in ("one", "two", "three", "four"):
        send(shared_server, box, text)
    two = mq9_lines(shared_server.url, "watch", box, "--group", "ada", "--count", "2", "--json")
    assert [json.loads(line)["payload"] for line in two] == ["one", "two"]
    watching = watch(shared_server, box, "--group", "ada")
    assert [watching.read_line(), watching.read_line()] == ["three\n", "four\n"]
    watching.signal(signal.SIGINT)
    watching.wait()
    send(shared_server, box, "five")
    assert mq9_lines(shared_server.url, "watch", box, "--group", "ada", "--count", "1", "--raw") == ["five"]
    assert mq9_lines(shared_server.url, "watch", box, "--count", "5", "--raw") == ["one", "two", "three", "four", "five"]


def test_a_watch_of_what_comes_from_now_on(shared_server: ServerProcess, box: str, watch: Watch) -> None:
    send(shared_server, box, "old")
    watching = watch(shared_server, box, "--deliver", "latest", "--count", "1")
    sender = shared_server.raw()
    while watching.running:  # it does not say when its now is
        sender.call(b"$mq9.AI.MSG.SEND." + box.encode(), b"new")
    assert watching.read_line() == "new\n"


def test_a_watch_from_an_id(shared_server: ServerProcess, box: str) -> None:
    for text in ("one", "two", "three"):
        send(shared_server, box, text)
    assert mq9_lines(shared_server.url, "watch", box, "--from-id", "2", "--count", "2", "--raw") == ["two", "three"]


def test_a_watch_outlives_a_killed_server_and_repeats_nothing(server: ServerProcess, watch: Watch) -> None:
    make(server, "watched")
    send(server, "watched", "one")
    send(server, "watched", "two", priority="urgent")
    watching = watch(server, "watched")
    assert [watching.read_line(), watching.read_line()] == ["two\n", "one\n"]
    server.kill()
    server.start()
    send(server, "watched", "three")
    assert watching.read_line() == "three\n"


def test_a_mailbox_made_anew_is_shown_from_its_beginning(server: ServerProcess, watch: Watch) -> None:
    """Its ids begin with 1 again, as do those that were seen already."""
    make(server, "watched")
    send(server, "watched", "one")
    watching = watch(server, "watched")
    assert watching.read_line() == "one\n"
    server.raw().call(b"$mq9.AI.MAILBOX.REMOVE.watched")
    make(server, "watched")
    send(server, "watched", "another one")
    assert watching.read_line() == "another one\n"


def test_an_address_that_is_not_there_is_said_at_once(shared_server: ServerProcess) -> None:
    for options in ((), ("--group", "ada")):
        done = subprocess.run(
            [*MQ9, "watch", "watch.nobody", *options], env=user_environment(shared_server.url), capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (5, "error: mailbox watch.nobody does not exist (MAILBOX_NOT_FOUND)\n")


# --- The person of docs/examples/human_approval.py ----------------------------------------------------------------


@pytest.mark.parametrize(("answer", "outcome"), [("yes", "the files are deleted"), ("no", "nothing is deleted")])
def test_a_person_decides(answer: str, outcome: str, shared_server: ServerProcess, tmp_path: Path) -> None:
    with Example("human_approval", shared_server.url, tmp_path, "--person") as example:
        told = re.search(r"mq9 (watch \w+ --server \S+)", example.read_to("you are the person"))
        assert told is not None
        with Terminal(shared_server.url, *MQ9, *told[1].split()) as terminal:
            screen = terminal.read_to(" yes\n")
            terminal.type(CTRL_C)
            assert terminal.wait() == 0
        assert "urgent" in screen
        request = re.search(r"May I delete .* Answer: mq9 (send \w+) yes", screen)
        assert request is not None
        mq9_lines(shared_server.url, *request[1].split(), answer)
        assert example.finish() == f"result: the answer is {answer}; {outcome}"


def test_without_an_answer_nothing_is_done_and_the_request_is_gone(shared_server: ServerProcess, tmp_path: Path) -> None:
    with Example("human_approval", shared_server.url, tmp_path, "--person", "--deadline", "0.5") as example:
        told = re.search(r"mq9 watch (\w+)", example.read_to("you are the person"))
        assert told is not None
        example.read_to("agent: no answer within 0.5 s")
        assert example.finish() == "result: the answer is missing; nothing is deleted"
    assert mq9_lines(shared_server.url, "query", told[1]) == []
