"""MAILBOX.CREATE: make a mailbox, with a name of the client's choice or one nobody can guess."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from broker_node.mailbox.model import Definition, Mailbox
from broker_node.router.request import Request
from mq9 import limits
from mq9.errors import Mq9Error, error
from mq9.protocol.address import check_address, check_public_address
from mq9.protocol.requests import CreateRequest, create_decoder, decode

if TYPE_CHECKING:
    from broker_node.partition import Partition


def handle(partition: Partition, request: Request) -> None:
    """Reply: `{error, mail_address, mail_id, is_new, ttl, expires_at}` once the mailbox is durable.

    A body with `public` is the older dialect's: its success has no `error`, and making what exists is a success.
    """
    body = CreateRequest()
    client = request.client
    client.dialect = client.dialect or 2
    request.is_older = client.dialect == 1

    def answer(failure: Mq9Error | None) -> None:
        if failure is not None:
            _fail(request, body, failure)
        else:
            _succeed(request, body, mailbox, is_new=True)

    try:
        body = decode(create_decoder, request.payload)
        address = _address(partition, body)
        existing = partition.mailboxes.lookup(address)
        if existing is not None:
            if not (body.public or body.exist_ok or _older_dialect(request, body)):
                raise error("MAILBOX_EXISTS", name=address.decode())
            _succeed_durably(request, body, existing)
            return
        mailbox = partition.mailboxes.create(address, _definition(partition, body), answer)
    except Mq9Error as failure:
        _fail(request, body, failure)


def refuse(request: Request, failure: Mq9Error) -> None:
    """Answer a CREATE whose body could not be read."""
    request.client.dialect = request.client.dialect or 2
    request.is_older = request.client.dialect == 1
    _fail(request, CreateRequest(), failure)


def _older_dialect(request: Request, body: CreateRequest) -> bool:
    return request.is_older or body.public is not UNSET


def _succeed_durably(request: Request, body: CreateRequest, existing: Mailbox) -> None:
    """Another CREATE made it, maybe one that is not durable yet."""
    if not existing.staged_ops:
        _succeed(request, body, existing, is_new=False)
        return

    def settled(failure: Mq9Error | None) -> None:
        if failure is not None:
            _fail(request, body, failure)
        else:
            _succeed(request, body, existing, is_new=False)

    existing.shelf.commit.then(settled)


def _succeed(request: Request, body: CreateRequest, mailbox: Mailbox, *, is_new: bool) -> None:
    definition = mailbox.definition
    address = mailbox.address.decode()
    reply: dict[str, Any] = {} if _older_dialect(request, body) else {"error": ""}
    reply |= {
        "mail_address": address,
        "mail_id": address,
        "is_new": is_new,
        "ttl": definition.ttl_s,
        "expires_at": definition.expires_ms // 1000,
    }
    request.respond(msgspec.json.encode(reply))


def _fail(request: Request, body: CreateRequest, failure: Mq9Error) -> None:
    request.is_older = _older_dialect(request, body)
    request.fail(failure, mail_address="")


def _address(partition: Partition, body: CreateRequest) -> bytes:
    if body.name is not None:
        name = body.name.encode()
        return check_public_address(name) if body.public else check_address(name, partition.settings.naming)
    return partition.mailboxes.unused_address()


def _definition(partition: Partition, body: CreateRequest) -> Definition:
    ttl_s = body.ttl or partition.settings.default_ttl_s
    if not 0 <= ttl_s <= limits.TTL_S_MAX:
        raise error("INVALID_REQUEST", reason=f"ttl must be 0 to {limits.TTL_S_MAX} seconds")
    desc = body.desc or ""
    if len(desc.encode()) > limits.DESC_BYTES_MAX:
        raise error("INVALID_REQUEST", reason=f"desc is longer than {limits.DESC_BYTES_MAX} bytes")
    if body.storage not in (None, "", "memory", "lmdb"):
        raise error("INVALID_REQUEST", reason="storage must be lmdb or memory")
    max_deliver = body.max_deliver or 0
    if not 0 <= max_deliver <= 1_000_000:
        raise error("INVALID_REQUEST", reason="max_deliver must be 0 to 1000000")
    if body.dead_letter:
        check_address(body.dead_letter.encode(), partition.settings.naming)
    ack_wait_ms = round((body.ack_wait or 0) * 1000)
    if ack_wait_ms and not limits.ACK_WAIT_MS_MIN <= ack_wait_ms <= limits.ACK_WAIT_MS_MAX:
        least_s, most_s = limits.ACK_WAIT_MS_MIN / 1000, limits.ACK_WAIT_MS_MAX // 1000
        raise error("INVALID_REQUEST", reason=f"ack_wait must be {least_s} to {most_s} seconds")
    now_ms = partition.clock.wall_ms()
    return Definition(
        mailbox=0,
        created_ms=now_ms,
        ttl_s=ttl_s,
        expires_ms=now_ms + ttl_s * 1000 if ttl_s else 0,
        desc=desc,
        public=body.public is True,
        max_deliver=max_deliver,
        dead_letter=body.dead_letter or "",
        ack_wait_ms=ack_wait_ms,
        memory=body.storage == "memory",
    )
