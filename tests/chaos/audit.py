"""Reading everything back from a server: by a fresh group, so that the common road is the one that is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tests.chaos.ledger import Claims, Found, body_of

# call(command, JSON body or raw payload, headers) -> the answer
Call = Callable[[str, Any, dict[str, str] | None], dict[str, Any]]

AUDITOR = "auditor"
REPEATS = 20


def find(
    call: Call, mailboxes: Iterable[str], groups: Iterable[tuple[str, str]], *, agents: bool = False, auditor: str = AUDITOR
) -> Found:
    """Everything in `mailboxes`, what `groups` are still given, and with `agents` who is registered. `auditor` is a group
    that nobody has used yet."""
    found = Found()
    for mailbox, group in groups:
        found.offered[f"{mailbox} {group}"] = [msg_id for msg_id, _ in _drain(call, mailbox, group, found)]
    for mailbox in mailboxes:
        found.messages[mailbox] = _drain(call, mailbox, auditor, found)
    if agents:
        found.agents = sorted(_agents(call, found))
    return found


def sample(claims: Claims, mailboxes: Iterable[str]) -> list[tuple[str, str]]:
    """(mailbox, name) of some acknowledged messages, spread over the run."""
    chosen = []
    for mailbox in mailboxes:
        acknowledged = [name for name, ids in claims.sends[mailbox].items() if ids]
        chosen += [(mailbox, name) for name in acknowledged[:: max(1, len(acknowledged) // REPEATS)]]
    return chosen


def repeat(call: Call, names: Iterable[tuple[str, str]], found: Found) -> None:
    """Send these messages again, under their mq9-msg-id, and note the ids answered."""
    for mailbox, name in names:
        answer = call(f"MSG.SEND.{mailbox}", body_of(name), {"mq9-msg-id": name})
        if not answer["error"]:
            found.repeated[f"{mailbox} {name}"] = answer["msg_id"]
        else:
            assert answer["code"] == "MAILBOX_NOT_FOUND", answer  # then what it held is found to be lost


def _drain(call: Call, mailbox: str, group: str, found: Found) -> list[tuple[int, str]]:
    """Everything the group is given, up to the end or to a refusal, which is noted."""
    rows: list[tuple[int, str]] = []
    config = {"num_msgs": 1000, "max_wait_ms": 0}
    while True:
        answer = call(
            f"MSG.FETCH.{mailbox}", {"group_name": group, "deliver": "earliest", "encoding": "text", "config": config}, None
        )
        if answer["error"]:
            found.refused[f"{mailbox} {group}"] = answer["code"]
            return rows
        messages = answer["messages"]
        if not messages:
            return rows
        rows += [(message["msg_id"], message["payload"]) for message in messages]
        confirmed = call(f"MSG.ACK.{mailbox}", {"group_name": group, "msg_id": messages[-1]["msg_id"]}, None)
        if confirmed["error"]:
            found.refused[f"{mailbox} {group}"] = confirmed["code"]
            return rows


def _agents(call: Call, found: Found) -> set[str]:
    agents: set[str] = set()
    page = 1
    while True:
        answer = call("AGENT.DISCOVER", {"limit": 1000, "page": page}, None)
        if answer["error"]:
            found.refused["agents"] = answer["code"]
            return agents
        agents |= {agent["name"] for agent in answer["agents"]}
        if len(agents) >= answer["total"] or not answer["agents"]:
            return agents
        page += 1
