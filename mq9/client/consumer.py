"""Reading a mailbox for as long as it lasts: fetch ahead, hand out, confirm in batches, and go on after reconnects.

Three tasks run around a `Holding`: the pump fetches while there is room, the acker confirms what is done, and workers (or
the `async for` of the program) take messages in between. Delivery is at least once: a message that was handed out and not
confirmed comes again, to this consumer or another member of the group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict

from mq9.client.holding import Holding
from mq9.client.message import Message
from mq9.client.retry import Closed, pauses
from mq9.client.tail import Tail
from mq9.client.wire import FetchOptions, check_options
from mq9.errors import DeliveryLost, Mq9Error, RequestTimeout, error
from mq9.limits import ACK_WAIT_MS_DEFAULT, FETCH_MESSAGES_MAX

if TYPE_CHECKING:
    from mq9.client.client import Client

log = logging.getLogger("mq9.client")

HELD_DEFAULT: Final = 10  # as the published SDK
WAIT_MS_DEFAULT: Final = 5000  # one request per five idle seconds
ACK_BATCH_MAX: Final = 1000
ACK_DELAY_S: Final = 0.01  # what is done meanwhile shares one request and one fsync
RETRY_MAX_S: Final = 60.0  # longest pause before a message whose handler failed comes again
REPEATED_S: Final = 0.2
GOODBYE_S: Final = 2.0  # for confirming and giving back at the end

Handler = Callable[[Message], Awaitable[object]]
ErrorHandler = Callable[[Message, Exception], Awaitable[object]]


class ConsumeOptions(TypedDict, total=False):
    """How to consume. Defaults in brackets.

    deliver, from_time, from_id, force_deliver, tags: where the group starts and what it picks, as in `Client.fetch`
    num_msgs [10]        messages held at once; 1 for slow work shared by several workers
    max_wait_ms [5000]   one long poll
    ack_wait_ms          lease of each message; give the longest time a handler may take [the mailbox's, usually 30 s]
    auto_ack [True]      confirm when the handler returns, or when the loop asks for the next message
    concurrency [1]      handlers at once
    error_handler        called with the message and what its handler raised; otherwise that is logged
    retry_delay_s [1]    a message whose handler failed comes again after this, doubled with each delivery up to a minute
    """

    deliver: str
    from_time: float | None
    from_id: int | None
    force_deliver: bool
    tags: Iterable[str] | None
    num_msgs: int
    max_wait_ms: int
    ack_wait_ms: int | None
    auto_ack: bool
    concurrency: int
    error_handler: ErrorHandler | None
    retry_delay_s: float


class Consumer:
    """A reader of one mailbox, made by `Client.consume`.

        async for message in client.consume(address, group_name="workers"): ...
        consumer = await client.consume(address, handler, group_name="workers")

    Leaving the `async for` ends the consumer. The message in hand then is confirmed only if `message.ack()` said so: whether
    it was dealt with is not for us to guess. Inside `async with` the end does not wait for the garbage collector.
    """

    def __init__(
        self, client: Client, mail_address: str, handler: Handler | None, group_name: str | None, options: ConsumeOptions
    ) -> None:
        check_options(options, ConsumeOptions)
        self.mail_address = mail_address
        self.group_name = group_name or ""
        self.processed_count = 0
        self.is_running = False
        self._client = client
        self._handler = handler
        self._options = options
        self._auto_ack = options.get("auto_ack", True)
        capacity = min(options.get("num_msgs", HELD_DEFAULT), FETCH_MESSAGES_MAX)
        if capacity < 1 or options.get("concurrency", 1) < 1:
            raise error("INVALID_REQUEST", reason="num_msgs and concurrency must be at least 1")
        self._holding = Holding(capacity, manual=not self._auto_ack)
        self._start = _start(options)
        self._tail = None if self.group_name else Tail(client, mail_address, self._start)
        self._generation = 0
        self._hold = True  # the next FETCH asks for nothing that is leased to us
        self._stopping = False
        self._failure: Mq9Error | None = None
        self._arrived = asyncio.Event()  # a message, or the end: for workers
        self._moved = asyncio.Event()  # room, or the end: for the pump
        self._finished = asyncio.Event()  # something to confirm: for the acker
        self._stopped = asyncio.Event()  # _leftover is complete: for the pump
        self._ended = asyncio.Event()
        self._leftover: list[int] = []  # to be given back
        self._waiting: dict[int, asyncio.Future[bool]] = {}  # callers of ack(), by message
        self._tasks: list[asyncio.Task[None]] = []  # the acker, then the workers
        self._loop_task: asyncio.Task[Any] | None = None  # the task whose `async for` has a message in hand
        self._stop_task: asyncio.Task[None] | None = None

    # --- Life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to fetch, and to run the handler if there is one. `async for`, `async with` and `await` do it."""
        if self.is_running or self._stopping:
            return
        self.is_running = True
        self._client.attach(self, asyncio.create_task(self._pump()))
        self._tasks = [asyncio.create_task(self._acks())]
        if self._handler is not None:
            workers = self._options.get("concurrency", 1)
            self._tasks += [asyncio.create_task(self._work(self._handler)) for _ in range(workers)]

    def __await__(self) -> Generator[Any, None, Self]:
        return self._started().__await__()

    async def _started(self) -> Self:
        self.start()
        return self

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await (self.drain() if kind is None else self.stop())

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Message]:
        self.start()
        try:
            while (message := await self._next()) is not None:
                self._loop_task = asyncio.current_task()
                yield message
                # Only a loop that asks for the next message gets here.
                self.processed_count += 1
                if self._auto_ack:
                    self._finish(message)
        finally:
            self._loop_task = None
            await self.stop()

    async def wait(self) -> None:
        """Wait until the consumer has ended; raises what ended it, if it was not `stop` or `drain`."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    async def drain(self) -> None:
        """End well: fetch nothing more, let handlers (or the loop) finish what they have, confirm it, give the rest back."""
        self._end()
        self._leftover += self._holding.empty_buffer()
        if workers := self._tasks[1:]:
            await asyncio.wait(workers)
        if self._loop_task not in (None, asyncio.current_task()):
            await self._ended.wait()  # the loop asks for its next message, finds the end, and stops the consumer
        await self.stop()

    async def stop(self) -> None:
        """End now: handlers are cancelled, what is done is confirmed, everything else is given back. Safe to repeat.

        Giving back waits, in the background, for the answer of a FETCH that is under way: it would only bring the same
        messages again, and count as another delivery.
        """
        self._end()
        if self._stop_task is None and self.is_running:
            self._stop_task = asyncio.create_task(self._stop())
        if self._stop_task is not None:
            await asyncio.shield(self._stop_task)

    def _end(self) -> None:
        self._stopping = True
        self._arrived.set()
        self._moved.set()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._confirm_rest()
        # A program that confirms by itself may still do so with what it has.
        in_hand = self._holding.in_hand() if self._auto_ack else []
        self._leftover += self._holding.empty_buffer() + in_hand
        self._stopped.set()
        self.is_running = False
        self._client.detach(self)
        self._ended.set()

    async def _confirm_rest(self) -> None:
        """Confirm what is done, if the broker is there; if not, it will be delivered again."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                while await self._confirm():
                    pass
        except (TimeoutError, Mq9Error) as failure:
            log.debug("consumer of %s ended without confirming everything: %r", self.mail_address, failure)
        self._tell(list(self._waiting), error("UNAVAILABLE", reason="the consumer ended before the broker confirmed"))

    # --- Fetching ---------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Fetch while there is room. Lives until the answer of its last FETCH is there, then gives back what is left."""
        await self._fetch_on()
        await self._give_back(self._leftover)
        self._leftover = []
        await self._stopped.wait()
        await self._give_back(self._leftover)

    async def _fetch_on(self) -> None:
        pause = pauses()
        while not self._stopping:
            self._check_generation()
            room = self._holding.room(_now())
            if not room:
                await self._wait_for_room()
                continue
            hold, self._hold = self._hold, True
            try:
                await self._fetch(room, hold=hold)
                pause = pauses()
            except Mq9Error as failure:
                if isinstance(failure, Closed) or not failure.retryable:
                    self._fail(failure)
                    return
                log.warning("consumer of %s: %s; trying again", self.mail_address, failure)
                # A reply that came too late leased messages that never got here: ask for them as well.
                self._hold = hold and not isinstance(failure, RequestTimeout)
                await asyncio.sleep(next(pause))

    async def _fetch(self, room: int, *, hold: bool) -> None:
        max_wait_ms = self._options.get("max_wait_ms", WAIT_MS_DEFAULT)
        self._holding.asked()
        sent_s = _now()
        if self._tail is not None:
            messages = await self._tail.read(max_wait_ms)
        else:
            options = FetchOptions(**self._start)
            options["hold"] = hold or None
            messages = await self._client.fetch(
                self.mail_address, group_name=self.group_name, num_msgs=room, max_wait_ms=max_wait_ms, **options
            )
            self._start["force_deliver"] = False  # it restarts the group: once
        self._check_generation()  # the call may have spanned a reconnect: what it brought is leased, what was there is not
        if self._stopping:
            self._leftover += [message.msg_id for message in messages]
            return
        # The lease began after we asked, so it cannot end before this.
        lease_s = (self._start.get("ack_wait_ms") or ACK_WAIT_MS_DEFAULT) / 1000
        fresh = self._holding.take(messages, float("inf") if self._tail else sent_s + lease_s)
        for message in fresh:
            message._consumer = self  # noqa: SLF001  # a consumer marks its own messages
        self._arrived.set()
        if messages and not fresh:
            # A broker that does not know `hold` answers at once with what we have: ask again in a while.
            await asyncio.sleep(REPEATED_S)

    def _check_generation(self) -> None:
        """On a new connection nothing that waits in the buffer is leased to us any more; it will come again."""
        generation = self._client.generation
        if generation != self._generation:
            self._generation = generation
            if self._tail is None:
                self._holding.empty_buffer()

    async def _wait_for_room(self) -> None:
        end_s = self._holding.lease_end_s() if not self._auto_ack else None
        self._moved.clear()
        try:
            async with asyncio.timeout(None if end_s is None else max(0.01, end_s - _now())):
                await self._moved.wait()
        except TimeoutError:
            return  # a lease ran out that the program never confirmed: that makes room

    def _fail(self, failure: Mq9Error) -> None:
        if self._stopping:
            return
        self._failure = failure
        self._end()
        if self._handler is not None:
            log.error("consumer of %s ends: %s", self.mail_address, failure)
            self._stop_task = asyncio.create_task(self._stop())

    # --- Handing out ------------------------------------------------------------------------------------------

    async def _next(self) -> Message | None:
        """The next message; None at the end. Raises what ended the consumer."""
        while not self._stopping:
            self._check_generation()
            message = self._holding.next(_now())
            if message is not None:
                self._moved.set()
                return message
            self._arrived.clear()
            self._moved.set()
            await self._arrived.wait()
        if self._failure is not None and self._handler is None:
            raise self._failure
        return None

    async def _work(self, handler: Handler) -> None:
        while (message := await self._next()) is not None:
            try:
                await handler(message)
            except Exception as failure:  # noqa: BLE001  # whatever a handler raises is about its message, not about us
                await self._handler_failed(message, failure)
            else:
                self.processed_count += 1
                if self._auto_ack:
                    self._finish(message)

    async def _handler_failed(self, message: Message, failure: Exception) -> None:
        told = self._options.get("error_handler")
        try:
            if told is None:
                log.error("handler failed for message %d of %s", message.msg_id, self.mail_address, exc_info=failure)
            else:
                await told(message, failure)
        except Exception:  # the program's own error handler: its failure must not end the consumer either
            log.exception("error handler failed for message %d of %s", message.msg_id, self.mail_address)
        if not self._auto_ack:
            return
        delay_s = min(self._options.get("retry_delay_s", 1.0) * 2 ** min(max(message.deliveries - 1, 0), 16), RETRY_MAX_S)
        try:
            await self.nack(message, delay_s=delay_s)
        except Mq9Error as lost:
            log.warning("message %d of %s comes again when its lease ends: %s", message.msg_id, self.mail_address, lost)

    # --- Confirming -------------------------------------------------------------------------------------------

    async def ack(self, message: Message) -> bool:
        """Confirm one message; returns when that is on disk. Without a group there is nothing to confirm.

        False: in a cluster the mailbox has moved to another broker since the message was handed out, and it may come again.
        """
        if not self.group_name:
            self._holding.release(message.msg_id)
            self._moved.set()
            return True
        if not self._ended.is_set():
            waiter = self._waiting.setdefault(message.msg_id, asyncio.get_running_loop().create_future())
            self._finish(message)
            return await asyncio.shield(waiter)
        try:
            await self._client.ack(self.mail_address, self.group_name, [message.msg_id])
        except DeliveryLost as lost:
            log.info("consumer of %s: %s", self.mail_address, lost)
            return False
        return True

    async def nack(self, message: Message, *, delay_s: float = 0.0) -> None:
        """Give one message back to the group, which gets it again at once or after `delay_s` seconds."""
        self._holding.release(message.msg_id)
        self._moved.set()
        if self.group_name:
            await self._client.nack(self.mail_address, self.group_name, [message.msg_id], delay_s=delay_s)

    def _finish(self, message: Message) -> None:
        if not self.group_name:
            self._holding.release(message.msg_id)
            self._moved.set()
            return
        self._holding.finish(message.msg_id)
        self._finished.set()
        self._moved.set()

    async def _acks(self) -> None:
        pause = pauses()
        while True:
            await self._finished.wait()
            await asyncio.sleep(ACK_DELAY_S)
            self._finished.clear()
            try:
                while await self._confirm():
                    pass
                pause = pauses()
            except Mq9Error as failure:
                log.warning("consumer of %s cannot confirm: %s; trying again", self.mail_address, failure)
                await asyncio.sleep(next(pause))
                self._finished.set()

    async def _confirm(self) -> bool:
        """Confirm one batch; False when there was nothing. Raises when it should be tried again."""
        msg_ids = self._holding.to_confirm(ACK_BATCH_MAX)
        if not msg_ids:
            return False
        answer: bool | Mq9Error = True
        try:
            await self._client.ack(self.mail_address, self.group_name, msg_ids)
        except DeliveryLost as lost:
            log.info("consumer of %s: %s", self.mail_address, lost)  # as after a lease: nothing its handler can mend
            msg_ids = await self._confirm_each(msg_ids)
        except Mq9Error as refused:
            if refused.retryable and not isinstance(refused, Closed):
                raise
            answer = refused
        self._holding.confirmed(msg_ids)
        self._moved.set()
        self._tell(msg_ids, answer)
        return True

    async def _confirm_each(self, msg_ids: list[int]) -> list[int]:
        """Some of these come again: find out which, and be ready for them. The others, which are confirmed."""
        acks = (self._client.ack(self.mail_address, self.group_name, [msg_id]) for msg_id in msg_ids)
        answers = await asyncio.gather(*acks, return_exceptions=True)
        lost = [msg_id for msg_id, answer in zip(msg_ids, answers, strict=True) if isinstance(answer, DeliveryLost)]
        failed = next((each for each in answers if each is not None and not isinstance(each, DeliveryLost)), None)
        for msg_id in lost:
            self._holding.release(msg_id)  # not as confirmed: what the next reply carries of these is to be handed out
        self._tell(lost, False)
        self._hold = False  # a reply that is here already may have carried one, when it was still thought to be in hand
        if failed is not None:
            raise failed
        return [msg_id for msg_id in msg_ids if msg_id not in set(lost)]

    def _tell(self, msg_ids: list[int], answer: bool | Mq9Error) -> None:
        """Let the callers of ack() go on."""
        for msg_id in msg_ids:
            waiter = self._waiting.pop(msg_id, None)
            if waiter is None or waiter.done():
                continue
            if isinstance(answer, bool):
                waiter.set_result(answer)
            else:
                waiter.set_exception(answer)
                waiter.exception()  # a caller that was cancelled does not ask any more

    async def _give_back(self, msg_ids: list[int]) -> None:
        """Return what no worker will handle, so that others need not wait for its lease to end."""
        if not msg_ids or not self.group_name:
            return
        try:
            await self._client.nack(self.mail_address, self.group_name, msg_ids, timeout_s=GOODBYE_S)
        except Mq9Error as failure:
            log.debug("consumer of %s gave nothing back: %r", self.mail_address, failure)


def _start(options: ConsumeOptions) -> FetchOptions:
    """The options of a FETCH among those of a consumer."""
    start = FetchOptions(deliver=options.get("deliver", "latest"), force_deliver=options.get("force_deliver", False))
    start["from_time"] = options.get("from_time")
    start["from_id"] = options.get("from_id")
    start["tags"] = options.get("tags")
    start["ack_wait_ms"] = options.get("ack_wait_ms")
    return start


def _now() -> float:
    return asyncio.get_running_loop().time()
