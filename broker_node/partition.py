"""A partition: everything the domain knows of the mailboxes of one slot, or, outside a cluster, of all of them.

Handlers of mailbox commands see a partition and nothing else. A node of a cluster has one for each slot it leads; it is made
when the node may serve the slot and closed when it may not, so a change of leader never has to pick a slot's pieces out of
shared state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from broker_node.counters import Counters
from broker_node.handlers.mailbox_info import describe
from broker_node.loop_hooks import Cancellable, LoopHooks
from broker_node.mailbox.acking import Acking
from broker_node.mailbox.dead_letters import DeadLetters
from broker_node.mailbox.delayed import Delayed
from broker_node.mailbox.deleting import Deleting
from broker_node.mailbox.fetching import Fetching
from broker_node.mailbox.grouping import Grouping
from broker_node.mailbox.listing import Page
from broker_node.mailbox.mailboxes import Mailboxes
from broker_node.mailbox.model import Mailbox, Shelf
from broker_node.mailbox.pushing import Push, Pushing
from broker_node.mailbox.reclaim import Reclaim
from broker_node.mailbox.sending import Sending
from broker_node.mailbox.walking import Walking
from broker_node.push.wire import push_for
from broker_node.router.client import Client
from broker_node.router.request import Request
from broker_node.router.sublist import Subscription
from mq9.clock import Clock
from mq9.errors import Mq9Error, StorageError, error
from mq9.limits import SLOTS
from mq9.settings import Settings
from mq9.storage.commit import Commit, GroupCommit
from mq9.storage.interface import Store
from mq9.storage.memory_store import MemoryStore

_LOOK_MAX: Final = 20_000  # definitions looked at for one page of public mailboxes


class Host(NamedTuple):
    """What the partitions of a node share. `listed` hears of public mailboxes that come and go."""

    settings: Settings
    clock: Clock
    hooks: LoopHooks
    counters: Counters
    listed: Callable[[Mailbox, str], None]


class Partition:
    """See the module. Somebody steps its `reclaim` a few times a second, and closes it once."""

    def __init__(self, host: Host, store: Store, commit: Commit, *, slot: int | None = None, slots: int = SLOTS) -> None:
        """`commit` writes to `store`; both belong to the caller. `slot` of `slots`, or None for all of them."""
        self.settings, self.clock, hooks, self.counters, listed = host
        self.slot = slot
        self._hooks = hooks
        self._timer: Cancellable | None = None
        self._timer_due_s = 0.0
        self._closed = False
        self.durable = Shelf(store, commit, memory=False, slot=slot)
        in_memory = MemoryStore()
        self._memory_commit = memory_commit = GroupCommit(
            in_memory, self.clock, call_soon=hooks.call_soon, call_soon_threadsafe=hooks.call_soon_threadsafe, mode="inline"
        )
        self.memory = Shelf(in_memory, memory_commit, memory=True, slot=slot)
        self.mailboxes = Mailboxes(self.durable, self.memory, self.clock, self.settings, self.counters)
        self.mailboxes.slots = slots
        self.mailboxes.on_listed = listed
        self.walking = Walking(self.mailboxes)
        self.fetching = Fetching(self.mailboxes, Grouping(self.walking), hooks.call_soon)
        self.deleting = Deleting(self.mailboxes)
        self.sending = Sending(self.mailboxes, self.fetching, self.deleting)
        self.delayed = Delayed(self.mailboxes, self.sending)
        self.acking = Acking(self.mailboxes, self.fetching)
        self.dead_letters = DeadLetters(self.mailboxes, self.fetching, self.acking, self.deleting, self.sending)
        self.pushing = Pushing(self.mailboxes, self.fetching, self.acking, hooks.call_soon)
        self.reclaim = Reclaim(self.mailboxes, self.deleting)
        self._pushes: dict[Subscription, Push] = {}
        self.timers = self.mailboxes.timers
        self.timers.on_earlier = self._arm

    def watch_damage(self, met: Callable[[StorageError], None], is_whole_elsewhere: Callable[[], bool]) -> None:
        """In a cluster: `met` hears, often more than once, what could not be read; others may have it whole."""
        self.mailboxes.on_damaged = self.timers.on_damaged = met
        self.mailboxes.is_whole_elsewhere = is_whole_elsewhere

    def told(self, failure: Mq9Error) -> Mq9Error:
        """What is said of an error to whoever asked: with damage that is repaired, to ask again."""
        if failure.code != "DATA_DAMAGED" or not isinstance(failure, StorageError):
            return failure
        self.mailboxes.on_damaged(failure)
        if not self.mailboxes.is_whole_elsewhere():
            return failure
        return error("UNAVAILABLE", reason="what is stored here is damaged; a broker that has it whole takes over, ask again")

    def after_staged(self, mailbox: Mailbox, look: Callable[[], None], request: Request) -> None:
        """Run `look` once everything sent to `mailbox` so far is visible: at once if it is."""
        if not mailbox.staged_ops:
            look()
            return

        def settled(failure: Mq9Error | None) -> None:
            if self._closed and self.slot is not None:  # others may serve it by now
                request.fail(error("UNAVAILABLE", reason="the mailbox moves to another broker"))
                return
            try:
                look()
            except Mq9Error as problem:
                request.fail(problem)

        mailbox.shelf.commit.then(settled)

    def list_public(self, page: Page) -> tuple[list[dict[str, Any]], bytes]:
        """The public mailboxes of this partition, and where the next page begins; that is empty at the end."""
        boxes = self.mailboxes
        found, following = boxes.public_page(page.after, page.prefix, page.limit, _LOOK_MAX)
        listed = [mailbox for mailbox in map(boxes.lookup, found) if mailbox is not None]
        return [describe(self, mailbox) if page.full else brief(mailbox) for mailbox in listed], following

    # --- Clients ----------------------------------------------------------------------------------------------

    def subscribe(self, client: Client, sub: Subscription) -> None:
        """A client subscribed to a mailbox."""
        client.dialect = client.dialect or 1
        push = push_for(self.mailboxes, client, sub)
        if push.group:
            client.keep_little()
        self._pushes[sub] = push
        try:
            self.pushing.add(push)
        except StorageError:  # it is known nevertheless; in a cluster it is taken to whoever has the mailbox whole
            if self.slot is None:
                raise

    def push_of(self, sub: Subscription) -> Push | None:
        """What is known of a subscription: how far it has been told."""
        return self._pushes.get(sub)

    def unsubscribe(self, sub: Subscription) -> None:
        """It does not want that subscription any more."""
        push = self._pushes.pop(sub, None)
        if push is not None:
            self.pushing.remove(push)

    def client_closed(self, client: Client, *, is_sure: bool = True) -> None:
        """A connection is gone: what it held is free. Not `is_sure`: it may have had more than we have heard of."""
        self.fetching.owner_gone(client.id)
        self.pushing.client_closed(client, is_sure=is_sure)

    # --- Time -------------------------------------------------------------------------------------------------

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
        self.timers.run_due(self.clock.monotonic_s())
        deadline_s = self.timers.next_deadline_s()
        if deadline_s is not None:
            self._arm(deadline_s)

    def close(self) -> None:
        """No timer runs any more; who waits for messages is told to ask again, and nobody is pushed anything.

        What is staged goes with the caller's commit; memory mailboxes go with the partition.
        """
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.fetching.close()
        self.pushing.close()
        self.dead_letters.close()
        self._memory_commit.close()
        self.memory.store.close()


def brief(mailbox: Mailbox) -> dict[str, Any]:
    """What the public directory says of a mailbox, under the names `describe` has for it."""
    definition = mailbox.definition
    return {"mail_address": mailbox.address.decode("utf-8", "replace"), "desc": definition.desc, "ttl": definition.ttl_s}
