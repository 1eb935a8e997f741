"""The table of mq9 commands, and the way from a published subject to the handler that answers it.

A handler is one function in one file of `broker_node/handlers`. It gets a `Request` and the partition whose mailbox it is
about, or the broker if it is about none. It raises an Mq9Error to refuse, and calls `request.respond` once: at once, or
after the commit that its answer depends on. It never sees a socket, a frame or a transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, NamedTuple

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

PREFIX: Final = b"$mq9.AI."

# Commands that only the older dialect has: they are answered in it, and who uses one before any CREATE speaks it.
OLDER_ONLY: Final = frozenset(((b"MAILBOX", b"MSG"), (b"MAILBOX", b"LIST"), (b"MAILBOX", b"DELETE")))


Handler = Callable[[Any, Request], None]  # Any: the Partition or the Broker, as the command's placement says


class Placement(Enum):
    """Whose a command is, and where that is said."""

    ADDRESS = auto()  # a mailbox's: the rest of the subject is its address
    ADDRESS_AND_ID = auto()  # the same with a message id behind the address
    ADDRESS_AND_WORD = auto()  # the same, where a priority may be behind the address
    NAMED = auto()  # a mailbox's, named in the body or not at all
    AGENT = auto()  # an agent's, named in the body
    ANY = auto()  # nobody's: any node answers


_IN_SUBJECT: Final = frozenset((Placement.ADDRESS, Placement.ADDRESS_AND_ID, Placement.ADDRESS_AND_WORD))


class Command(NamedTuple):
    """A row of the table."""

    handle: Handler
    placement: Placement

    @property
    def has_tail(self) -> bool:
        """An address follows the command in the subject; else nothing may."""
        return self.placement in _IN_SUBJECT

    @property
    def is_of_partition(self) -> bool:
        """The handler gets a Partition, not the Broker."""
        return self.placement not in (Placement.AGENT, Placement.ANY)


def resolve(commands: dict[tuple[bytes, bytes], Command], subject: bytes) -> tuple[Command | None, bytes, bool]:
    """The command of a subject, what follows it there, and whether only the older dialect has it. None and the whole subject
    when it is no command."""
    parts = subject.split(b".", 4)  # $mq9, AI, noun, verb, tail
    tail = parts[4] if len(parts) > 4 else b""
    name = (parts[2], parts[3]) if len(parts) > 3 else (b"", b"")
    command = commands.get(name)
    if command is None or command.has_tail is not bool(tail):
        return None, subject, name in OLDER_ONLY
    return command, tail, name in OLDER_ONLY


def command_table() -> dict[tuple[bytes, bytes], Command]:
    """The two subject tokens after the prefix -> the command. The only list of commands there is."""
    return {
        (b"MAILBOX", b"CREATE"): Command(mailbox_create.handle, Placement.NAMED),
        (b"MAILBOX", b"INFO"): Command(mailbox_info.handle, Placement.ADDRESS),
        (b"MAILBOX", b"LS"): Command(mailbox_ls.handle, Placement.ANY),
        (b"MAILBOX", b"REMOVE"): Command(mailbox_remove.handle, Placement.ADDRESS),
        (b"MAILBOX", b"MSG"): Command(mailbox_msg.handle, Placement.ADDRESS_AND_WORD),
        (b"MAILBOX", b"LIST"): Command(mailbox_list.handle, Placement.ADDRESS),
        (b"MAILBOX", b"DELETE"): Command(mailbox_delete.handle, Placement.ADDRESS_AND_ID),
        (b"MSG", b"SEND"): Command(msg_send.handle, Placement.ADDRESS),
        (b"MSG", b"FETCH"): Command(msg_fetch.handle, Placement.ADDRESS),
        (b"MSG", b"ACK"): Command(msg_ack.handle, Placement.ADDRESS),
        (b"MSG", b"QUERY"): Command(msg_query.handle, Placement.ADDRESS),
        (b"MSG", b"DELETE"): Command(msg_delete.handle, Placement.ADDRESS_AND_ID),
        (b"AGENT", b"REGISTER"): Command(agent_register.handle, Placement.AGENT),
        (b"AGENT", b"REPORT"): Command(agent_report.handle, Placement.AGENT),
        (b"AGENT", b"UNREGISTER"): Command(agent_unregister.handle, Placement.AGENT),
        (b"AGENT", b"DISCOVER"): Command(agent_discover.handle, Placement.ANY),
    }
