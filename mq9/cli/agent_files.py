"""Agents in files and behind URLs, as JSON objects. What cannot be read is a usage error that names the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import typer

from mq9.errors import NotFound, error, from_reply
from mq9.limits import AGENT_RECORD_BYTES_MAX

WELL_KNOWN: Final = ("/.well-known/agent-card.json", "/.well-known/agent.json")  # today's place, and the one before


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


def download(url: str, timeout_s: float) -> dict[str, Any]:
    """The AgentCard at `url`; at the well-known places of a host when the URL has no path."""
    parsed = urlsplit(url if "://" in url else f"https://{url}")
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise typer.BadParameter(f"{url!r} is not an http or https URL")
    if parsed.path.strip("/"):
        return one(_get(parsed.geturl(), timeout_s), url)
    base = f"{parsed.scheme}://{parsed.netloc}"
    for place in WELL_KNOWN[:-1]:
        try:
            return one(_get(base + place, timeout_s), base + place)
        except NotFound:
            continue
    return one(_get(base + WELL_KNOWN[-1], timeout_s), base + WELL_KNOWN[-1])


def _get(url: str, timeout_s: float) -> str:
    """The text behind `url`. Raises AGENT_NOT_FOUND for 404, UNAVAILABLE for everything else that is not an answer."""
    from urllib.error import HTTPError, URLError  # noqa: PLC0415  # 25 ms for this one command
    from urllib.request import urlopen  # noqa: PLC0415

    try:
        with urlopen(url, timeout=timeout_s) as response:  # noqa: S310  # the scheme was checked
            body: bytes = response.read(AGENT_RECORD_BYTES_MAX + 1)
    except HTTPError as failure:
        with failure:
            if failure.code == 404:
                raise from_reply("AGENT_NOT_FOUND", f"no AgentCard at {url}") from None
            raise error("UNAVAILABLE", reason=f"{url} answered {failure.code} {failure.reason}") from None
    except (URLError, OSError) as failure:
        raise error("UNAVAILABLE", reason=f"cannot read {url}: {getattr(failure, 'reason', failure)}") from None
    if len(body) > AGENT_RECORD_BYTES_MAX:
        raise error("PAYLOAD_TOO_LARGE", size=len(body), limit=AGENT_RECORD_BYTES_MAX)
    return body.decode("utf-8", "replace")
