"""What verification finds, in a form that can be printed and sent between processes."""

from __future__ import annotations

import msgspec

from mq9.errors import StorageError
from mq9.storage import layout
from mq9.storage.interface import Table

_BY_MAILBOX = frozenset(
    {Table.STATE, Table.MESSAGE, Table.KEY, Table.DEDUP, Table.DELAYED, Table.GROUP, Table.ACKED, Table.TRASH}
)


class Finding(msgspec.Struct, tag="finding", omit_defaults=True):
    """One damage. `kind`: file, structure, page, record, count or process.

    `mailbox` and `address` say whose it is, where that can be told; `first` and `last` the range of keys (of a page: what
    its parent says it holds), in words; `count` how many records or pages.
    """

    kind: str
    detail: str
    table: str = ""
    mailbox: int | None = None
    address: str = ""
    first: str = ""
    last: str = ""
    count: int = 1

    def __str__(self) -> str:
        parts = [self.kind]
        if self.table:
            parts.append(f"table {self.table}")
        if self.mailbox is not None:
            parts.append(f"mailbox {self.address or '?'} (id {self.mailbox})")
        if self.first:
            parts.append(self.first if self.first == self.last else f"{self.first} to {self.last}")
        if self.count != 1:
            parts.append(f"count {self.count}")
        return ", ".join(parts) + f": {self.detail}"


class Done(msgspec.Struct, tag="done"):
    """The last line: how many rows each table had, and how many mailboxes there are."""

    rows: dict[str, int]
    mailboxes: int


def mailbox_of(table: Table, key: bytes) -> int | None:
    """The mailbox a row belongs to; None where its key does not say."""
    return layout.unpack_u64(key[:8]) if table in _BY_MAILBOX and len(key) >= 8 else None


def describe_key(table: Table, key: bytes) -> str:
    """A key in words."""
    try:
        if table == Table.MESSAGE:
            mailbox, tier, msg_id = layout.unpack_message_key(key)
            return f"mailbox id {mailbox} tier {tier} message {msg_id}"
        if table == Table.DELAYED:
            mailbox, due_ms, sequence = layout.unpack_delayed_key(key)
            return f"mailbox id {mailbox} due {due_ms} sequence {sequence}"
        if table == Table.ACKED:
            mailbox, group, tier, low = layout.unpack_acked_key(key)
            return f"mailbox id {mailbox} group {group} tier {tier} from message {low}"
    except StorageError:
        return f"key {key.hex()}"  # a separator of the tree, or damaged: its bytes say as much
    if table in (Table.MAILBOX, Table.AGENT, Table.AGENT_VECTOR):
        return key[2:].decode("utf-8", "replace")
    mailbox_id = mailbox_of(table, key)
    if mailbox_id is None:
        return f"key {key.hex()}"
    rest = key[8:]
    return f"mailbox id {mailbox_id}" + (f" key {rest.hex()}" if rest else "")
