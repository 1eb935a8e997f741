"""The client: one method per mq9 command.

Every call has a deadline (`timeout_s`, else the client's) and is repeated inside it when the broker could not answer; see
retry.py. What a broker refuses is raised as the exception of its code (mq9.errors). Replies become records (message.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack

import msgspec

from mq9.client.connection import DEFAULT_URL, Connection, ConnectOptions, server_list
from mq9.client.consumer import ConsumeOptions, Consumer, Handler
from mq9.client.message import Agents, Mailbox, MailboxInfo, MailboxPage, Message, Receipt
from mq9.client.retry import Attempts
from mq9.client.wire import (
    STATUS,
    STREAM_END,
    DiscoverFilters,
    FetchOptions,
    IdSource,
    MailboxOptions,
    Payload,
    ReplyForm,
    SendOptions,
    check_options,
    json_body,
    json_messages,
    payload_bytes,
    reply_fields,
    send_headers,
    streamed_message,
    subject,
)
from mq9.errors import AlreadyExists, DeliveryLost, NotFound, error
from mq9.limits import FETCH_MESSAGES_DEFAULT, FETCH_MESSAGES_MAX, FETCH_WAIT_MS_DEFAULT

if TYPE_CHECKING:
    from nats.aio.msg import Msg

TIMEOUT_S: Final = 5.0
DRAIN_TIMEOUT_S: Final = 30.0

Result = TypeVar("Result")


def connect(
    servers: str | Iterable[str] = DEFAULT_URL, *, timeout_s: float = TIMEOUT_S, **options: Unpack[ConnectOptions]
) -> Client:
    """A client that is about to connect: `async with connect(url) as client`, or `client = await connect(url)`.

    `servers` is one URL, several in a list, or several joined by commas; `timeout_s` the deadline of every call that gives
    none. Connecting raises UNAVAILABLE when no server answers and FORBIDDEN when one refuses the credentials; afterwards
    the client reconnects by itself.
    """
    return Client(servers, timeout_s=timeout_s, **options)


class Client:
    """One connection to a broker, for any number of tasks of one event loop. Made by `connect`."""

    def __init__(
        self, servers: str | Iterable[str] = DEFAULT_URL, *, timeout_s: float = TIMEOUT_S, **options: Unpack[ConnectOptions]
    ) -> None:
        check_options(options, ConnectOptions)
        self.timeout_s = timeout_s
        self._connection = Connection(server_list(servers), options)
        self._ids = IdSource()
        self._form = ReplyForm()
        self._consumers: set[Consumer] = set()
        self._pumps: set[asyncio.Task[None]] = set()  # they may outlive their consumers by one FETCH
        self._draining = False

    # --- Life -------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect now. `async with` and `await` do it by themselves."""
        await self._connection.open()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A block that failed should not wait half a minute for handlers; a block that ended may.
        if kind is None:
            await self.drain()
        else:
            await self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def _opened(self) -> Self:
        await self.connect()
        return self

    @property
    def is_connected(self) -> bool:
        """Whether there is a client to call: connected, or reconnecting by itself."""
        return not self._connection.closed

    @property
    def generation(self) -> int:
        """Counts the connections of this client: 1 is the first, each reconnect adds one."""
        return self._connection.generation

    def attach(self, consumer: Consumer, pump: asyncio.Task[None]) -> None:
        """A consumer begins; it ends at the latest with this client."""
        self._consumers.add(consumer)
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    def detach(self, consumer: Consumer) -> None:
        """A consumer has ended."""
        self._consumers.discard(consumer)

    async def drain(self, timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        """Finish and close: consumers finish the message in hand, confirm what is done and give the rest back; waiting
        calls get their answers; new calls are refused. What is not finished after `timeout_s` is cut off."""
        if self._connection.closed:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(consumer.drain() for consumer in tuple(self._consumers)))
                self._draining = True
                for pump in self._pumps:
                    pump.cancel()  # what its last FETCH brings goes back when the connection ends
                await self._connection.idle()
        except TimeoutError:
            pass
        finally:
            await self.close()

    async def close(self) -> None:
        """Close at once. Messages in hand go back to their groups when the broker sees the connection end."""
        self._draining = True
        for consumer in tuple(self._consumers):
            await consumer.stop()
        await self._connection.close()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    # --- Requests ---------------------------------------------------------------------------------------------

    def _attempts(self, timeout_s: float | None) -> Attempts:
        if self._draining:
            raise error("INVALID_REQUEST", reason="the client is closed")
        return Attempts(self.timeout_s if timeout_s is None else timeout_s)

    async def _ask(
        self,
        attempts: Attempts,
        subject_: str,
        payload: bytes,
        read: Callable[[bytes], Result],
        headers: dict[str, str] | None = None,
    ) -> Result:
        """Request, reply, and the reply read by `read`, which raises the error that it carries."""

        async def attempt() -> Result:
            return read((await self._connection.request(attempts, subject_, payload, headers)).data)

        return await attempts.run(attempt)

    async def _command(self, subject_: str, fields: Mapping[str, object], timeout_s: float | None) -> dict[str, Any]:
        return await self._ask(self._attempts(timeout_s), subject_, json_body(fields), reply_fields)

    async def _remove(self, subject_: str, fields: Mapping[str, object], timeout_s: float | None) -> None:
        """A command that takes something away: gone after an attempt that was not answered is done, not an error."""
        attempts = self._attempts(timeout_s)
        try:
            await self._ask(attempts, subject_, json_body(fields), reply_fields)
        except NotFound:
            if not attempts.unanswered:
                raise

    # --- Mailboxes --------------------------------------------------------------------------------------------

    async def mailbox_create(
        self, name: str | None = None, *, ttl: int = 0, timeout_s: float | None = None, **options: Unpack[MailboxOptions]
    ) -> Mailbox:
        """Make a mailbox and return its address, which is a `str`.

        Without a name the broker makes one that nobody can guess. `ttl` is seconds, 0: it never expires. Raises
        AlreadyExists unless `exist_ok` or `public`; then `is_new` says which it was.
        """
        check_options(options, MailboxOptions)
        attempts = self._attempts(timeout_s)
        body = json_body({"name": name, "ttl": ttl, **options})
        try:
            fields = await self._ask(attempts, subject("MAILBOX.CREATE"), body, reply_fields)
        except AlreadyExists as failure:
            if attempts.unanswered:
                failure.add_note("An attempt before this one was not answered; it may be the one that made the mailbox.")
            raise
        return Mailbox.made(
            fields["mail_address"],
            is_new=bool(fields.get("is_new", True)),
            ttl=fields.get("ttl") or 0,
            expires_at=fields.get("expires_at") or 0,
        )

    async def mailbox_list(
        self, *, prefix: str | None = None, limit: int | None = None, after: str | None = None, timeout_s: float | None = None
    ) -> MailboxPage:
        """Mailboxes whose address begins with `prefix`, in order: the public ones, or all if the server allows it."""
        body = json_body({"prefix": prefix, "limit": limit, "after": after})
        return await self._ask(self._attempts(timeout_s), subject("MAILBOX.LS"), body, _page)

    async def mailbox_info(self, mail_address: str, *, timeout_s: float | None = None) -> MailboxInfo:
        """What the broker knows of one mailbox. Raises NotFound."""
        return await self._ask(self._attempts(timeout_s), subject("MAILBOX.INFO", mail_address), b"", _info)

    async def mailbox_remove(self, mail_address: str, *, timeout_s: float | None = None) -> None:
        """Remove a mailbox with everything in it. Raises NotFound."""
        await self._remove(subject("MAILBOX.REMOVE", mail_address), {}, timeout_s)

    # --- Messages ---------------------------------------------------------------------------------------------

    async def send(
        self, mail_address: str, payload: Payload, *, timeout_s: float | None = None, **options: Unpack[SendOptions]
    ) -> Receipt:
        """Store a message and return its id once it is on disk; an id of -1 for one with `delay`.

        Bytes go as they are, text as UTF-8, a dict or list as JSON. Repeating inside the call is safe: every attempt
        carries the same `mq9-msg-id`. Give your own `msg_id` to make it safe across calls and processes.
        """
        headers = send_headers(options, self._ids.next())
        target = subject("MSG.SEND", mail_address)
        fields = await self._ask(self._attempts(timeout_s), target, payload_bytes(payload), reply_fields, headers)
        return Receipt.made(fields["msg_id"], duplicate=bool(fields.get("duplicate")))

    async def fetch(
        self, mail_address: str, *, group_name: str | None = None, num_msgs: int = FETCH_MESSAGES_DEFAULT,
        max_wait_ms: int = FETCH_WAIT_MS_DEFAULT, timeout_s: float | None = None, **options: Unpack[FetchOptions],
    ) -> list[Message]:  # fmt: skip
        """Up to `num_msgs` messages, most urgent first; waits up to `max_wait_ms` for the first one.

        With a group the messages are leased to this connection until they are confirmed with `ack`, given back with `nack`,
        or `ack_wait_ms` runs out; without one nothing is recorded. The deadline does not count `max_wait_ms`.
        """
        check_options(options, FetchOptions)
        form = options.pop("stream", None)
        stream = self._form.stream(mail_address) if form is None else form
        tags = options.pop("tags", None)
        hold = options.pop("hold", None)
        config = {"num_msgs": num_msgs, "max_wait_ms": max_wait_ms, "ack_wait_ms": options.pop("ack_wait_ms", None),
                  "stream": stream or None}  # fmt: skip
        # An empty group is no group on the wire; `force_deliver` is always there, as in every published SDK.
        body = {"group_name": group_name or None, "deliver": "latest", "force_deliver": False, "encoding": "base64",
                "tags": list(tags) if tags else None, **options}  # fmt: skip
        attempts = self._attempts((self.timeout_s if timeout_s is None else timeout_s) + max_wait_ms / 1000)
        target = subject("MSG.FETCH", mail_address)

        async def attempt() -> list[Message]:
            parts: list[Msg] = []
            # What a lost answer may have leased to us must come with this one.
            config["hold"] = hold and not attempts.unanswered
            request = json_body({**body, "config": {name: value for name, value in config.items() if value is not None}})
            return _batch(await self._connection.request(attempts, target, request, parts=parts), parts)

        messages = await attempts.run(attempt)
        self._form.learn(mail_address, messages)
        return messages

    async def ack(
        self, mail_address: str, group_name: str, msg_id: int | Iterable[int], *, timeout_s: float | None = None
    ) -> None:
        """Confirm messages of a group; returns when that is on disk.

        One id confirms that message and everything handed out before it in the same FETCH. Several ids confirm exactly
        these. What was never handed out, or is confirmed already, is no error and no effect.

        Raises DeliveryLost in a cluster when another broker leads the mailbox than the one that handed a message out. All
        that could be confirmed is; what could not comes again, so there is nothing to do but to go on.
        """
        lost: DeliveryLost | None = None
        for which in _which(msg_id):
            fields = {"group_name": group_name, "mail_address": mail_address, **which}
            try:
                await self._command(subject("MSG.ACK", mail_address), fields, timeout_s)
            except DeliveryLost as failure:
                lost = failure  # the requests that are left may confirm what is known there
        if lost is not None:
            raise lost

    async def nack(
        self,
        mail_address: str,
        group_name: str,
        msg_id: int | Iterable[int],
        *,
        delay_s: float = 0.0,
        timeout_s: float | None = None,
    ) -> None:
        """Give messages of a group back: it gets them again at once, or after `delay_s` seconds."""
        for which in _which([msg_id] if isinstance(msg_id, int) else msg_id):
            fields = {"group_name": group_name, "mail_address": mail_address, **which, "nack": True, "delay": delay_s or None}
            await self._command(subject("MSG.ACK", mail_address), fields, timeout_s)

    async def query(
        self, mail_address: str, *, key: str | None = None, limit: int | None = None, since: float | None = None,
        tags: Iterable[str] | None = None, timeout_s: float | None = None,
    ) -> list[Message]:  # fmt: skip
        """The stored messages in order of id that match all of `key`, `tags` and `since` (seconds or milliseconds since
        1970). Takes no lease and moves nothing."""
        body = json_body({"key": key, "limit": limit, "since": since, "tags": list(tags) if tags else None, "encoding": "base64"})
        return await self._ask(self._attempts(timeout_s), subject("MSG.QUERY", mail_address), body, json_messages)

    async def delete(self, mail_address: str, msg_id: int, *, timeout_s: float | None = None) -> None:
        """Delete one message. Raises NotFound."""
        await self._remove(subject("MSG.DELETE", mail_address, str(int(msg_id))), {}, timeout_s)

    def consume(
        self,
        mail_address: str,
        handler: Handler | None = None,
        *,
        group_name: str | None = None,
        **options: Unpack[ConsumeOptions],
    ) -> Consumer:
        """Read a mailbox for as long as it lasts: `async for message in client.consume(address, group_name="workers")`.

        With a handler, `consumer = await client.consume(address, handler, ...)` runs it for every message in the
        background until `consumer.stop()` or `drain()`. Options: see ConsumeOptions.
        """
        return Consumer(self, mail_address, handler, group_name, options)

    # --- Agents -----------------------------------------------------------------------------------------------

    async def agent_register(self, agent_card: Mapping[str, Any], *, timeout_s: float | None = None) -> None:
        """Register or replace an agent: an object with `name` or `mailbox`, and whatever describes it."""
        await self._command(subject("AGENT.REGISTER"), agent_card, timeout_s)

    async def agent_report(self, report: Mapping[str, Any], *, timeout_s: float | None = None) -> None:
        """Tell the registry how an agent is, by its `name` or `mailbox`; renews its TTL. Raises NotFound."""
        await self._command(subject("AGENT.REPORT"), report, timeout_s)

    async def agent_unregister(
        self, mailbox: str | None = None, *, name: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Take an agent out of the registry. Raises NotFound."""
        await self._remove(subject("AGENT.UNREGISTER"), {"mailbox": mailbox, "name": name}, timeout_s)

    async def agent_discover(
        self, *, text: str | None = None, semantic: str | None = None, limit: int = 20, page: int = 1,
        timeout_s: float | None = None, **filters: Unpack[DiscoverFilters],
    ) -> Agents:  # fmt: skip
        """Agents by what they say of themselves, best first; without `semantic` or `text` all, newest first."""
        check_options(filters, DiscoverFilters)
        tags = filters.pop("tags", None)
        filters["tags"] = list(tags) if tags else None
        body = json_body({"text": text, "semantic": semantic, "limit": limit, "page": page, **filters})
        fields = await self._ask(self._attempts(timeout_s), subject("AGENT.DISCOVER"), body, reply_fields)
        agents = fields.get("agents") or []
        return Agents(agents, fields.get("total") or len(agents))


def _which(msg_id: int | Iterable[int]) -> Iterator[dict[str, object]]:
    """The fields of an ACK that name messages, in as many requests as it takes. Each has a `msg_id`: older brokers know no
    other field."""
    if isinstance(msg_id, int):
        yield {"msg_id": int(msg_id)}
        return
    msg_ids = [int(each) for each in msg_id]
    for first in range(0, len(msg_ids), FETCH_MESSAGES_MAX):
        some = msg_ids[first : first + FETCH_MESSAGES_MAX]
        yield {"msg_id": some[-1], "msg_ids": some, "mode": "single"}


def _batch(last: Msg, parts: list[Msg]) -> list[Message]:
    """The messages of a FETCH reply of either form. `last` ends it: the end of a stream, or the one JSON reply."""
    if last.headers and last.headers.get(STATUS) == STREAM_END:
        if last.headers.get("mq9-count", str(len(parts))) != str(len(parts)):
            raise error("UNAVAILABLE", reason="a stream reply came with messages missing")
        return [streamed_message(part.headers or {}, part.data) for part in parts]
    return json_messages(last.data)


def _page(data: bytes) -> MailboxPage:
    fields = reply_fields(data)
    return msgspec.convert(fields, MailboxPage)


def _info(data: bytes) -> MailboxInfo:
    return msgspec.convert(reply_fields(data), MailboxInfo)
