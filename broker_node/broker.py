"""The broker: stores, partitions, registry and commands put together. It knows no socket and no event loop.

A published subject under `$mq9.AI.` comes in through `command`, and is carried out on the partition that has its mailbox: one
of this node, or by the cluster's help one of another. What the broker has to say goes out through the core router's
`deliver`, like any other published message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from broker_node.cluster.interface import Cluster
from broker_node.cluster.placing import place, place_agent
from broker_node.cluster.single import SingleNode
from broker_node.counters import Counters
from broker_node.handlers.mailbox_info import describe
from broker_node.loop_hooks import Cancellable, LoopHooks
from broker_node.mailbox.model import Mailbox
from broker_node.partition import Host, Partition, brief
from broker_node.permissions import PUBLIC_LIST
from broker_node.push.directory import Directory
from broker_node.router.client import Client
from broker_node.router.core import CoreRouter
from broker_node.router.dispatch import Handler, Placement, command_table, resolve
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

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        hooks: LoopHooks,
        store: Store | None = None,
        make_cluster: Callable[[Broker], Cluster] | None = None,
    ) -> None:
        """`store` takes the place of the one the settings ask for; the broker closes it either way. `make_cluster` is given
        the broker with all it has but its registry; without it the broker is in no cluster."""
        self.settings = settings
        self.clock = clock
        self.core = CoreRouter()
        self.counters = Counters()
        self._hooks = hooks
        self._ticking: Cancellable | None = None
        self._closed = False
        self.store = open_store(settings) if store is None else store
        self.commit = GroupCommit(
            self.store,
            clock,
            call_soon=hooks.call_soon,
            call_soon_threadsafe=hooks.call_soon_threadsafe,
            mode=settings.commit,
        )
        self.host = Host(settings, clock, hooks, self.counters, self._listed)
        self.cluster: Cluster
        if make_cluster is None:
            self.cluster = SingleNode(self.host, self.store, self.commit)
        else:
            self.cluster = make_cluster(self)
        self._make_request = self.cluster.request
        self.directory = Directory(self.cluster.list_public, can_miss=self.cluster.whole is None)
        self.registry = Registry(self.store, self.commit, clock, settings, hooks.call_soon_threadsafe)
        self.agents = self.cluster.agents(self.registry)
        self.is_writable = True  # False while the disk reserve is used up; as of the latest tick
        self.commands = command_table()
        self._routes: dict[bytes, tuple[Handler, Any, bytes, bool]] = {}

    @property
    def partition(self) -> Partition:
        """The one partition of a broker that is in no cluster."""
        assert self.cluster.whole is not None
        return self.cluster.whole

    # --- Commands ---------------------------------------------------------------------------------------------

    def command(self, client: Client, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """Carry out one mq9 command. Never raises: what goes wrong is answered on `reply`, or logged if there is none."""
        self.counters.commands += 1
        handle, target, tail, is_older = self._routes.get(subject) or self._route(subject)
        request = self._make_request(client, tail, reply, header, payload, self.core.deliver)
        if is_older:
            request.is_older = True
            client.dialect = client.dialect or 1
        try:
            handle(target, request)
        except Mq9Error as failure:
            self._refuse(request, subject, failure)
        except Exception:  # a bug in one command must not end the connection it came on, nor the loop
            log.exception("a bug in the handler of %r", subject)
            self._refuse(request, subject, error("INTERNAL"))

    def carry_out(self, handle: Handler, target: Any, request: Request, subject: bytes) -> None:
        """The same for a request of another node, or one that had to wait: it has its target."""
        try:
            handle(target, request)
        except Mq9Error as failure:
            self._refuse(request, subject, failure)
        except Exception:  # a bug must end neither the link that brought the request nor the loop
            log.exception("a bug in the handler of %r", subject)
            self._refuse(request, subject, error("INTERNAL"))

    def _route(self, subject: bytes) -> tuple[Handler, Any, bytes, bool]:
        """The handler of a subject, what it is to be given first, what follows the command in the subject, and whether only
        the older dialect has the command.

        Remembered, because the same few subjects come again and again.
        """
        command, tail, is_older = resolve(self.commands, subject)
        if command is None:
            return _unknown_command, self, tail, is_older
        handle = command.handle
        target: Any = self.cluster.whole if command.is_of_partition else self
        if target is None:
            handle, target = partial(place, command, subject), self.cluster
        elif command.placement is Placement.AGENT and self.cluster.whole is None:
            handle = partial(place_agent, command, subject)
        route = (handle, target, tail, is_older)
        if len(self._routes) >= _ROUTES_MAX:
            self._routes.clear()
        self._routes[subject] = route
        return route

    def _refuse(self, request: Request, subject: bytes, failure: Mq9Error) -> None:
        self.counters.refused += 1
        if not request.reply_to:
            log.debug("refused %r, which wanted no answer: %s", subject, failure.code)
        request.fail(failure)

    def health(self) -> str:
        """What keeps the broker from storing anything until somebody looks; empty when nothing does.

        A full disk is not it: that is answered for what it is, and passes by itself.
        """
        return next((part.mailboxes.storage_failure for part in self.cluster.partitions() if part.mailboxes.storage_failure), "")

    def mailz(self, offset: int, limit: int) -> dict[str, Any]:
        """Mailboxes in use, for the monitor: those in memory, the busiest kind there is. Addresses are secrets, so private
        ones are shown by id only."""
        parts = self.cluster.partitions()
        active = chain.from_iterable(((part, each) for each in part.mailboxes.active.values()) for part in parts)
        return {
            "mailboxes_total": sum(part.mailboxes.count() for part in parts),
            "active": sum(len(part.mailboxes.active) for part in parts),
            "offset": offset,
            "limit": limit,
            "mailboxes": [self._shown(part, mailbox) for part, mailbox in list(islice(active, offset, offset + limit))],
        }

    def _shown(self, part: Partition, mailbox: Mailbox) -> dict[str, Any]:
        shown = describe(part, mailbox)
        if not mailbox.definition.public:
            shown["mail_address"] = ""
        oldest = part.walking.oldest(mailbox)
        age_s = max(0, self.clock.wall_ms() - oldest.create_ms) / 1000 if oldest is not None else 0.0
        return {"id": mailbox.id, **shown, "oldest_age_s": age_s, "waiting": len(mailbox.waiters)}

    # --- Clients ----------------------------------------------------------------------------------------------

    def client_closed(self, client: Client) -> None:
        """A connection is gone: what it held is free."""
        self.cluster.client_closed(client)

    def client_writable(self, client: Client) -> None:
        """The socket of a client has taken what waited: what is pushed to it can go on."""
        self.cluster.client_writable(client)
        self.directory.client_writable(client)

    def holds_untaken(self, client: Client) -> bool:
        """Whether the client was pushed messages that its socket has not taken, and that go to others if it closes."""
        return self.cluster.holds_untaken(client)

    def subscribe(self, client: Client, sub: Subscription) -> None:
        """A client subscribed under `$mq9.AI.`: to a mailbox, or to the public directory."""
        if sub.subject == PUBLIC_LIST:
            self.directory.subscribe(client, sub)
        else:
            self.cluster.subscribe(client, sub)

    def unsubscribe(self, client: Client, sub: Subscription) -> None:
        """It does not want that subscription any more."""
        if sub.subject == PUBLIC_LIST:
            self.directory.unsubscribe(sub)
        else:
            self.cluster.unsubscribe(sub)

    def overloaded(self) -> bool:
        """More is staged, or on its way to other nodes, than should be: clients are not read until it is less."""
        return self.cluster.staged_bytes > STAGED_BYTES_MAX or self.cluster.is_crowded

    def _listed(self, mailbox: Mailbox, event: str) -> None:
        """A public mailbox of a partition here came or went."""
        self.cluster.listed(brief(mailbox), event)
        self.directory.changed(brief(mailbox), event)

    # --- Time -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what is stored, and begin to reclaim. In a cluster the registry takes up a slot when it is led here."""
        if self.cluster.whole is not None:
            self.registry.start()
        self._tick()

    def _tick(self) -> None:
        """A few times a second: a bounded step of everything that is over."""
        self._ticking = self._hooks.call_later(RECLAIM_TICK_S, self._tick)
        stat = self.store.stat()
        self.is_writable = stat.writable or stat.failed  # a store that has failed says so itself: it is not full
        for part in self.cluster.partitions():
            part.reclaim.step(writable=self.is_writable)
        self.registry.tick(self.clock.wall_ms())
        self.directory.tick()

    def close(self) -> None:
        """Commit what is staged, answer who waits for it, and give the directory free."""
        if self._closed:
            return
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()
        self.registry.close()
        self.cluster.close()
        self.commit.close()
        self.store.close()
