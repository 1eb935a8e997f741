"""The project's own files, parsed once, for the tidy tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("mq9", "broker_node", "meta_service")  # what users install
SUPPORT = ("tests", "bench", "docs", "scripts")
SKIPPED = {"__pycache__", "node_modules", "target", "build", "dist", "mq9-data"}
GENERATED = ("_pb2.py", "_pb2_grpc.py")  # made from proto/, read by nobody
TEXT_SUFFIXES = {
    ".c", ".cfg", ".go", ".html", ".java", ".js", ".json", ".lock", ".md", ".mjs", ".mod", ".proto", ".py", ".rs", ".sh", ".sum",
    ".toml", ".ts", ".txt", ".xml", ".yaml", ".yml", "",
}  # fmt: skip

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file. `path` is relative to the repository, with slashes; `module` is its dotted name."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def line_count(self) -> int:
        return self.text.count("\n") + 1


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in SKIPPED:
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


@cache
def python(*folders: str) -> tuple[Source, ...]:
    """Every Python file of these top-level folders."""
    found = []
    for folder in folders:
        if not (ROOT / folder).is_dir():
            continue
        for path in _files(ROOT / folder):
            first_line = b"" if path.suffix else path.read_bytes()[:40]
            if path.name.endswith(GENERATED):
                continue
            if path.suffix == ".py" or (first_line.startswith(b"#!") and b"python" in first_line):
                text = path.read_text()
                found.append(Source(path.relative_to(ROOT).as_posix(), text, ast.parse(text, str(path))))
    return tuple(found)


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """(path, text) of every text file that is or may be committed."""
    folders = [ROOT / name for name in (*CODE, *SUPPORT, "proto", "helm", ".ci") if (ROOT / name).is_dir()]
    paths = [path for folder in folders for path in _files(folder)]
    paths += [path for path in ROOT.iterdir() if path.is_file()]
    return tuple(
        (path.relative_to(ROOT).as_posix(), path.read_text(errors="replace"))
        for path in paths
        if path.suffix in TEXT_SUFFIXES and path.name != ".git"
    )


def functions(*sources: Source) -> Iterator[tuple[str, Function]]:
    """(where, function) for every function and method of these files, nested ones too."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{source.path}:{node.lineno} {node.name}", node


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, those inside functions and under TYPE_CHECKING too.

    `from a import b` counts as `a.b` when that is a module of this project, else as `a`.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for alias in node.names:
                path = ROOT / (module.replace(".", "/")) / alias.name
                is_module = path.is_dir() or path.with_suffix(".py").exists()
                yield node.lineno, f"{module}.{alias.name}" if is_module else module
