"""Tests use real parts or the fakes we ship: no mocking library, no patching of our own modules, no sleeping."""

from __future__ import annotations

import ast

from tests.tidy.sources import imports, python

TESTS = tuple(source for source in python("tests") if not source.path.startswith("tests/tidy/"))

# A hold that is itself the thing under test, or a program for people: not a way to wait for something.
SLEEPS_ALLOWED: dict[str, str] = {}



def _calls() -> list[tuple[str, str]]:
    """(where, called name as written) of every call in every test file."""
    return [
        (f"{source.path}:{node.lineno}", ast.unparse(node.func))
        for source in TESTS
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
    ]


def test_no_mocks() -> None:
    mocks = [
        f"{source.path}:{line} {module}"
        for source in TESTS
        for line, module in imports(source)
        if module.partition(".")[0] in ("mock", "pytest_mock", "unittest")
    ]
    assert not mocks


def test_no_sleeping() -> None:
    """Wait for what happens, with a deadline; or own the clock. A sleep is either too short or too long."""
    sleeps = [where for where, call in _calls() if call.split(".")[-1] == "sleep"]
    assert not [where for where in sleeps if where.partition(":")[0] not in SLEEPS_ALLOWED]


def test_no_patching() -> None:
    """monkeypatch sets the environment, the working directory or the import path, never an attribute."""
    assert not [where for where, call in _calls() if call in ("monkeypatch.setattr", "monkeypatch.delattr")]


def test_skips_give_a_reason() -> None:
    marks = ("pytest.mark.skipif", "pytest.mark.skip", "pytest.mark.xfail")
    bare = [
        f"{source.path}:{node.lineno}"
        for source in TESTS
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and (
            (ast.unparse(node.func) in marks and not any(keyword.arg == "reason" for keyword in node.keywords))
            or (ast.unparse(node.func) == "pytest.skip" and not (node.args or node.keywords))
        )
    ]
    assert not bare
