"""Asking for the public mailboxes, a page at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mq9.errors import Mq9Error


class Page(NamedTuple):
    """What is asked for. `after` is where the page before it ended, empty for the first; where a page ends is a matter of
    who answers. `full`: everything there is to say of a mailbox, not only its address, description and TTL."""

    after: bytes
    prefix: bytes
    limit: int
    full: bool


# Called once, maybe at once, with (error or None, mailboxes, where the next page begins: empty at the end).
Listed = Callable[[Mq9Error | None, list[dict[str, Any]], bytes], None]
