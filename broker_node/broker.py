"""The broker: stores, mailboxes, registry and commands put together. It knows no socket and no event loop.

A published subject under `$mq9.AI.` comes in through `command`; what the broker has to say goes out through the core
router's `deliver`, like any other published message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Final

from broker_node.counters import Counters
from broker_node.handlers.mailbox_info import describe
from broker_node.loop_hooks import Cancellable, LoopHooks
from broker_node.mailbox.acking import Acking
from broker_node.mailbox.dead_letters import DeadLetters
from broker_node.mailbox.delayed import Delayed
from broker_node.mailbox.deleting import Deleting
from broker_node.mailbox.fetching import Fetching
from broker_node.mailbox.grouping import Grouping
from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Mailbox, Shelf
from broker_node.mailbox.pushing import Push, Pushing
from broker_node.mailbox.reclaim import Reclaim
from broker_node.mailbox.sending import Sending
from broker_node.mailbox.walking import Walking
from broker_node.permissions import PUBLIC_LIST
from broker_node.push.directory import Directory
from broker_node.push.wire import push_for
from broker_node.router.client import Client
from broker_node.router.core import CoreRouter
from broker_node.router.dispatch import OLDER_ONLY, Handler, command_table
from broker_node.router.request import Request
from broker_node.router.sublist import Subscription
from mq9.clock import Clock
from mq9.errors import Mq9Error, error
from mq9.limits import RECLAIM_TICK_S, STAGED_BYTES_MAX
from mq9.registry.registry import Registry
from mq9.settings import Settings
from mq9.storage.commit import GroupCommit
from mq9.storage.interface import Store
from mq9.storage.lmdb_store import LmdbStore
from mq9.storage.memory_store import MemoryStore

log = logging.getLogger("mq9.broker")

_ROUTES_MAX: Final = 65_536  # subjects remembered


def open_store(settings: Settings) -> Store:
    """The durable store the settings ask for. Raises an Mq9Error that says what is wrong with the directory."""
    if settings.storage == "memory":
        return MemoryStore()
    return LmdbStore(Path(settings.data_dir), sync=settings.sync, reserve_bytes=settings.disk_reserve, crash_marker=True)


def _unknown_command(broker: Broker, request: Request) -> None:
    """What answers a subject that is no command; the whole subject is in `tail`."""
    raise error("UNKNOWN_COMMAND", subject=request.tail.decode("utf-8", "replace"))


class Broker:
    """One node. Build it, `start` it, feed it commands, `close` it. Everything happens on the loop's thread."""

    def __init__(self, settings: Settings, clock: Clock, hooks: LoopHooks, store: Store | None = None) -> None:
        """`store` takes the place of the one the settings ask for; the broker closes it either way."""
        self.settings = settings
        self.clock = clock
        self.core = CoreRouter()
        self.counters = Counters()
        self._hooks = hooks
        self._timer: Cancellable | None = None
        self._timer_due_s = 0.0
        self._closed = False
        self.durable = self._shelf(open_store(settings) if store is None else store, settings.commit, memory=False)
        self.memory = self._shelf(MemoryStore(), "inline", memory=True)
        self.mailboxes = Mailboxes(self.durable, self.memory, clock, settings, self.counters)
        self.walking = Walking(self.mailboxes)
        self.fetching = Fetching(self.mailboxes, Grouping(self.walking), hooks.call_soon)
        self.deleting = Deleting(self.mailboxes)
        self.sending = Sending(self.mailboxes, self.fetching, self.deleting)
        self.delayed = Delayed(self.mailboxes, self.sending)
        self.acking = Acking(self.mailboxes, self.fetching)
        self.dead_letters = DeadLetters(self.mailboxes, self.fetching, self.acking, self.deleting, self.sending)
        self.pushing = Pushing(self.mailboxes, self.fetching, self.acking, hooks.call_soon)
        self.directory = Directory(self.mailboxes)
        self._pushes: dict[Subscription, Push] = {}
        self.registry = Registry(self.durable.store, self.durable.commit, clock, settings, hooks.call_soon_threadsafe)
        self.reclaim = Reclaim(self.mailboxes, self.deleting)
        self._commands = command_table()
        self._routes: dict[bytes, tuple[Handler, bytes, bool]] = {}
        self._timers = self.mailboxes.timers
        self._timers.on_earlier = self._arm

    def _shelf(self, store: Store, mode: str, *, memory: bool) -> Shelf:
        commit = GroupCommit(
            store,
            self.clock,
            call_soon=self._hooks.call_soon,
            call_soon_threadsafe=self._hooks.call_soon_threadsafe,
            mode=mode,
        )
        return Shelf(store, commit, memory=memory)

    # --- Commands ---------------------------------------------------------------------------------------------

    def command(self, client: Client, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """Carry out one mq9 command. Never raises: what goes wrong is answered on `reply`, or logged if there is none."""
        self.counters.commands += 1
        handle, tail, is_older = self._routes.get(subject) or self._route(subject)
        request = Request(client, tail, reply, header, payload, self.core.deliver)
        if is_older:
            request.is_older = True
            client.dialect = client.dialect or 1
        try:
            handle(self, request)
        except Mq9Error as failure:
            self._refuse(request, subject, failure)
        except Exception:  # a bug in one command must not end the connection it came on, nor the loop
            log.exception("a bug in the handler of %r", subject)
            self._refuse(request, subject, error("INTERNAL"))

    def _route(self, subject: bytes) -> tuple[Handler, bytes, bool]:
        """The handler of a subject, what follows the command in it, and whether only the older dialect has the command.

        Remembered, because the same few subjects come again and again.
        """
        parts = subject.split(b".", 4)  # $mq9, AI, noun, verb, tail
        tail = parts[4] if len(parts) > 4 else b""
        name = (parts[2], parts[3]) if len(parts) > 3 else (b"", b"")
        command = self._commands.get(name)
        if command is None or command.has_tail is not bool(tail):
            return _unknown_command, subject, name in OLDER_ONLY
        route = (command.handle, tail, name in OLDER_ONLY)
        if len(self._routes) >= _ROUTES_MAX:
            self._routes.clear()
        self._routes[subject] = route
        return route

    def _refuse(self, request: Request, subject: bytes, failure: Mq9Error) -> None:
        self.counters.refused += 1
        if request.reply_to:
            request.fail(failure)
        else:
            log.debug("refused %r, which wanted no answer: %s", subject, failure.code)

    def after_staged(self, mailbox: Mailbox, look: Callable[[], None], request: Request) -> None:
        """Run `look` once everything sent to `mailbox` so far is visible: at once if it is."""
        if not mailbox.staged_ops:
            look()
            return

        def settled(failure: Mq9Error | None) -> None:
            try:
                look()
            except Mq9Error as problem:
                request.fail(problem)

        mailbox.shelf.commit.then(settled)

    def health(self) -> str:
        """What keeps the broker from storing anything until somebody looks; empty when nothing does.

        A full disk is not it: that is answered for what it is, and passes by itself.
        """
        return self.mailboxes.storage_failure

    def mailz(self, offset: int, limit: int) -> dict[str, Any]:
        """Mailboxes in use, for the monitor: those in memory, the busiest kind there is. Addresses are secrets, so private
        ones are shown by id only."""
        active = list(islice(self.mailboxes.active.values(), offset, offset + limit))
        return {
            "mailboxes_total": self.durable.mailboxes + self.memory.mailboxes,
            "active": len(self.mailboxes.active),
            "offset": offset,
            "limit": limit,
            "mailboxes": [self._shown(mailbox) for mailbox in active],
        }

    def _shown(self, mailbox: Mailbox) -> dict[str, Any]:
        shown = describe(self, mailbox)
        if not mailbox.definition.public:
            shown["mail_address"] = ""
        oldest = self.walking.oldest(mailbox)
        age_s = max(0, self.clock.wall_ms() - oldest.create_ms) / 1000 if oldest is not None else 0.0
        return {"id": mailbox.id, **shown, "oldest_age_s": age_s, "waiting": len(mailbox.waiters)}

    # --- Clients ----------------------------------------------------------------------------------------------

    def client_closed(self, client: Client) -> None:
        """A connection is gone: what it held is free."""
        self.fetching.owner_gone(client.id)
        self.pushing.client_closed(client)

    def client_writable(self, client: Client) -> None:
        """The socket of a client has taken what waited: what is pushed to it can go on."""
        self.pushing.client_writable(client)
        self.directory.client_writable(client)

    def subscribe(self, client: Client, sub: Subscription) -> None:
        """A client subscribed under `$mq9.AI.`: to a mailbox, or to the public directory."""
        if sub.subject == PUBLIC_LIST:
            self.directory.subscribe(client, sub)
            return
        client.dialect = client.dialect or 1
        push = push_for(self.mailboxes, client, sub)
        if push.group:
            client.keep_little()
        self._pushes[sub] = push
        self.pushing.add(push)

    def unsubscribe(self, client: Client, sub: Subscription) -> None:
        """It does not want that subscription any more."""
        push = self._pushes.pop(sub, None)
        if push is None:
            self.directory.unsubscribe(sub)
        else:
            self.pushing.remove(push)

    def overloaded(self) -> bool:
        """More is staged than should be: clients are not read until it is less."""
        return self.durable.commit.staged_bytes > STAGED_BYTES_MAX

    # --- Time -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what is stored, and begin to reclaim."""
        self.registry.start()
        self._tick()

    def _tick(self) -> None:
        """A few times a second: a bounded step of everything that is over."""
        self.reclaim.step()
        self.registry.tick(self.clock.wall_ms())
        self._timers.at(self.clock.monotonic_s() + RECLAIM_TICK_S, self._tick)

    def _arm(self, deadline_s: float) -> None:
        """The earliest timer has changed: have the loop call when it is due."""
        if self._closed or (self._timer is not None and self._timer_due_s <= deadline_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_s = deadline_s
        wait_s = max(0.0, deadline_s - self.clock.monotonic_s())
        self._timer = self._hooks.call_later(wait_s, self._run_timers)

    def _run_timers(self) -> None:
        self._timer = None
        self._timers.run_due(self.clock.monotonic_s())
        deadline_s = self._timers.next_deadline_s()
        if deadline_s is not None:
            self._arm(deadline_s)

    def close(self) -> None:
        """Commit what is staged, answer who waits for it, and give the directory free."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.registry.close()
        self.fetching.close()
        self.pushing.close()
        for shelf in (self.durable, self.memory):
            shelf.commit.close()
            shelf.store.close()
