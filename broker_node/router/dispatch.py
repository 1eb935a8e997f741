"""The table of mq9 commands, and the way from a published subject to the handler that answers it.

A handler is one function in one file of `broker_node/handlers`. It gets the broker and a `Request`, raises an Mq9Error
to refuse, and calls `request.respond` once: at once, or after the commit that its answer depends on. It never sees a
socket, a frame or a transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mq9.errors import Mq9Error

if TYPE_CHECKING:
    from broker_node.broker import Broker
    from broker_node.router.client import Client

PREFIX: Final = b"$mq9.AI."

# Commands that only the older dialect has: they are answered in it, and who uses one before any CREATE speaks it.
OLDER_ONLY: Final = frozenset(((b"MAILBOX", b"MSG"), (b"MAILBOX", b"LIST"), (b"MAILBOX", b"DELETE")))


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
            self.respond(msgspec.json.encode({"error": failure.text, "code": failure.status}))
            return
        self.respond(msgspec.json.encode({"error": failure.text, "code": failure.code, **fields}))


Handler = Callable[["Broker", Request], None]


class Command(NamedTuple):
    """A row of the table. `has_tail`: an address follows the command in the subject; else nothing may."""

    handle: Handler
    has_tail: bool = False


def command_table() -> dict[tuple[bytes, bytes], Command]:
    """The two subject tokens after the prefix -> the command. The only list of commands there is."""
    # Here and not at the top: handlers import Request from this module.
    from broker_node.handlers import (  # noqa: PLC0415
        agent_discover,
        agent_register,
        agent_report,
        agent_unregister,
        mailbox_create,
        mailbox_delete,
        mailbox_info,
        mailbox_list,
        mailbox_ls,
        mailbox_msg,
        mailbox_remove,
        msg_ack,
        msg_delete,
        msg_fetch,
        msg_query,
        msg_send,
    )

    return {
        (b"MAILBOX", b"CREATE"): Command(mailbox_create.handle),
        (b"MAILBOX", b"INFO"): Command(mailbox_info.handle, has_tail=True),
        (b"MAILBOX", b"LS"): Command(mailbox_ls.handle),
        (b"MAILBOX", b"REMOVE"): Command(mailbox_remove.handle, has_tail=True),
        (b"MAILBOX", b"MSG"): Command(mailbox_msg.handle, has_tail=True),
        (b"MAILBOX", b"LIST"): Command(mailbox_list.handle, has_tail=True),
        (b"MAILBOX", b"DELETE"): Command(mailbox_delete.handle, has_tail=True),
        (b"MSG", b"SEND"): Command(msg_send.handle, has_tail=True),
        (b"MSG", b"FETCH"): Command(msg_fetch.handle, has_tail=True),
        (b"MSG", b"ACK"): Command(msg_ack.handle, has_tail=True),
        (b"MSG", b"QUERY"): Command(msg_query.handle, has_tail=True),
        (b"MSG", b"DELETE"): Command(msg_delete.handle, has_tail=True),
        (b"AGENT", b"REGISTER"): Command(agent_register.handle),
        (b"AGENT", b"REPORT"): Command(agent_report.handle),
        (b"AGENT", b"UNREGISTER"): Command(agent_unregister.handle),
        (b"AGENT", b"DISCOVER"): Command(agent_discover.handle),
    }
