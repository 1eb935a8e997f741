"""One client that asks one thing after the other and notes it in a ledger: for tests that look at a server step by step."""

from __future__ import annotations

import itertools
from typing import Any

from mq9.errors import CODES
from tests.chaos.ledger import Ack, Ask, Ledger, Remove, Send, body_of
from tests.support.raw import RawClient
from tests.support.server import ServerProcess


class Teller:
    """Answers are JSON objects, refusals too: a test looks at their `code`."""

    def __init__(self, client: RawClient, ledger: Ledger) -> None:
        self.client = client
        self.ledger = ledger
        self._numbers = itertools.count(1)

    @classmethod
    def of(cls, server: ServerProcess, ledger: Ledger) -> Teller:
        return cls(server.raw(), ledger)

    def ask(self, command: str, body: Any = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """A command that the ledger has nothing to do with."""
        return self.client.call(b"$mq9.AI." + command.encode(), body, headers=headers)

    def tell(self, ask: Ask, command: str, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
        reply = b"teller.%d.%d" % (id(self), next(self._numbers))
        self.ledger.asked(reply, ask)
        answer = self.ask(command, body, headers)
        if answer["error"]:
            assert answer["code"] in CODES, answer
            self.ledger.refusals[answer["code"]] += 1
        else:
            self.ledger.answers[reply] = answer
            self.ledger.acknowledged += isinstance(ask, Send)
        return answer

    def send(self, mailbox: str, name: str) -> dict[str, Any]:
        """A SEND under the mq9-msg-id `name`."""
        return self.tell(Send(mailbox, name), f"MSG.SEND.{mailbox}", body_of(name), {"mq9-msg-id": name})

    def fetch(self, mailbox: str, group: str, most: int = 100, wait_ms: int = 0) -> list[int]:
        """The ids a group is given next."""
        config = {"num_msgs": most, "max_wait_ms": wait_ms}
        answer = self.ask(f"MSG.FETCH.{mailbox}", {"group_name": group, "deliver": "earliest", "config": config})
        assert not answer["error"], answer
        return [message["msg_id"] for message in answer["messages"]]

    def ack(self, mailbox: str, group: str, msg_ids: list[int]) -> dict[str, Any]:
        body = {"group_name": group, "mode": "single", "msg_ids": msg_ids}
        return self.tell(Ack(mailbox, group, tuple(msg_ids)), f"MSG.ACK.{mailbox}", body)

    def delete(self, mailbox: str, name: str, msg_id: int) -> dict[str, Any]:
        return self.tell(Remove(mailbox, name), f"MSG.DELETE.{mailbox}.{msg_id}", None)

    def wait(self, milliseconds: int) -> None:
        """Let the server work for a while: a FETCH of a mailbox of one's own, where nothing comes."""
        self.ask("MAILBOX.CREATE", {"name": "nothing", "exist_ok": True, "storage": "memory"})
        self.ask("MSG.FETCH.nothing", {"deliver": "latest", "config": {"max_wait_ms": milliseconds}})
