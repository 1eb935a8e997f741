"""The same client for programs without an event loop: a thread runs the loop, calls wait for their results.

    with mq9.connect_sync("nats://127.0.0.1:4222") as client:
        client.send("agent.inbox", b"hello")
        for message in client.consume("agent.inbox", group_name="workers"):
            print(message.payload)

Calls may come from any number of threads. Methods, arguments, results and errors are those of `Client`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, Unpack

from mq9.client.client import DRAIN_TIMEOUT_S, TIMEOUT_S, Client
from mq9.client.connection import DEFAULT_URL, ConnectOptions
from mq9.client.consumer import ConsumeOptions, Consumer
from mq9.client.message import Message
from mq9.errors import error

Params = ParamSpec("Params")
Result = TypeVar("Result")


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mq9-client", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`. A KeyboardInterrupt while waiting cancels it."""
        if self.closed or threading.current_thread() is self._thread:
            work.close()
            raise error("INVALID_REQUEST", reason="the client is closed, or called from its own thread")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self) -> None:
        if self.closed:
            return
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _sync(
    method: Callable[Concatenate[Client, Params], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[SyncClient, Params], Result]:
    """The method of SyncClient that waits for `method` of its Client."""

    @wraps(method)
    def call(self: SyncClient, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return self.run(lambda client: method(client, *args, **kwargs))

    return call


def connect_sync(
    servers: str | Iterable[str] = DEFAULT_URL, *, timeout_s: float = TIMEOUT_S, **options: Unpack[ConnectOptions]
) -> SyncClient:
    """A connected SyncClient. Arguments and errors as `connect`."""
    return SyncClient(servers, timeout_s=timeout_s, **options)


class SyncClient:
    """`Client`, waiting. Close it, or use `with`: its thread ends with it."""

    def __init__(
        self, servers: str | Iterable[str] = DEFAULT_URL, *, timeout_s: float = TIMEOUT_S, **options: Unpack[ConnectOptions]
    ) -> None:
        self._client = Client(servers, timeout_s=timeout_s, **options)
        self._thread = _LoopThread()
        try:
            self._thread.run(self._client.connect())
        except BaseException:  # whatever it was, the thread must not outlive the failure
            self._thread.close()
            raise

    def run(self, call: Callable[[Client], Coroutine[Any, Any, Result]]) -> Result:
        """The result of `call(client)`, run on the client's loop: for what has no method here."""
        return self._thread.run(call(self._client))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.drain()
        else:
            self.close()

    @property
    def closed(self) -> bool:
        return self._thread.closed

    def drain(self, timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        """Finish what is under way, then close; see `Client.drain`."""
        self._end(self._client.drain(timeout_s))

    def close(self) -> None:
        """Close at once."""
        self._end(self._client.close())

    def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        if self.closed:
            ending.close()
            return
        try:
            self._thread.run(ending)
        finally:
            self._thread.close()

    mailbox_create: Final = _sync(Client.mailbox_create)
    mailbox_list: Final = _sync(Client.mailbox_list)
    mailbox_info: Final = _sync(Client.mailbox_info)
    mailbox_remove: Final = _sync(Client.mailbox_remove)
    send: Final = _sync(Client.send)
    fetch: Final = _sync(Client.fetch)
    ack: Final = _sync(Client.ack)
    nack: Final = _sync(Client.nack)
    query: Final = _sync(Client.query)
    delete: Final = _sync(Client.delete)
    agent_register: Final = _sync(Client.agent_register)
    agent_report: Final = _sync(Client.agent_report)
    agent_unregister: Final = _sync(Client.agent_unregister)
    agent_discover: Final = _sync(Client.agent_discover)

    def consume(self, mail_address: str, *, group_name: str | None = None, **options: Unpack[ConsumeOptions]) -> SyncConsumer:
        """Read a mailbox for as long as it lasts: `for message in client.consume(...)`. As `Client.consume`, without handler:
        the loop's body is the handler, in the thread that runs the loop."""
        consumer = self.run(lambda client: _made(client, mail_address, group_name, options))
        return SyncConsumer(self, consumer)


async def _made(client: Client, mail_address: str, group_name: str | None, options: ConsumeOptions) -> Consumer:
    return client.consume(mail_address, group_name=group_name, **options)


class SyncConsumer:
    """A reader of one mailbox for a `for` loop. A message is confirmed when the loop asks for the next one."""

    def __init__(self, client: SyncClient, consumer: Consumer) -> None:
        self._client = client
        self._consumer = consumer

    def __iter__(self) -> Iterator[Message]:
        messages = aiter(self._consumer)
        try:
            while (message := self._client.run(lambda _: anext_or_none(messages))) is not None:
                yield message
        finally:
            self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ack(self, message: Message) -> bool:
        """Confirm one message; returns when that is on disk. False: it may come again, as with `Consumer.ack`."""
        return self._client.run(lambda _: self._consumer.ack(message))

    def nack(self, message: Message, *, delay_s: float = 0.0) -> None:
        """Give one message back to the group."""
        self._client.run(lambda _: self._consumer.nack(message, delay_s=delay_s))

    def stop(self) -> None:
        """End: what is done is confirmed, the rest given back. Safe to repeat, also after the client was closed."""
        if not self._client.closed:
            self._client.run(lambda _: self._consumer.stop())


async def anext_or_none(messages: Any) -> Message | None:
    """The next message, or None at the end: StopAsyncIteration cannot cross between threads."""
    message: Message | None = await anext(messages, None)
    return message
