"""What a client may publish and subscribe to.

The commands answer for themselves (an unknown one gets a JSON error); what stands here are subjects on which the broker
alone may speak. Every check is made on the concrete published subject or on the whole subscription, queue or not.
"""

from __future__ import annotations

from typing import Final

COMMAND_PREFIX: Final = b"$mq9.AI."
PUBLIC_LIST: Final = b"$mq9.AI.PUBLIC.LIST"

# Subjects only the broker publishes: whoever could would forge announcements of mailboxes.
BROKER_ONLY: Final = frozenset((PUBLIC_LIST,))

# Subjects of ours that carry pushed messages. Nothing else under the prefix ever reaches a subscriber: commands are
# answered by the broker and never travel as core messages, so that no pattern or queue group can overhear or steal one.
PUSH_PREFIX: Final = b"$mq9.AI.MAILBOX.MSG."


def may_publish(subject: bytes) -> bool:
    """Whether a client may publish to `subject`."""
    return subject not in BROKER_ONLY


def may_subscribe(subject: bytes) -> bool:
    """Whether a client may subscribe to `subject`, which may hold wildcards, with or without a queue."""
    if not subject.startswith(COMMAND_PREFIX):
        return True
    return subject == PUBLIC_LIST or (subject.startswith(PUSH_PREFIX) and names_one_mailbox(subject[len(PUSH_PREFIX) :]))


def names_one_mailbox(tail: bytes) -> bool:
    """Whether a subscription to pushed messages says whose: only its last token may be a wildcard. Knowing an address is
    the right to read it, so no pattern may stand for addresses one does not know."""
    *address, last = tail.split(b".")
    return (bool(address) or last not in (b"*", b">")) and not {b"*", b">"} & set(address)
