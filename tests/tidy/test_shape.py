"""The tail of the code: no function, file, nesting or parameter list longer than a person reads in one go (style.md)."""

from __future__ import annotations

import ast
import re

from tests.tidy.sources import CODE, SUPPORT, Function, functions, python

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
TEST_FILE_LINES_MAX = 800
MAIN_LINES_MAX = 80  # `__main__` builds and runs, nothing else
NESTING_MAX = 4
PARAMETERS_MAX = 6

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)

INSTALLED = python(*CODE)
EVERYTHING = python(*CODE, *SUPPORT)


def _file_lines_max(path: str) -> int:
    if path.endswith("__main__.py"):
        return MAIN_LINES_MAX
    return TEST_FILE_LINES_MAX if path.startswith("tests/") else FILE_LINES_MAX


def test_file_length() -> None:
    long = [
        f"{source.path}: {source.line_count} lines, limit {_file_lines_max(source.path)}"
        for source in EVERYTHING
        if source.line_count > _file_lines_max(source.path)
    ]
    assert not long


def test_function_length() -> None:
    """From `def` to the last line, docstring included, decorators not."""
    long = [
        f"{where}: {lines} lines"
        for where, function in functions(*EVERYTHING)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long


def _is_elif(body: list[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.If)


def _depth(statements: list[ast.stmt]) -> int:
    """How deep blocks are nested inside each other here; an `elif` is as deep as its `if`."""
    deepest = 0
    for statement in statements:
        if not isinstance(statement, BLOCKS):
            continue
        bodies = [getattr(statement, field, []) for field in ("body", "orelse", "finalbody")]
        bodies += [part.body for part in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]]
        for body in bodies:
            is_elif = isinstance(statement, ast.If) and body is statement.orelse and _is_elif(body)
            deepest = max(deepest, _depth(body) + (0 if is_elif else 1))
    return deepest


def test_nesting() -> None:
    deep = [
        f"{where}: {depth} levels"
        for where, function in functions(*EVERYTHING)
        if (depth := _depth(function.body)) > NESTING_MAX
    ]
    assert not deep


def _parameters(function: Function) -> int:
    """How many, without self and cls."""
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return len([argument for argument in arguments if argument.arg not in ("self", "cls")])


def _may_have_many(where: str, function: Function) -> bool:
    """A test takes its fixtures and cases, a Hypothesis rule its draws; a Typer command declares each option as a parameter."""
    is_command = where.startswith("mq9/cli/") and any("Annotated" in ast.unparse(arg) for arg in function.args.args)
    is_rule = any(ast.unparse(decorator).startswith("rule(") for decorator in function.decorator_list)
    return is_command or is_rule or function.name.startswith("test_")


def test_parameters() -> None:
    many = [
        f"{where}: {_parameters(function)} parameters"
        for where, function in functions(*EVERYTHING)
        if _parameters(function) > PARAMETERS_MAX and not _may_have_many(where, function)
    ]
    assert not many


def test_no_unfinished_work() -> None:
    """What is not done is not there."""
    unfinished = [
        f"{source.path}: {word}"
        for source in INSTALLED
        for word in ("TODO", "FIXME", "XXX", "NotImplementedError")
        if word in source.text
    ]
    assert not unfinished


def _reason(line: str) -> list[str]:
    """The words of the line's comment that are not a linter's."""
    comment = line.partition("#")[2]
    return re.sub(r"noqa:?\s*[A-Z0-9, ]*|type: ignore\[.*?\]|pragma:.*", "", comment).split()


def test_no_exception_is_swallowed() -> None:
    """`except Exception` and wider only with a comment on its line that says why."""
    bare = []
    for source in INSTALLED:
        lines = source.text.splitlines()
        handlers = [node for node in ast.walk(source.tree) if isinstance(node, ast.ExceptHandler)]
        for handler in handlers:
            kind = ast.unparse(handler.type) if handler.type else ""
            line = lines[handler.lineno - 1]
            if kind in ("", "Exception", "BaseException") and len(_reason(line)) < 3:
                bare.append(f"{source.path}:{handler.lineno} {line.strip()}")
    assert not bare


def test_every_module_says_what_it_owns() -> None:
    """A docstring on every module that has anything in it."""
    silent = [source.path for source in INSTALLED if source.tree.body and not ast.get_docstring(source.tree)]
    assert not silent
