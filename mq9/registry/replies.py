"""Agents as replies show them: the registered body, with the fields the broker answers for put over it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mq9.limits import FETCH_BYTES_MAX
from mq9.registry.agents import Agent
from mq9.registry.flatten import card_of
from mq9.registry.records import Registration, Report

REPLY_BYTES_MAX: Final = FETCH_BYTES_MAX  # of bodies in one reply; agents beyond it come without theirs
DESCRIPTION_CHARS_MAX: Final = 2000

_encoder: Final = msgspec.json.Encoder()


@dataclass(slots=True)
class Shown:
    """One agent of a reply. `report` is its last REPORT, if there was one since it registered."""

    agent: Agent
    registration: Registration
    report: Report | None
    score: float


def discover_reply(shown: Iterable[Shown], now_ms: int, **fields: Any) -> bytes:
    """The DISCOVER envelope; `fields` follow `agents`."""
    room = REPLY_BYTES_MAX
    agents = []
    for each in shown:
        room -= len(each.registration.body) + (len(each.report.body) if each.report else 0)
        agents.append(full_item(each, now_ms) if room >= 0 else short_item(each, now_ms))
    return _encoder.encode({"error": "", "agents": agents, **fields})


def full_item(shown: Shown, now_ms: int) -> dict[str, Any]:
    """Everything: the body as registered, our fields over it."""
    body: dict[str, Any] = msgspec.json.decode(shown.registration.body)
    card = card_of(body)
    item = {**body, **_common(shown, now_ms), "payload": _payload(body), "description": _description(body, card)}
    if card is not None:
        item["agent_card"] = card
    item["agent_info"] = shown.registration.body.decode()
    if shown.report is not None:
        item["report"] = msgspec.json.decode(shown.report.body)
    return item


def short_item(shown: Shown, now_ms: int) -> dict[str, Any]:
    """What a list or an overfull reply shows of an agent. `truncated` says that there is more under its name."""
    body: dict[str, Any] = msgspec.json.decode(shown.registration.body)
    description = _description(body, card_of(body))[:DESCRIPTION_CHARS_MAX]
    return {**_common(shown, now_ms), "payload": "", "description": description, "agent_info": "{}", "truncated": True}


def _common(shown: Shown, now_ms: int) -> dict[str, Any]:
    """Fields of every item. Times: last_seen, registered_at and expires_at are seconds since 1970, last_seen_ms milliseconds."""
    agent, registration = shown.agent, shown.registration
    item = {
        "name": agent.name,
        "mailbox": registration.mailbox,
        "mailbox_uri": registration.mailbox_uri,
        "agent_id": agent.name,
        "last_seen": agent.last_seen_ms // 1000,
        "last_seen_ms": agent.last_seen_ms,
        "registered_at": agent.created_ms // 1000,
        "status": agent.status_at(now_ms),
        "state": agent.state,
        "revision": registration.revision,
        "score": shown.score,
    }
    if agent.ttl_s:
        item["expires_at"] = agent.expires_ms // 1000
    return item


def _payload(body: dict[str, Any]) -> str:
    """`payload` as text: clients read it as a string, also when a card was registered as an object."""
    payload = body.get("payload")
    if payload is None:
        return ""
    return payload if isinstance(payload, str) else _encoder.encode(payload).decode()


def _description(body: dict[str, Any], card: dict[str, Any] | None) -> str:
    """The agent's own description, else its card's, else the text it registered as payload."""
    for source in (body, card or {}):
        found = source.get("description")
        if isinstance(found, str) and found:
            return found
    payload = body.get("payload")
    return payload if card is None and isinstance(payload, str) else ""
