"""Agents in files, as JSON objects. What cannot be read is a usage error that names the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer


def read(path: Path) -> str:
    """The text of a file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise typer.BadParameter(f"cannot read {path}: {failure}") from None


def one(text: str, where: str) -> dict[str, Any]:
    """The one JSON object that `text` is."""
    return _object(_parsed(text, where), where)


def many(text: str, where: str) -> list[dict[str, Any]]:
    """The agents of a file: a JSON array, one object, or one object a line."""
    stripped = text.strip()
    try:
        whole = json.loads(stripped or "[]")
    except ValueError:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        return [one(line, f"{where}, line {number}") for number, line in lines]
    items = whole if isinstance(whole, list) else [whole]
    return [_object(item, f"{where}, agent {number}") for number, item in enumerate(items, 1)]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as failure:
        raise typer.BadParameter(f"{where} is not JSON: {failure}") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{where} is not a JSON object")
    return value
