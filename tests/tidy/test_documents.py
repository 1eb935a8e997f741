"""The documents say what the code says: tables are the code's, fields and commands are all named, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from broker_node.router.dispatch import command_table
from mq9.protocol import requests
from mq9.registry.requests import DiscoverRequest
from scripts.docs_tables import pages, rewritten
from tests.tidy.sources import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_are_the_codes(page: Path) -> None:
    """If not: make docs."""
    text = page.read_text()
    assert text == rewritten(text)


def test_every_table_is_in_a_page() -> None:
    from scripts.docs_tables import MARKED, TABLES  # noqa: PLC0415  only this test looks at them

    assert {match["name"] for page in pages() for match in MARKED.finditer(page.read_text())} == TABLES.keys()


def test_every_command_has_its_handler_file_and_the_other_way_round() -> None:
    files = {path.stem for path in (ROOT / "broker_node" / "handlers").glob("*_*.py")}
    commands = {"_".join(token.decode().lower() for token in noun_verb) for noun_verb in command_table()}
    modules = {command.handle.__module__.rpartition(".")[2] for command in command_table().values()}
    assert commands == modules
    # A file may hold what several handlers share; it then has no `handle`.
    assert {name for name in files if "def handle(" in (ROOT / f"broker_node/handlers/{name}.py").read_text()} == modules


def test_every_request_field_is_in_the_protocol_page() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    structs = [value for value in vars(requests).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)]
    missing = {
        f"{struct.__name__}.{field}"
        for struct in structs
        for field in struct.__struct_fields__
        if not re.search(rf"`(?:config\.)?{field}[`.]", text)
    }
    assert not missing


def test_every_discover_field_is_in_the_protocol_page() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    assert not [field for field in DiscoverRequest.__struct_fields__ if f"`{field}`" not in text]


def test_every_monitoring_page_is_in_the_operations_page() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    paths = re.findall(r"web\.get\(\"(/[^\"]+)\"", (ROOT / "broker_node" / "monitor" / "http.py").read_text())
    assert paths
    assert not [path for path in paths if f"`{path}`" not in text]


def test_every_limit_has_its_reason() -> None:
    from scripts.docs_tables import _limit_lines  # noqa: PLC0415  only this test looks at them

    assert not [name for _, name, reason in _limit_lines() if not reason]


def _targets(pattern: str) -> list[tuple[Path, str]]:
    """(document, target) of everything in the documents that `pattern` finds."""
    return [(document, target) for document in DOCUMENTS for target in re.findall(pattern, document.read_text())]


def test_links_lead_somewhere() -> None:
    links = _targets(r"\]\(([^)#]+)(?:#[^)]*)?\)")
    assert not [f"{page.name}: {to}" for page, to in links if "://" not in to and not (page.parent / to).exists()]


def test_files_that_documents_name_are_there() -> None:
    """Paths in backticks that look like files of ours."""
    paths = _targets(r"`((?:mq9|broker_node|tests|docs|scripts|bench)/[\w./-]+)`")
    assert not [f"{page.name}: {path}" for page, path in paths if not (ROOT / path).exists()]


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {path.name for path in folder.glob("[0-9]*.md")}


def test_architecture_is_short() -> None:
    assert (ROOT / "ARCHITECTURE.md").read_text().count("\n") < 300


def test_readme_begins_with_the_two_commands() -> None:
    first_block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first_block is not None
    assert [line.split("#")[0].strip() for line in first_block[1].splitlines()] == ["make run", "make test"]
