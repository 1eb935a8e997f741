"""To which partition a command of a client goes: here, or on another node."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from broker_node.handlers import mailbox_create
from broker_node.permissions import PUSH_PREFIX
from broker_node.push.wire import PRIORITY_WORDS
from broker_node.router.dispatch import Command, Placement
from mq9.errors import Mq9Error
from mq9.protocol.requests import create_decoder, decode
from mq9.registry.requests import parse_agent
from mq9.storage.layout import slot_of

if TYPE_CHECKING:
    from broker_node.broker import Broker
    from broker_node.cluster.interface import Cluster
    from broker_node.cluster.requests import PlacedRequest
    from broker_node.router.request import Request


def place(command: Command, subject: bytes, cluster: Cluster, request: PlacedRequest) -> None:
    """Carry out a command about a mailbox on the partition that has it, wherever that is."""
    try:
        slot = slot_for(command.placement, request, cluster.slots)
    except Mq9Error as failure:  # only CREATE says its mailbox in a body, and so in a way that may be wrong
        mailbox_create.refuse(request, failure)
        return
    request.place(cluster, slot, subject)
    partition = cluster.partition(slot)
    if partition is None:
        cluster.forward(request)
    else:
        command.handle(partition, request)


def place_agent(command: Command, subject: bytes, broker: Broker, request: PlacedRequest) -> None:
    """Carry out a command about an agent on the node that has it. Raises when its body cannot be read."""
    name = parse_agent(request.payload, naming_only=True).name
    slot = slot_of(name.encode(), broker.cluster.slots)
    request.place(broker.cluster, slot, subject)
    if broker.cluster.partition(slot) is None:
        broker.cluster.forward(request)
    else:
        command.handle(broker, request)


def slot_for(placement: Placement, request: Request, slots: int) -> int:
    """The slot a request is about. Raises when its body cannot be read."""
    if placement is Placement.NAMED:
        name = decode(create_decoder, request.payload).name
        # A mailbox without a name gets one where it is made: one that belongs there.
        return secrets.randbelow(slots) if name is None else slot_of(name.encode(), slots)
    return slot_of(address_in(placement, request.tail), slots)


def address_in(placement: Placement, tail: bytes) -> bytes:
    """The mailbox address in what follows a command. In a cluster a last token that is a priority always is one here: a
    mailbox that is named like that is reached with a priority behind its name."""
    address, _, last = tail.rpartition(b".")
    if placement is Placement.ADDRESS_AND_ID:
        return address
    if placement is Placement.ADDRESS_AND_WORD and address and last in PRIORITY_WORDS:
        return address
    return tail


def subscribed_address(subject: bytes) -> bytes:
    """The mailbox address in a subscription to pushed messages, by the same rule."""
    tail = subject[len(PUSH_PREFIX) :]
    address, _, last = tail.rpartition(b".")
    return address if last in (b"*", b">") or (address and last in PRIORITY_WORDS) else tail
