"""Reading everything back from a server: by a fresh group, so that the common road is the one that is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tests.chaos.ledger import Claims, Found, body_of

# call(command, JSON body or raw payload, headers) -> the answer
Call = Callable[[str, Any, dict[str, str] | None], dict[str, Any]]

AUDITOR = "auditor"
REPEATS = 20


def find(call: Call, mailboxes: Iterable[str], groups: Iterable[tuple[str, str]], *, agents: bool = False) -> Found:
    """Everything in `mailboxes`, what `groups` are still given, and with `agents` who is registered."""
    found = Found()
    for mailbox, group in groups:
        found.offered[f"{mailbox} {group}"] = [msg_id for msg_id, _ in _drain(call, mailbox, group)]
    for mailbox in mailboxes:
        found.messages[mailbox] = _drain(call, mailbox, AUDITOR)
    if agents:
        found.agents = sorted(_agents(call))
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


def _drain(call: Call, mailbox: str, group: str) -> list[tuple[int, str]]:
    rows: list[tuple[int, str]] = []
    config = {"num_msgs": 1000, "max_wait_ms": 0}
    while True:
        answer = call(
            f"MSG.FETCH.{mailbox}", {"group_name": group, "deliver": "earliest", "encoding": "text", "config": config}, None
        )
        if answer["error"]:
            # A mailbox whose CREATE was never acknowledged need not be there.
            assert answer["code"] == "MAILBOX_NOT_FOUND", answer
            return rows
        messages = answer["messages"]
        if not messages:
            return rows
        rows += [(message["msg_id"], message["payload"]) for message in messages]
        confirmed = call(f"MSG.ACK.{mailbox}", {"group_name": group, "msg_id": messages[-1]["msg_id"]}, None)
        assert not confirmed["error"], confirmed


def _agents(call: Call) -> set[str]:
    agents: set[str] = set()
    page = 1
    while True:
        answer = call("AGENT.DISCOVER", {"limit": 1000, "page": page}, None)
        assert not answer["error"], answer
        agents |= {agent["name"] for agent in answer["agents"]}
        if len(agents) >= answer["total"] or not answer["agents"]:
            return agents
        page += 1
