"""The table of mq9 commands, and the way from a published subject to the handler that answers it.

A handler is one function in one file of `broker_node/handlers`. It gets the broker and a `Request`, raises an Mq9Error
to refuse, and calls `request.respond` once: at once, or after the commit that its answer depends on. It never sees a
socket, a frame or a transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from broker_node.handlers import (
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
from broker_node.router.request import Request

if TYPE_CHECKING:
    from broker_node.broker import Broker

PREFIX: Final = b"$mq9.AI."

# Commands that only the older dialect has: they are answered in it, and who uses one before any CREATE speaks it.
OLDER_ONLY: Final = frozenset(((b"MAILBOX", b"MSG"), (b"MAILBOX", b"LIST"), (b"MAILBOX", b"DELETE")))


Handler = Callable[["Broker", Request], None]


class Command(NamedTuple):
    """A row of the table. `has_tail`: an address follows the command in the subject; else nothing may."""

    handle: Handler
    has_tail: bool = False


def command_table() -> dict[tuple[bytes, bytes], Command]:
    """The two subject tokens after the prefix -> the command. The only list of commands there is."""
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
