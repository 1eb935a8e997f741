"""mq9 agent"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from mq9.cli import agent_files
from tests.cli.conftest import Cli

CARD = {"name": "cli.card.agent", "description": "paints aquarelles", "skills": [{"id": "paint", "name": "Paint"}]}


def _names(cli: Cli, *arguments: str) -> list[str]:
    return [agent["name"] for agent in cli.ok("agent", *arguments, "--json").json["agents"]]


def test_register_report_discover_unregister(cli: Cli) -> None:
    options = ["--description", "juggles chainsaws", "--tag", "cli-test", "--mailbox", "cli.agent.box"]
    cli.ok("agent", "register", "cli.agent", *options)
    cli.ok("agent", "report", "cli.agent", "--status", "busy", "--info", "3 in the air", "--field", "load=0.7")
    assert _names(cli, "discover", "chainsaws", "--keywords") == ["cli.agent"]
    assert "cli.agent" in _names(cli, "discover", "somebody who can juggle")
    line = cli.ok("agent", "discover", "chainsaws", "--keywords").lines[0].split("\t")
    assert line[:3] == ["cli.agent", "cli.agent.box", "busy"]
    assert line[-1] == "juggles chainsaws"
    assert "cli.agent" in _names(cli, "ls", "--tag", "cli-test")
    assert cli.ok("agent", "unregister", "cli.agent", "--json").json == {"unregistered": "cli.agent"}
    assert cli("agent", "unregister", "cli.agent").code == 5
    assert cli("agent", "report", "cli.agent").code == 5


def test_register_with_a_card(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    file.write_text(json.dumps(CARD))
    cli.ok("agent", "register", "cli.card.agent", "--card", str(file))
    assert _names(cli, "discover", "aquarelles", "--keywords") == ["cli.card.agent"]
    cli.ok("agent", "register", "cli.card.agent", "--card", "-", stdin=json.dumps({**CARD, "description": "paints frescoes"}))
    assert _names(cli, "discover", "aquarelles", "--keywords") == []
    cli.ok("agent", "unregister", "cli.card.agent")


@pytest.mark.parametrize("form", ["lines", "array"])
def test_load(cli: Cli, tmp_path: Path, form: str) -> None:
    agents = [{"name": f"cli.load.{form}.{number}", "payload": f"loads cargo{form}"} for number in range(150)]
    file = tmp_path / "agents.json"
    file.write_text("\n".join(map(json.dumps, agents)) if form == "lines" else json.dumps(agents))
    assert cli.ok("agent", "load", str(file), "--ttl", "1h", "--json").json == {"registered": 150}
    assert len(_names(cli, "discover", f"cargo{form}", "--keywords", "--limit", "200")) == 150


def test_a_file_that_is_wrong_names_the_place(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "agents.json"
    file.write_text('{"name": "a"}\n{"name": \n')
    done = cli("agent", "load", str(file))
    assert done.code == 2
    assert "line 2" in done.err
    assert cli("agent", "load", str(tmp_path / "missing.json")).code == 2
    file.write_text('[{"name": "cli.fine"}, {"no": "name"}]')
    done = cli("agent", "load", str(file))
    assert (done.code, "agent name must not be empty" in done.err) == (1, True)


@contextmanager
def _website(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """An HTTP server with these answers; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers.get(self.path, (404, b""))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return  # the test says what happened

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("place", ["/.well-known/agent-card.json", "/.well-known/agent.json"])
def test_import_from_a_host(cli: Cli, place: str) -> None:
    with _website({place: (200, json.dumps(CARD).encode())}) as url:
        assert cli.ok("agent", "import", url, "--allow-private").out == "cli.card.agent\n"
    assert _names(cli, "discover", "aquarelles", "--keywords") == ["cli.card.agent"]
    cli.ok("agent", "unregister", "cli.card.agent")


def test_import_under_another_name(cli: Cli) -> None:
    with _website({"/cards/1": (200, json.dumps(CARD).encode())}) as url:
        options = ["--name", "cli.renamed", "--mailbox", "cli.renamed.box", "--ttl", "1h", "--allow-private"]
        cli.ok("agent", "import", f"{url}/cards/1", *options)
    (agent,) = cli.ok("agent", "discover", "aquarelles", "--keywords", "--json").json["agents"]
    assert (agent["name"], agent["mailbox"]) == ("cli.renamed", "cli.renamed.box")
    cli.ok("agent", "unregister", "cli.renamed")


def test_import_of_what_is_no_card(cli: Cli) -> None:
    with _website({"/text.json": (200, b"hello"), "/error.json": (500, b"")}) as url:
        assert cli("agent", "import", f"{url}/text.json", "--allow-private").code == 1
        assert cli("agent", "import", f"{url}/error.json", "--allow-private").code == 3
        assert cli("agent", "import", url, "--allow-private").code == 5
        assert cli("agent", "import", url).code == 4  # this machine is no public address


def test_files_of_agents() -> None:
    assert agent_files.many("", "f") == []
    assert agent_files.many('{"a": 1}', "f") == [{"a": 1}]
    assert agent_files.many('\n{"a": 1}\n\n{"b": 2}\n', "f") == [{"a": 1}, {"b": 2}]
    assert agent_files.many('[{"a": 1}]', "f") == [{"a": 1}]
    with pytest.raises(typer.BadParameter, match="f, agent 2 is not a JSON object"):
        agent_files.many('[{"a": 1}, 5]', "f")
