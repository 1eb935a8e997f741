"""What a server was asked and what it answered; what that promises; and whether what is found later keeps the promises.

The ledger is a list of events, so the same run can be judged at its end (after a kill) or at any moment of it (after a
power cut that is replayed from a trace): `claims` takes the answers that had been given by then.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from tests.chaos.tally import Tally

Group = tuple[str, str]  # mailbox, group


class Send(NamedTuple):
    """A SEND with the mq9-msg-id `name`; its body is `body_of(name)`."""

    mailbox: str
    name: str


class Ack(NamedTuple):
    mailbox: str
    group: str
    msg_ids: tuple[int, ...]


class Pin(NamedTuple):
    """The first FETCH of a group: what it answers says where the group begins."""

    mailbox: str
    group: str


class Keyed(NamedTuple):
    """The `number`-th message of an mq9-key, sent when the one before was answered or given up."""

    mailbox: str
    key: str
    number: int


class Remove(NamedTuple):
    """A DELETE of the message that `name` is."""

    mailbox: str
    name: str


class Register(NamedTuple):
    """AGENT.REGISTER, or UNREGISTER."""

    agent: str
    away: bool


Ask = Send | Ack | Pin | Keyed | Remove | Register


def body_of(name: str) -> bytes:
    """What the message of that name says: a wrong body is known without having kept the right one. Up to 500 bytes long,
    or as many KiB as the name says behind a `!`."""
    check = zlib.crc32(name.encode())
    kibibytes = name.partition("!")[2]
    words = int(kibibytes) * 128 if kibibytes else 1 + check % 60
    return b"%b " % name.encode() + b"%08x" % check * words


class Ledger:
    """Asks by reply subject, in order, and the answers there were."""

    def __init__(self) -> None:
        self.asks: dict[bytes, Ask] = {}
        self.answers: dict[bytes, Any] = {}
        self.refusals: dict[str, int] = defaultdict(int)  # by code
        self.acknowledged = 0  # sends
        self.confirmations = 0  # acknowledgements that were answered: the time by which they are ordered
        self.confirmed_at: dict[Group, dict[int, int]] = defaultdict(dict)  # by group: id -> when it was confirmed

    def asked(self, reply: bytes, ask: Ask) -> None:
        self.asks[reply] = ask

    def answered(self, reply: bytes, payload: bytes) -> Any:
        """Note an answer; the answer decoded, or None when it is a refusal."""
        answer = msgspec.json.decode(payload)
        if answer["error"]:
            self.refusals[answer["code"]] += 1
            return None
        self.answers[reply] = answer
        self.acknowledged += isinstance(self.asks[reply], Send)
        return answer

    def claims(self, answers: Mapping[bytes, Any] | None = None) -> Claims:
        """What the answers promise: those given so far, or those of another moment."""
        return Claims(self.asks, self.answers if answers is None else answers)


class Claims:
    """What has been promised."""

    def __init__(self, asks: Mapping[bytes, Ask], answers: Mapping[bytes, Any]) -> None:
        self.sends: dict[str, dict[str, set[int]]] = defaultdict(dict)  # mailbox -> name -> ids answered
        self.confirmed: dict[Group, set[int]] = defaultdict(set)
        self.maybe_confirmed: dict[Group, set[int]] = defaultdict(set)
        self.starts: dict[Group, int] = {}
        self.maybe_started: set[Group] = set()  # a Pin without an answer: the group may begin anywhere
        self.keys: dict[Group, tuple[int, int]] = {}  # (mailbox, key) -> (last answered, last asked)
        self.removed: set[Group] = set()  # (mailbox, name)
        self.maybe_removed: set[Group] = set()
        self.agents: dict[str, bool | None] = {}  # agent -> is there, or None: both are right
        for reply, ask in asks.items():
            self._take(ask, answers.get(reply))

    def _take(self, ask: Ask, answer: Any) -> None:
        match ask:
            case Send():
                ids = self.sends[ask.mailbox].setdefault(ask.name, set())
                if answer is not None:
                    ids.add(answer["msg_id"])
            case Ack():
                kind = self.maybe_confirmed if answer is None else self.confirmed
                kind[ask.mailbox, ask.group].update(ask.msg_ids)
            case Pin():
                if answer is None:
                    self.maybe_started.add(ask)
                else:
                    self.starts[ask] = answer["messages"][0]["msg_id"]
            case Keyed():
                answered, _ = self.keys.get(ask[:2], (0, 0))
                self.keys[ask[:2]] = (answered if answer is None else ask.number, ask.number)
            case Remove():
                (self.maybe_removed if answer is None else self.removed).add(ask)
            case Register():
                self.agents[ask.agent] = None if answer is None else not ask.away


@dataclass(slots=True)
class Found:
    """What a server holds: messages by mailbox, what each group is still given, and the agents."""

    messages: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    offered: dict[str, list[int]] = field(default_factory=dict)  # "mailbox group" -> ids
    agents: list[str] | None = None  # None: not looked at
    repeated: dict[str, int] = field(default_factory=dict)  # "mailbox name" -> the id a repeat was answered with
    refused: dict[str, str] = field(default_factory=dict)  # "mailbox group" -> the code that ended its reading


def judge(claims: Claims, found: Found) -> Tally:
    """Hold what was found against what was promised."""
    tally = Tally()
    for place, code in found.refused.items():
        # A mailbox whose CREATE was not acknowledged need not be there; what it held would be found to be lost.
        if code != "MAILBOX_NOT_FOUND":
            tally.wrong("missed", f"{place} cannot be read: {code}")
    for mailbox, rows in found.messages.items():
        _judge_mailbox(tally, claims, mailbox, rows)
    for place, offered in found.offered.items():
        _judge_group(tally, claims, found, place, offered)
    for place, msg_id in found.repeated.items():
        mailbox, _, name = place.partition(" ")
        if msg_id not in claims.sends[mailbox][name]:
            tally.wrong("duplicated", f"{place} was {claims.sends[mailbox][name]} and its repeat was answered {msg_id}")
    if found.agents is not None:
        _judge_agents(tally, claims, set(found.agents))
    return tally


def _judge_mailbox(tally: Tally, claims: Claims, mailbox: str, rows: Iterable[tuple[int, str]]) -> None:
    sends = claims.sends[mailbox]
    seen: dict[str, int] = {}
    keyed: dict[str, int] = {}
    for msg_id, body in rows:
        name = body.partition(" ")[0]
        if body.encode() != body_of(name):
            tally.wrong("unexpected", f"{mailbox} {msg_id}: a body nobody sent: {body[:60]!r}")
        elif (mailbox, name.partition("#")[0]) in claims.keys:
            key, _, number = name.partition("#")
            if key in keyed:
                tally.wrong("duplicated", f"{mailbox}: key {key} has {keyed[key]} and {number}")
            keyed[key] = int(number)
        elif name not in sends:
            tally.wrong("unexpected", f"{mailbox} {msg_id}: {name} was not sent here")
        elif name in seen:
            tally.wrong("duplicated", f"{mailbox}: {name} is {seen[name]} and {msg_id}")
        seen[name] = msg_id
    tally.found += len(seen)
    _judge_sends(tally, claims, mailbox, seen)
    for (where, key), (answered, asked) in claims.keys.items():
        if where == mailbox and not answered <= keyed.get(key, 0) <= asked:
            tally.wrong("lost", f"{mailbox}: key {key} is at {keyed.get(key, 0)}, {answered} was acknowledged")


def _judge_sends(tally: Tally, claims: Claims, mailbox: str, seen: Mapping[str, int]) -> None:
    for name, ids in claims.sends[mailbox].items():
        tally.attempted += 1
        tally.acknowledged += bool(ids)
        tally.unknown += not ids
        place = (mailbox, name)
        if place in claims.removed and name in seen:
            tally.wrong("unexpected", f"{mailbox}: {name} was deleted and is there")
        elif ids and name not in seen and place not in claims.removed | claims.maybe_removed:
            tally.wrong("lost", f"{mailbox}: {name}, acknowledged as {ids}")
        elif ids - {-1, seen.get(name)} and name in seen:
            tally.wrong("duplicated", f"{mailbox}: {name} was acknowledged as {ids} and is {seen[name]}")


def _judge_group(tally: Tally, claims: Claims, found: Found, place: str, offered: Iterable[int]) -> None:
    mailbox, _, name = place.partition(" ")
    group = (mailbox, name)
    confirmed = claims.confirmed[group]
    for msg_id in sorted(set(offered) & confirmed):
        tally.wrong("again", f"{place}: {msg_id} was confirmed")
    settled = confirmed | claims.maybe_confirmed[group] | set(offered)
    start = claims.starts.get(group, 0)
    if not start and group in claims.maybe_started:
        start = min(settled, default=0)  # a cut between the commit of a Pin and its answer: it is where it was pinned
    for msg_id in offered:
        if msg_id < start:
            tally.wrong("again", f"{place}: began at {start}, now gives {msg_id}")
    for msg_id, _ in found.messages.get(mailbox, ()):
        if msg_id >= start and msg_id not in settled:
            tally.wrong("missed", f"{place}: {msg_id}")


def _judge_agents(tally: Tally, claims: Claims, agents: set[str]) -> None:
    for agent, there in claims.agents.items():
        if there is not None and there != (agent in agents):
            tally.wrong("lost" if there else "unexpected", f"agent {agent}")
    for agent in agents - claims.agents.keys():
        tally.wrong("unexpected", f"agent {agent} was never registered")
