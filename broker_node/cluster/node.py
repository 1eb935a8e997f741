"""One node of a cluster, put together: who is in the cluster, the streams to them, the slots here, and the way to the others.

    broker = Broker(settings, clock, hooks, make_cluster=ClusterNode)
    await broker.cluster.start(client_port)    # listens to peers, is registered, watches
    ...
    broker.close()                             # closes partitions, commits, closes the store
    await broker.cluster.leave()               # others lead what was led here

What comes over a link is handled kind by kind, in the order of `handlers`; what comes from the meta service goes to the links
first, then to the slots, then to whoever follows them. It is a `Cluster` (interface.py) for the broker and a `View` for the
registry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from broker_node.cluster import disk
from broker_node.cluster.core import ClusterRouter
from broker_node.cluster.cut_off import CutOff
from broker_node.cluster.elsewhere import Elsewhere, Handler
from broker_node.cluster.group_lags import GroupLags
from broker_node.cluster.in_sync import InSync
from broker_node.cluster.link import Link
from broker_node.cluster.links import VERSION, PeerLinks
from broker_node.cluster.mailboxes import ClusterMailboxes
from broker_node.cluster.membership import Membership
from broker_node.cluster.offsets import Offsets
from broker_node.cluster.registry_peers import RegistryPeers
from broker_node.cluster.replicator import TICK_S, Replicator
from broker_node.cluster.served import Served
from broker_node.cluster.standings import Standings
from mq9.limits import SLOTS
from mq9.settings import check_cluster
from mq9.v1 import meta_pb2 as meta
from mq9.v1.peer_pb2 import PeerBatch, PeerHello, Standing

if TYPE_CHECKING:
    from broker_node.broker import Broker
    from broker_node.cluster.requests import PlacedRequest
    from broker_node.loop_hooks import Cancellable
    from broker_node.mailbox.listing import Listed, Page
    from broker_node.partition import Partition
    from broker_node.router.client import Client
    from broker_node.router.request import Request
    from broker_node.router.sublist import Subscription
    from mq9.registry.registry import Commit, Registry

log = logging.getLogger("mq9.cluster")

NOTICE_S: Final = 0.1  # brokers that are told to stop together hear it, and of each other, in this time
SETTLE_S: Final = 1.0  # what replicas get for their last acknowledgements when a node stops
WILDCARDS: Final = ("", "0.0.0.0", "::")  # noqa: S104  # addresses that nobody can connect to


class ClusterNode:
    """See the module. `on_urls` hears where clients may connect to, `registry` is the broker's."""

    whole = None

    def __init__(self, broker: Broker, make_elsewhere: Callable[[ClusterNode], Elsewhere] = ClusterMailboxes) -> None:
        """Raises INVALID_REQUEST for settings, certificates and data directories that cannot be those of a member."""
        check_cluster(broker.settings)
        self.broker = broker
        self.settings = broker.settings
        self.membership = Membership(broker.settings, broker.clock, disk.disk_id(broker.store))
        self.links = PeerLinks(broker.settings, self._identity, broker.clock)
        self.served = Served(broker)
        self.replicator = Replicator(broker.store, broker.commit, broker.clock, self.membership, self.served, self._ask_isr)
        self.in_sync = InSync(self.membership)
        self.offsets = Offsets(self.membership.client)
        self.standings = Standings(self.membership.lease_holds, broker.clock)
        self.cut_off = CutOff(self.membership, self.standings, broker.clock)
        self.membership.offsets_waiting = lambda: self.offsets.waiting
        self.group_lags = GroupLags(broker.store, broker.clock, self.served.partitions)
        self.membership.group_lags = self.group_lags.worst
        core = ClusterRouter(broker.host.hooks)
        broker.core = core
        self.interest = core.interest
        self.registry_peers: RegistryPeers
        self.on_urls: Callable[[list[str]], None] = lambda _: None
        self.urls: list[str] = []
        self._leaders: dict[int, str] = {}
        self._ticking: Cancellable | None = None
        self._closed = False
        self.elsewhere = self.served.elsewhere = make_elsewhere(self)
        self.handlers: dict[str, Handler] = {}
        self._connect()

    def _connect(self) -> None:
        """Tell each part of what it must know."""
        links, replicator = self.links, self.replicator
        replicator.on_given_up = self.membership.register_anew
        replicator.on_floors = self.offsets.changed
        self.served.leaders = replicator.leaders
        self.served.on_damaged = replicator.give_up
        self.group_lags.on_damaged = self.served.met
        links.on_batch = self._on_batch
        links.on_up = self._link_up
        links.on_down = self._link_down
        links.on_accepted = self._accepted_up
        links.on_accepted_down = self._accepted_down
        self.handlers = {
            "standings": self.standings.on_standings,
            "interests": self.interest.on_interests,
            "appends": replicator.on_appends,
            "acks": replicator.on_acks,
            "copies": replicator.on_copies,
            "messages": self.interest.on_messages,
            "discovers": _each(lambda link, question: self.registry_peers.on_discover(link, question)),  # noqa: PLW0108  # made later
            "discovered": _each(lambda link, answer: self.registry_peers.on_discovered(link, answer)),  # noqa: PLW0108  # made later
            **self.elsewhere.handlers,
        }

    # --- Coming and going -----------------------------------------------------------------------------------------

    async def start(self, client_port: int) -> None:
        """Listen to peers, register, have the view and the lease. Raises OSError or Mq9Error; nothing is left open then."""
        settings, membership = self.settings, self.membership
        try:
            port = await self.links.start()
            membership.peer_address = settings.peer_advertise or _address(settings.peer_host, port)
            membership.client_address = settings.client_advertise or _address(self._client_host(), client_port)
            await membership.start()
            assert membership.config is not None, "a membership that has started has a view"
            disk.join(self.broker.store, membership.config.cluster_id)
        except BaseException:  # whatever it was, nothing is left running
            await self._disconnect()
            raise
        log.info("node %s of cluster %s", self.node, membership.config.cluster_id.hex())
        self.broker.registry.join_cluster(self.commit_of, self.slots)
        # Only now, when it is known whose slots these are, is anything written to the store because of them.
        membership.on_change = self._view_changed
        membership.on_lease = self._lease_changed
        self._view_changed(meta.Delta(rev=membership.rev, full=True, slots=membership.slots.values()))
        self._lease_changed(membership.lease_holds())
        self._tick()

    def _client_host(self) -> str:
        """Where clients reach this node, if nobody said it: where its peers do."""
        host = self.settings.host
        if host in WILDCARDS:
            host = self.membership.peer_address.rpartition(":")[0].strip("[]")
        return host

    def close(self) -> None:
        """Serve nothing any more; whoever waits is answered. Links and session go on until `leave`."""
        if self._closed:
            return
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()
        self.links.on_batch = _nothing  # the store is about to be closed
        self.elsewhere.close()
        self.replicator.close()
        self.in_sync.close()
        self.offsets.close()
        self.registry_peers.close()

    async def leave(self) -> None:
        """After `close`: have the meta service choose other leaders at once, and let go of the peers."""
        await self.membership.leave()
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self.membership.close()
        await self.links.close()

    def clients_close(self) -> None:
        """The node stops, and begins to close its clients."""
        self.standings.reach(Standing.CLOSING)

    async def settle(self) -> None:
        """The clients are closed. Give what was asked for so far some time to be answered, what was pushed to clients of others
        to be taken, and brokers that stop as well time to replicate theirs here."""
        self.standings.reach(Standing.CLOSED)
        for partition in self.partitions():
            partition.pushing.rest()
        await asyncio.sleep(NOTICE_S)
        await self.standings.all_reach(Standing.CLOSED)  # what their clients took of our slots is known here now
        now_s = self.broker.clock.monotonic_s
        until_s = now_s() + SETTLE_S
        while self._is_unsettled() and now_s() < until_s:  # noqa: ASYNC110  # nothing tells when it is settled
            await asyncio.sleep(SETTLE_S / 100)
        self.standings.reach(Standing.SETTLED)
        await self.standings.all_reach(Standing.SETTLED)

    def _is_unsettled(self) -> bool:
        return bool(self.replicator.pending_bytes()) or any(each.pushing.is_waiting() for each in self.partitions())

    def _tick(self) -> None:
        self._ticking = self.broker.host.hooks.call_later(TICK_S, self._tick)
        self.replicator.tick()
        self.cut_off.look()
        self.group_lags.step()
        self.served.mend()

    def _lease_changed(self, holds: bool) -> None:
        self.replicator.lease_changed(holds)
        self.standings.tell()
        self.cut_off.look()

    def _ask_isr(self, leader: Any, change: meta.IsrChange) -> None:
        self.in_sync.ask(leader, change)

    # --- Links ----------------------------------------------------------------------------------------------------

    def _identity(self) -> PeerHello:
        config = self.membership.config
        cluster_id = config.cluster_id if config is not None else b""
        incarnation = self.membership.incarnation if cluster_id else 0
        return PeerHello(node=self.node, incarnation=incarnation, cluster_id=cluster_id, version=VERSION)

    def _on_batch(self, link: Link, batch: PeerBatch) -> None:
        for kind, handle in self.handlers.items():
            envelopes = getattr(batch, kind)
            if envelopes:
                handle(link, envelopes)

    def _link_up(self, link: Link) -> None:
        self.standings.link_up(link)
        self.interest.link_up(link)
        self.replicator.link_up(link)
        self.elsewhere.link_up(link)

    def _link_down(self, link: Link) -> None:
        self.standings.link_down(link)
        self.interest.link_down(link)
        self.replicator.link_down(link)
        self.registry_peers.on_down(link)
        self.elsewhere.link_down(link)
        self.membership.report(link.node, link.incarnation)

    def _accepted_up(self, link: Link) -> None:
        self.standings.link_up(link)
        self.replicator.accepted(link)

    def _accepted_down(self, link: Link) -> None:
        self.standings.link_down(link)
        self.interest.link_down(link)
        self.replicator.accepted_down(link)
        self.elsewhere.link_down(link)

    # --- The view -------------------------------------------------------------------------------------------------

    def _view_changed(self, delta: meta.Delta) -> None:
        if self._closed:
            return
        alive = [broker for broker in self.membership.brokers.values() if broker.state != meta.FENCED]
        self.links.set_peers({broker.id: (broker.peer_address, broker.incarnation) for broker in alive})
        if delta.slots or delta.full:
            self._leaders = {number: slot.primary for number, slot in self.membership.slots.items() if slot.primary}
        self.replicator.view_changed(delta.slots)
        self.elsewhere.view_changed(delta.slots)
        urls = sorted(broker.client_address for broker in alive)
        if urls != self.urls:
            self.urls = urls
            self.on_urls(urls)

    # --- What the broker asks -------------------------------------------------------------------------------------

    def commit_of(self, key: bytes) -> Commit | None:
        """Where the registry stages a row of an agent: with the slot that its key begins with."""
        partition = self.partition(int.from_bytes(key[:2]))
        return partition.durable.commit if partition is not None else None

    @property
    def node(self) -> str:
        """Our name."""
        return self.membership.node

    @property
    def slots(self) -> int:
        """How many the cluster has."""
        config = self.membership.config
        return config.slots if config is not None else SLOTS

    @property
    def request(self) -> type[Request]:
        return self.elsewhere.request

    @property
    def staged_bytes(self) -> int:
        return self.replicator.pending_bytes() + self.elsewhere.waiting_bytes

    @property
    def is_crowded(self) -> bool:
        return self.links.is_filling

    def may_serve(self) -> bool:
        """Whether our lease holds."""
        return self.membership.lease_holds()

    def leaders(self) -> Mapping[int, str]:
        """Who leads which slot, by the newest view."""
        return self._leaders

    def leader(self, slot: int) -> str:
        """Who leads a slot by the newest view; empty: nobody."""
        return self._leaders.get(slot, "")

    def epoch(self, slot: int) -> int:
        """In which epoch."""
        known = self.membership.slots.get(slot)
        return known.epoch if known is not None else 0

    def link(self, node: str) -> Link | None:
        """The stream we dialed to a node, if it is up."""
        return self.links.link(node)

    def partition(self, slot: int) -> Partition | None:
        """The partition of a slot that is served here, while our lease holds."""
        return self.served.partitions.get(slot) if self.membership.lease_holds() else None

    def partitions(self) -> Collection[Partition]:
        return self.served.partitions.values()

    def forward(self, request: PlacedRequest) -> None:
        self.elsewhere.forward(request)

    def take_back(self, request: PlacedRequest) -> bool:
        return self.elsewhere.take_back(request)

    def subscribe(self, client: Client, sub: Subscription) -> None:
        self.elsewhere.subscribe(client, sub)

    def unsubscribe(self, sub: Subscription) -> None:
        self.elsewhere.unsubscribe(sub)

    def client_closed(self, client: Client) -> None:
        self.elsewhere.client_closed(client)

    def client_writable(self, client: Client) -> None:
        self.elsewhere.client_writable(client)

    def holds_untaken(self, client: Client) -> bool:
        return self.elsewhere.holds_untaken(client)

    def listed(self, mailbox: dict[str, Any], event: str) -> None:
        self.elsewhere.listed(mailbox, event)

    def list_public(self, page: Page, listed: Listed) -> None:
        self.elsewhere.list_public(page, listed)

    def agents(self, registry: Registry) -> RegistryPeers:
        self.registry_peers = RegistryPeers(registry, self, self.broker.clock, self.broker.host.hooks)
        return self.registry_peers

    def others(self) -> list[str]:
        """Where clients of this node can go."""
        return [url for url in self.urls if url != self.membership.client_address]

    def health(self) -> str:
        """What keeps this node from serving its slots; empty when nothing does."""
        if self.membership.failure is not None:
            return f"no member of the cluster any more: {self.membership.failure.text}"
        if not self.membership.lease_holds():
            sent = ", and clients are sent to other brokers" if self.cut_off.is_cut_off else ""
            return f"the lease has ended: the meta service is out of reach, or has ended the session{sent}"
        return ""

    def stats(self) -> dict[str, Any]:
        membership, replicator = self.membership, self.replicator
        alive = sum(broker.state != meta.FENCED for broker in membership.brokers.values())
        return {
            "node": self.node,
            "incarnation": membership.incarnation,
            "peer_address": membership.peer_address,
            "lease": membership.lease_holds(),
            "cut_off": self.cut_off.is_cut_off,
            "rev": membership.rev,
            "brokers": len(membership.brokers),
            "brokers_alive": alive,
            "peers_up": sorted(self.links.up()),
            "slots": self.slots,
            "slots_led": len(replicator.leaders),
            "slots_served": len(self.served.partitions),
            "slots_followed": len(replicator.followers),
            **self.elsewhere.stats(),
        }


def _each(handle: Callable[[Link, Any], None]) -> Handler:
    """A handler of all envelopes of a kind from one of a single envelope."""

    def handle_all(link: Link, envelopes: Iterable[Any]) -> None:
        for envelope in envelopes:
            handle(link, envelope)

    return handle_all


def _nothing(link: Link, batch: PeerBatch) -> None:
    """The node has closed."""


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
