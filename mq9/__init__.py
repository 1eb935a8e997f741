"""mq9: a durable mailbox broker for AI agents, and its Python client.

    async with mq9.connect("nats://127.0.0.1:4222") as client:
        inbox = await client.mailbox_create("agent.inbox", exist_ok=True)
        await client.send(inbox, b"hello", priority=mq9.Priority.URGENT)
        async for message in client.consume(inbox, group_name="workers", deliver="earliest"):
            print(message.payload)

Names are imported when they are first used (PEP 562): the broker and the command line import this package too, and must
not pay for the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mq9.client.client import Client, connect
    from mq9.client.compat import Mq9Client
    from mq9.client.consumer import Consumer
    from mq9.client.message import Agents, GroupInfo, Mailbox, MailboxInfo, MailboxPage, Message, Priority, Receipt
    from mq9.client.sync import SyncClient, SyncConsumer, connect_sync
    from mq9.errors import (
        AlreadyExists,
        CapacityError,
        DeliveryLost,
        Forbidden,
        InternalError,
        Mq9Error,
        NotFound,
        RequestError,
        RequestTimeout,
        StorageError,
        UnavailableError,
    )

__version__: Final = "0.1.0"

__all__ = [
    "Agents",
    "AlreadyExists",
    "CapacityError",
    "Client",
    "Consumer",
    "DeliveryLost",
    "Forbidden",
    "GroupInfo",
    "InternalError",
    "Mailbox",
    "MailboxInfo",
    "MailboxPage",
    "Message",
    "Mq9Client",
    "Mq9Error",
    "NotFound",
    "Priority",
    "Receipt",
    "RequestError",
    "RequestTimeout",
    "StorageError",
    "SyncClient",
    "SyncConsumer",
    "UnavailableError",
    "__version__",
    "connect",
    "connect_sync",
]

_MODULES: Final = {
    "mq9.client.client": ("Client", "connect"),
    "mq9.client.compat": ("Mq9Client",),
    "mq9.client.consumer": ("Consumer",),
    "mq9.client.message": ("Agents", "GroupInfo", "Mailbox", "MailboxInfo", "MailboxPage", "Message", "Priority", "Receipt"),
    "mq9.client.sync": ("SyncClient", "SyncConsumer", "connect_sync"),
    "mq9.errors": (
        "AlreadyExists", "CapacityError", "DeliveryLost", "Forbidden", "InternalError", "Mq9Error", "NotFound", "RequestError",
        "RequestTimeout", "StorageError", "UnavailableError",
    ),
}  # fmt: skip
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'mq9' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
