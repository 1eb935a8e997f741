"""One mq9 command on its way to a handler, and the way back for its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from mq9.errors import Mq9Error, RequestError

if TYPE_CHECKING:
    from broker_node.router.client import Client


class Request:
    """One command as a handler sees it.

    `tail` is what follows the command in the subject (the address; empty where there is none). `header` is the raw NATS
    header block or empty. `reply_to` is empty when the sender wants no answer; `respond` then does nothing.
    """

    __slots__ = ("_deliver", "client", "header", "is_older", "payload", "reply_to", "tail")

    def __init__(
        self,
        client: Client,
        tail: bytes,
        reply_to: bytes,
        header: bytes,
        payload: bytes,
        deliver: Callable[[bytes, bytes, bytes, bytes], int],
    ) -> None:
        self.client = client
        self.tail = tail
        self.reply_to = reply_to
        self.header = header
        self.payload = payload
        self.is_older = False  # the answer is in the older dialect
        self._deliver = deliver

    def respond(self, payload: bytes, header: bytes = b"") -> None:
        """Publish the answer on the reply subject, as the broker."""
        if self.reply_to:
            self._deliver(self.reply_to, b"", header, payload)

    def fail(self, failure: Mq9Error, **fields: object) -> None:
        """Answer with the error envelope; `fields` are added to it (`mail_address=""`, `deleted=False`, ...)."""
        if self.is_older:
            older: dict[str, object] = {"error": failure.text, "code": failure.status}
            if not isinstance(failure, RequestError):
                older["error_code"] = failure.code  # that dialect has no number for what is not the request's fault
            self.respond(msgspec.json.encode(older))
            return
        self.respond(msgspec.json.encode({"error": failure.text, "code": failure.code, **fields}))
