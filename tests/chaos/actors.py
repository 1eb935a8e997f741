"""Clients of a server that may die: what each does, what it notes in the ledger, and how it goes on after a loss.

An actor lives longer than its connections: `begin` gives it one, `lost` takes it away. All are callbacks; nobody waits.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from tests.chaos.ledger import Ack, Ask, Keyed, Ledger, Pin, Register, Remove, Send, body_of
from tests.chaos.link import Link

PRIORITIES: Final = ("critical", "urgent", "normal", "normal", "low")

REFUSED_S: Final = 0.05  # who is refused asks again, but not at once

_labels = itertools.count(1)


class Actor:
    """See the module."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger = ledger
        self.rng = random.Random(seed)
        self.label = next(_labels)  # names are its own
        self.link: Link
        self.stopping = False
        self.progress: Callable[[], None] = _nobody_watches
        self.refused: Callable[[Link], None] = _stay
        self.refusal = "never"  # the latest

    def __repr__(self) -> str:
        """For whoever reads why a wait was in vain."""
        link = self.link
        state = "closed" if link.closed.done() else f"waits for {link.waiting}"
        return f"{type(self).__name__} {self.label} on link {link.number}, {state}, last refused {self.refusal}"

    def begin(self, link: Link) -> None:
        """A new connection."""
        self.link = link

    @property
    def idle(self) -> bool:
        """It is stopping, and nothing it wants is left."""
        return self.stopping

    def tell(self, ask: Ask, command: str, payload: bytes, headers: dict[str, str], done: Callable[[Any], None]) -> None:
        """Ask and note it. `done` gets the answer, a little later None for a refusal; nothing is called when the connection
        goes."""

        def answered(payload: bytes | None) -> None:
            if payload is None:
                return
            answer = self.ledger.answered(reply, payload)
            if answer is None:
                self.refusal = payload.decode()
                self.later(done)
            else:
                done(answer)
            self.progress()

        reply = self.link.ask(command, payload, headers, done=answered)
        self.ledger.asked(reply, ask)

    def later(self, done: Callable[[Any], None]) -> None:
        """After a refusal: call `done(None)` soon, if the connection is still the same."""
        link = self.link
        self.refused(link)

        def go_on() -> None:
            if self.link is link and not link.closed.done():
                done(None)
                self.progress()

        asyncio.get_running_loop().call_later(REFUSED_S, go_on)


class Sender(Actor):
    """Keeps `window` sends under way, each under an mq9-msg-id of its own. What was not answered is sent again under the
    same one, and now and then so is what was."""

    def __init__(
        self, ledger: Ledger, seed: int, mailbox: str, *, window: int, delay_s: float = 0.0, count: int = 1 << 30
    ) -> None:
        """`delay_s`: messages are due up to that much later. `count`: it stops by itself after so many."""
        super().__init__(ledger, seed)
        self.mailbox = mailbox
        self.window = window
        self.delay_s = delay_s
        self.count = count
        self.said = 0
        self.under_way: set[str] = set()
        self.left: list[str] = []
        self.sent: list[str] = []

    def begin(self, link: Link) -> None:
        super().begin(link)
        self.left += sorted(self.under_way)
        self.under_way.clear()
        self._fill()

    @property
    def idle(self) -> bool:
        return (self.stopping or self.said >= self.count) and not self.left and not self.under_way

    def _fill(self) -> None:
        while len(self.under_way) < self.window:
            if self.left:
                name = self.left.pop()
            elif self.stopping or self.said >= self.count:
                return
            elif self.sent and self.rng.random() < 0.02:
                name = self.rng.choice(self.sent)
                if name in self.under_way:
                    continue
            else:
                self.said += 1
                name = f"{self.mailbox}/{self.label}.{self.said}"
            self.under_way.add(name)
            self._send(name)

    def _send(self, name: str) -> None:
        headers = {"mq9-msg-id": name, "mq9-priority": self.rng.choice(PRIORITIES)}
        if self.delay_s:
            headers["mq9-delay"] = f"{self.rng.uniform(0.05, self.delay_s):.3f}"
        done = self._done_with(name)
        self.tell(Send(self.mailbox, name), f"MSG.SEND.{self.mailbox}", body_of(name), headers, done)

    def _done_with(self, name: str) -> Callable[[Any], None]:
        def done(answer: Any) -> None:
            self.under_way.discard(name)
            if answer is None:
                self.left.append(name)
            elif not answer.get("duplicate"):
                self.sent.append(name)
            self._fill()

        return done


class Consumer(Actor):
    """A member of a group: FETCH, then confirm in one of the ways there are, over and over."""

    def __init__(self, ledger: Ledger, seed: int, mailbox: str, group: str, *, most: int = 100) -> None:
        super().__init__(ledger, seed)
        self.mailbox = mailbox
        self.group = group
        self.most = most
        self.received = 0
        self.again: list[str] = []  # what it was given after the answer to its acknowledgement
        self.dry = False  # the last FETCH found nothing, and there is no other: nothing is held

    def begin(self, link: Link) -> None:
        super().begin(link)
        self._fetch()

    @property
    def idle(self) -> bool:
        return self.stopping and self.dry

    def _fetch(self, _: Any = None) -> None:
        self.dry = False
        body = {
            "group_name": self.group,
            "deliver": "earliest",
            "encoding": "text",
            "config": {"num_msgs": self.rng.randint(1, self.most), "max_wait_ms": 100},
        }
        asked_at = self.ledger.confirmations

        def answered(payload: bytes | None) -> None:
            if payload is not None:
                self._take(json.loads(payload), asked_at)
                self.progress()

        self.link.ask(f"MSG.FETCH.{self.mailbox}", json.dumps(body).encode(), done=answered)

    def _take(self, answer: Any, asked_at: int) -> None:
        """What was confirmed before the question may not be in the answer."""
        if answer["error"]:
            self.refusal = answer["error"]
            self.ledger.refusals[answer["code"]] += 1
            self.later(self._fetch)
            return
        ids = [message["msg_id"] for message in answer["messages"]]
        confirmed_at = self.ledger.confirmed_at[self.mailbox, self.group]
        self.again += [f"{self.mailbox} {self.group}: {each}" for each in ids if confirmed_at.get(each, asked_at) < asked_at]
        self.received += len(ids)
        self.dry = not ids
        if ids:
            self._confirm(ids)
        elif not self.stopping:
            self._fetch()

    def _confirm(self, ids: list[int]) -> None:
        place = self.rng.random()
        body: dict[str, Any] = {"group_name": self.group}
        if place < 0.7:
            confirmed = ids
            body["msg_id"] = ids[-1]
        elif place < 0.85:
            middle = self.rng.randrange(len(ids))
            confirmed = ids[: middle + 1]
            body["msg_id"] = ids[middle]
        else:
            confirmed = self.rng.sample(ids, self.rng.randint(1, len(ids)))
            body |= {"mode": "single", "msg_ids": confirmed}
            if place > 0.97:
                body["nack"] = True
                confirmed = []
        ask = Ack(self.mailbox, self.group, tuple(confirmed))
        self.tell(ask, f"MSG.ACK.{self.mailbox}", json.dumps(body).encode(), {}, self._confirmed_with(confirmed))

    def _confirmed_with(self, ids: list[int]) -> Callable[[Any], None]:
        def done(answer: Any) -> None:
            if answer is not None:
                self.ledger.confirmed_at[self.mailbox, self.group].update(dict.fromkeys(ids, self.ledger.confirmations))
                self.ledger.confirmations += 1
            self._fetch()

        return done


class Member(Actor):
    """A member of a v1 queue group: jobs are pushed to it, and it confirms nothing."""

    def __init__(self, ledger: Ledger, seed: int, mailbox: str, group: str, received: Counter[int]) -> None:
        """`received` counts by id what the members of the group were pushed."""
        super().__init__(ledger, seed)
        self.mailbox = mailbox
        self.group = group
        self.received = received

    def begin(self, link: Link) -> None:
        super().begin(link)
        link.subscribe(f"$mq9.AI.MAILBOX.MSG.{self.mailbox}.*", self.group, self._pushed)

    def _pushed(self, header: bytes, payload: bytes) -> None:
        self.received[int(header.partition(b"mq9-msg-id: ")[2].partition(b"\r\n")[0])] += 1
        self.progress()


class Editor(Actor):
    """Writes under a few mq9-keys, one message after the other, and deletes one of its other messages now and then."""

    def __init__(self, ledger: Ledger, seed: int, mailbox: str, *, count: int = 1 << 30) -> None:
        super().__init__(ledger, seed)
        self.mailbox = mailbox
        self.count = count
        self.number = 0
        self.busy = False
        self.there: dict[str, int] = {}  # plain messages that were answered and not deleted: name -> id

    def begin(self, link: Link) -> None:
        super().begin(link)
        self._next()

    @property
    def idle(self) -> bool:
        return (self.stopping or self.number >= self.count) and not self.busy

    def _next(self, _: Any = None) -> None:
        self.busy = False
        if self.stopping or self.number >= self.count:
            return
        self.busy = True
        self.number += 1
        name = f"plain{self.label}.{self.number}"
        if self.number % 4 == 0:
            self.tell(Send(self.mailbox, name), f"MSG.SEND.{self.mailbox}", body_of(name), {}, self._sent_with(name))
        elif self.number % 4 == 1 and self.there:
            name = self.rng.choice(sorted(self.there))
            msg_id = self.there.pop(name)
            self.tell(Remove(self.mailbox, name), f"MSG.DELETE.{self.mailbox}.{msg_id}", b"", {}, self._next)
        else:
            key = f"key{self.rng.randrange(5)}.{self.label}"
            ask = Keyed(self.mailbox, key, self.number)
            body = body_of(f"{key}#{self.number}")
            self.tell(ask, f"MSG.SEND.{self.mailbox}", body, {"mq9-key": key}, self._next)

    def _sent_with(self, name: str) -> Callable[[Any], None]:
        def done(answer: Any) -> None:
            if answer is not None:
                self.there[name] = answer["msg_id"]
            self._next()

        return done


class Pinner(Actor):
    """Sends ten messages, pins a group at the newest of them, and sends five more."""

    BEFORE = 10
    AFTER = 5

    def __init__(self, ledger: Ledger, seed: int, mailbox: str, group: str) -> None:
        super().__init__(ledger, seed)
        self.mailbox = mailbox
        self.group = group
        self.step = 0

    def begin(self, link: Link) -> None:
        super().begin(link)
        self._go_on()

    @property
    def idle(self) -> bool:
        return self.step > self.BEFORE + self.AFTER

    def _go_on(self) -> None:
        """The step that was not answered. All of them can be repeated."""
        if self.step == self.BEFORE:
            config = {"num_msgs": 1, "max_wait_ms": 0}
            body = {"group_name": self.group, "deliver": "latest", "encoding": "text", "config": config}
            self.tell(Pin(self.mailbox, self.group), f"MSG.FETCH.{self.mailbox}", json.dumps(body).encode(), {}, self._stepped)
        elif not self.idle:
            name = f"pinned{self.label}.{self.step}"
            ask = Send(self.mailbox, name)
            self.tell(ask, f"MSG.SEND.{self.mailbox}", body_of(name), {"mq9-msg-id": name}, self._stepped)

    def _stepped(self, answer: Any) -> None:
        self.step += 1
        self._go_on()


class Registrar(Actor):
    """Registers agents, and takes some of them away again."""

    def __init__(self, ledger: Ledger, seed: int, *, count: int = 1 << 30) -> None:
        super().__init__(ledger, seed)
        self.count = count
        self.number = 0
        self.busy = False
        self.there: list[str] = []

    def begin(self, link: Link) -> None:
        super().begin(link)
        self._next()

    @property
    def idle(self) -> bool:
        return (self.stopping or self.number >= self.count) and not self.busy

    def _next(self, _: Any = None) -> None:
        self.busy = False
        if self.stopping or self.number >= self.count:
            return
        self.busy = True
        self.number += 1
        if self.number % 3 == 0 and self.there:
            agent = self.there.pop(self.rng.randrange(len(self.there)))
            self._say(agent, away=True)
        else:
            self._say(f"agent{self.label}.{self.number}", away=False)

    def _say(self, agent: str, *, away: bool) -> None:
        def done(answer: Any) -> None:
            if answer is not None and not away:
                self.there.append(agent)
            self._next()

        command = "AGENT.UNREGISTER" if away else "AGENT.REGISTER"
        body = {"name": agent, "payload": f"counts to {self.number}"}
        self.tell(Register(agent, away), command, json.dumps(body).encode(), {}, done)


def _nobody_watches() -> None:
    """Until somebody waits for progress."""


def _stay(link: Link) -> None:
    """Who has one server asks it again."""
