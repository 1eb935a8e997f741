"""This broker as the meta service knows it: registration, the lease, and the view of brokers, slots and configuration.

    membership = Membership(settings, clock, disk_id)
    membership.peer_address, membership.client_address = "10.0.0.1:9324", "10.0.0.1:4222"
    await membership.start()       # registered, the view is there, the lease holds

The lease is counted from when the heartbeat was sent that was answered, and it is lent to the view: an answer names the
newest change there was, and counts only when the watch has brought that change. So whoever finds that the lease holds also
knows every leader that was chosen before the lease was renewed.

A session that is over (fenced, or taken over) is over at once here too; the broker registers again, as a new incarnation.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import grpc

from broker_node.cluster.certificates import read_tls
from broker_node.cluster.tasks import uncancelled
from mq9.clock import Clock
from mq9.errors import Mq9Error, error
from mq9.meta.client import Access, MetaClient
from mq9.settings import Settings, meta_addresses
from mq9.v1 import meta_pb2 as meta

log = logging.getLogger("mq9.cluster")

START_S: Final = 15.0  # until a broker that cannot register, or gets no lease, gives up its start
PAUSE_S: Final = 0.05  # after an answer that did not come, so that an election is waited for and not hammered
REGISTER_PAUSE_S: Final = 0.5  # between attempts to register again
LEAVE_S: Final = 2.0  # the session ends by itself if the meta service cannot be told in this time
ANSWER_SHARE: Final = 0.4  # of a lease: a node that has not answered a heartbeat by then is passed over


class Membership:
    """The session of one broker. Everything happens on the event loop; set the hooks before `start`."""

    def __init__(self, settings: Settings, clock: Clock, disk_id: bytes) -> None:
        """Raises INVALID_REQUEST for certificates that cannot be read."""
        self.node = settings.node_id
        self.incarnation = 0
        self.lease_s = 0.0  # how long a broker serves after the last heartbeat that was answered
        self.peer_address = settings.peer_advertise or f"{_bracketed(settings.peer_host)}:{settings.peer_port}"
        self.client_address = settings.client_advertise or f"{_bracketed(settings.host)}:{settings.port}"
        self.brokers: dict[str, meta.Broker] = {}
        self.slots: dict[int, meta.Slot] = {}
        self.config: meta.ClusterConfig | None = None
        self.rev = 0
        self.on_change: Callable[[meta.Delta], None] = lambda _: None  # the view above has it already
        self.offsets_waiting: Callable[[], int] = lambda: 0
        self.group_lags: Callable[[], list[meta.GroupLag]] = list
        self.on_lease: Callable[[bool], None] = lambda _: None  # lost or regained
        tls = read_tls(settings)
        self.client = MetaClient(meta_addresses(settings), Access(settings.cluster_token, *(tls or ())))
        self._settings = settings
        self._clock = clock
        self._disk_id = disk_id
        self._heartbeat_s = 0.0
        self._lease_until_s = float("-inf")
        self._had_lease = False
        self._wants_anew = False
        self._is_elsewhere = False  # the meta service is another cluster's
        self._renewals: deque[tuple[float, int]] = deque()  # when sent, and what must have been watched; oldest first
        self._lease_timer: asyncio.TimerHandle | None = None
        self._first_lease = asyncio.Event()
        self.failure: Mq9Error | None = None  # what this broker cannot go on after
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Register, get the view and the lease. Raises Mq9Error when refused, or when nobody answers in time."""
        try:
            async with asyncio.timeout(START_S):
                await self._register()
                self._take(await self.client.view())
                for name, work in (("the watch", self._watch), ("the heartbeat", self._beat)):
                    self._spawn(uncancelled(name, work))
                await self._first_lease.wait()
        except TimeoutError as failure:
            await self.close()
            raise error("UNAVAILABLE", reason="the meta service gave no lease in time") from failure
        except BaseException:  # whatever it was, nothing is left running
            await self.close()
            raise
        if self.failure is not None:
            await self.close()
            raise self.failure

    def register_anew(self) -> None:
        """Give up what this node leads, and go on as a new incarnation."""
        self._wants_anew = True
        self._end_lease()

    async def leave(self) -> None:
        """End the session: others lead what this node led. It must have stopped serving. Nothing is renewed after this."""
        await self._stop()
        self._end_lease()
        if not self.incarnation:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await self.client.leave(meta.LeaveRequest(node=self.node, incarnation=self.incarnation))
        except (Mq9Error, TimeoutError) as failure:
            log.warning("the meta service could not be told that this broker stops: %s", failure)

    def report(self, node: str, incarnation: int) -> None:
        """Say that the stream to another broker ended: when its heartbeats stop too, others may lead before its session ends."""
        known = self.brokers.get(node)
        if not self._tasks or known is None or known.incarnation != incarnation or known.state == meta.FENCED:
            return
        task = asyncio.ensure_future(self._report(node, incarnation))
        task.add_done_callback(self._tasks.remove)
        self._tasks.append(task)

    async def _report(self, node: str, incarnation: int) -> None:
        request = meta.ReportPeerRequest(node=self.node, incarnation=self.incarnation)
        request.suspect, request.suspect_incarnation = node, incarnation
        try:
            await self.client.report_peer(request)
        except Mq9Error as failure:  # then its session ends when it ends
            log.info("the meta service could not be told that %s is lost: %s", node, failure)

    async def close(self) -> None:
        """Without telling anybody: the session ends by itself."""
        await self._stop()
        self._end_lease()
        await self.client.close()

    async def _stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Heartbeats and watch never end by themselves; what ends them is nothing that trying again could mend."""
        failure = None if task.cancelled() else task.exception()
        if failure is None:
            return
        log.critical("this broker is no member of the cluster any more", exc_info=failure)
        self.failure = failure if isinstance(failure, Mq9Error) else error("INTERNAL")
        for other in self._tasks:
            other.cancel()
        self._end_lease()
        self._first_lease.set()

    # --- The session ----------------------------------------------------------------------------------------------

    async def _register(self) -> None:
        reply = await self.client.register(
            meta.RegisterRequest(
                node=self.node, disk_id=self._disk_id, peer_address=self.peer_address, client_address=self.client_address,
                zone=self._settings.zone, weight=self._settings.weight,
            )
        )  # fmt: skip
        self.incarnation = reply.incarnation
        self.lease_s, self._heartbeat_s = reply.lease_ms / 1000, reply.heartbeat_ms / 1000
        log.info("registered as %s, incarnation %d", self.node, self.incarnation)

    async def _beat(self) -> None:
        """Heartbeats for ever, on a stream to whichever meta node leads."""
        seq = 0
        while True:
            stream = self.client.heartbeats()
            try:
                while True:
                    seq += 1
                    sent_s = self._clock.monotonic_s()
                    if not await self._beat_once(stream, seq, sent_s):
                        break
                    await asyncio.sleep(max(0.0, sent_s + self._heartbeat_s - self._clock.monotonic_s()))
            except grpc.aio.AioRpcError as failure:
                log.debug("heartbeats: %s %s", failure.code().name, failure.details())
                self.client.learn(failure)
            except (TimeoutError, asyncio.InvalidStateError):  # it hangs; or the stream has ended meanwhile
                self.client.next_node()
            finally:
                stream.cancel()
            await asyncio.sleep(PAUSE_S)

    async def _beat_once(self, stream: grpc.aio.StreamStreamCall, seq: int, sent_s: float) -> bool:
        """One heartbeat and its answer; whether the stream goes on."""
        request = meta.HeartbeatRequest(
            node=self.node, incarnation=self.incarnation, seq=seq, offsets_waiting=self.offsets_waiting(),
            free_bytes=shutil.disk_usage(self._settings.data_dir).free, groups=self.group_lags(),
        )  # fmt: skip
        async with asyncio.timeout(max(self._heartbeat_s, ANSWER_SHARE * self.lease_s)):
            await stream.write(request)
            reply = await stream.read()
        if reply is grpc.aio.EOF:
            self.client.next_node()
            return False
        if not reply.renewed or self._wants_anew:
            await self._register_again()
        elif reply.seq == seq:
            self._renewals.append((sent_s, reply.changed_rev))
            self._renew()
        return True

    async def _register_again(self) -> None:
        """The session is over. What this node led, others may lead by now."""
        log.warning("the session of %s, incarnation %d, is over", self.node, self.incarnation)
        self._end_lease()
        self._wants_anew = False
        while True:
            try:
                await self._register()
            except Mq9Error as failure:
                log.warning("cannot register again: %s", failure)
            else:
                return
            await asyncio.sleep(REGISTER_PAUSE_S)

    # --- The lease ------------------------------------------------------------------------------------------------

    def lease_holds(self) -> bool:
        """Whether nobody else can have been given what the view says is this node's."""
        return self._clock.monotonic_s() < self._lease_until_s

    def _renew(self) -> None:
        """Take the answers into account whose changes have been watched."""
        if self._wants_anew:
            self._renewals.clear()
        while self._renewals and self._renewals[0][1] <= self.rev:
            sent_s, _ = self._renewals.popleft()
            self._lease_until_s = max(self._lease_until_s, sent_s + self.lease_s)
        self._look_at_lease()

    def _end_lease(self) -> None:
        self._renewals.clear()
        self._lease_until_s = float("-inf")
        self._look_at_lease()

    def _look_at_lease(self) -> None:
        """Tell of a lease that has ended or begun, and look again when it ends."""
        holds = self.lease_holds()
        if self._lease_timer is not None:
            self._lease_timer.cancel()
            self._lease_timer = None
        if holds:
            left_s = self._lease_until_s - self._clock.monotonic_s()
            self._lease_timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._look_at_lease)
        if holds is self._had_lease:
            return
        self._had_lease = holds
        if holds:
            log.info("the lease holds")
            self._first_lease.set()
        elif self._tasks:
            log.warning("the lease has ended: this broker serves no slot")
        self._tell(self.on_lease, holds)

    # --- The view -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            assert self.config is not None, "the first view is taken before the watch begins"
            try:
                async for delta in self.client.watch(self.rev, self.config.cluster_id):
                    self._take(delta)
            except Mq9Error as failure:  # a wrong token, or too many streams: neither is for ever
                if self._is_elsewhere:
                    raise
                log.warning("cannot watch the meta service: %s", failure)
            await asyncio.sleep(REGISTER_PAUSE_S)

    def _take(self, delta: meta.Delta) -> None:
        """Bring the view up to this delta, and tell. One that is older than the view, from a node that lags, says nothing."""
        if delta.rev < self.rev and self._is_ours(delta):
            return
        if not self._is_ours(delta):
            self._is_elsewhere = True
            raise error("INVALID_REQUEST", reason="the meta service at these addresses is of another cluster now")
        if delta.full:
            self.brokers.clear()
            self.slots.clear()
        if delta.HasField("config"):
            self.config = delta.config
        self.brokers.update((broker.id, broker) for broker in delta.brokers)
        self.slots.update((slot.slot, slot) for slot in delta.slots)
        self.rev = delta.rev
        mine = self.brokers.get(self.node)
        if mine is not None and self.incarnation and self._is_over(mine):
            self._end_lease()  # the next heartbeat is told so too, and registers again
        if delta.full or delta.HasField("config") or delta.brokers or delta.slots:
            self._tell(self.on_change, delta)
        self._renew()

    def _is_over(self, mine: meta.Broker) -> bool:
        """Whether the session is, by what the view says of this node."""
        return mine.incarnation > self.incarnation or (mine.incarnation == self.incarnation and mine.state == meta.FENCED)

    def _is_ours(self, delta: meta.Delta) -> bool:
        return self.config is None or not delta.config.cluster_id or delta.config.cluster_id == self.config.cluster_id

    def _tell(self, hook: Callable[[Any], None], what: Any) -> None:
        try:
            hook(what)
        except Exception:  # a bug there must not end the session: slots that did fine would go too
            log.exception("a bug in what follows the view or the lease")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
