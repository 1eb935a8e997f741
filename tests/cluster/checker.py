"""Load on a cluster whose nodes may go at any moment, and the judgement of what came of it, per node and overall.

    load = Load(cluster, mailboxes=("a", "b"), groups=("readers",))
    await load.begin()                        # mailboxes are made; every actor is connected to some broker
    await load.acknowledged(1000)
    cluster.kill("b1")
    await load.acknowledged(1000)
    await load.finish()                       # faults are over: everybody comes to an end
    (await load.check()).check()

An actor whose connection is lost, or silent for too long, goes to another broker, as a client with a list of addresses does;
so does one that is refused.
What it asked and got no answer to, it asks again there: a SEND under the same mq9-msg-id.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from tests.chaos.actors import Actor, Consumer, Registrar, Sender
from tests.chaos.audit import find, repeat, sample
from tests.chaos.ledger import Ledger, Send, judge
from tests.chaos.link import Link
from tests.chaos.tally import Tally, report
from tests.chaos.world import PATIENCE_S, World
from tests.cluster.processes import Cluster
from tests.support.raw import RawClient
from tests.support.server import ServerProcess

DIAL_S: Final = 2.0
SILENCE_S: Final = 6.0  # a broker answers within 5 s, if only that it cannot
LOOK_S: Final = 0.25
RETRYABLE: Final = {"UNAVAILABLE", "DELIVERY_LOST"}  # the second: what was to be acknowledged comes again


class Load(World):
    """See the module. With `agents` somebody registers and unregisters."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        mailboxes: Iterable[str] = ("work.a", "work.b", "work.c", "work.d"),
        groups: Iterable[str] = ("builders",),
        window: int = 8,
        seed: int = 1,
        agents: bool = True,
    ) -> None:
        first = next(iter(cluster.brokers.values()))
        super().__init__(first, Ledger())
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.mailboxes = tuple(mailboxes)
        self.groups = [(mailbox, group) for mailbox in self.mailboxes for group in groups]
        self.node_of: dict[int, str] = {}  # link -> broker
        self._tasks: dict[Actor, asyncio.Task[None]] = {}
        self._ended = False
        for number, mailbox in enumerate(self.mailboxes):
            self.add(Sender(self.ledger, seed + number, mailbox, window=window))
            self.add(Sender(self.ledger, seed + 50 + number, mailbox, window=1))
        for number, (mailbox, group) in enumerate(self.groups):
            self.add(Consumer(self.ledger, seed + 100 + number, mailbox, group))
        if agents:
            self.add(Registrar(self.ledger, seed + 200))

    # --- Connections ----------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Make the mailboxes, and let everybody loose."""
        await asyncio.to_thread(self._create)
        for actor in self.actors:
            actor.refused = Link.abort
            task = self._tasks[actor] = asyncio.ensure_future(self._live(actor))
            task.add_done_callback(lambda _: self._moved.set())

    def _create(self) -> None:
        for mailbox in self.mailboxes:
            with self._raw() as client:
                answer = client.call(b"$mq9.AI.MAILBOX.CREATE", {"name": mailbox, "exist_ok": True})
                assert not answer["error"], answer

    def _raw(self, broker: ServerProcess | None = None) -> RawClient:
        broker = broker or self.rng.choice(self.cluster.running)
        client = RawClient(broker.host, broker.port, timeout_s=30)
        client.connect()
        return client

    async def _live(self, actor: Actor) -> None:
        """One connection after the other, for as long as the load goes on."""
        while not self._ended:
            name = self.rng.choice(self.cluster.names)
            broker = self.cluster.brokers[name]
            try:
                link = await Link.dial(broker.port, host=broker.host, timeout_s=DIAL_S)
            except (OSError, TimeoutError):
                await pause(LOOK_S)
                continue
            self.node_of[link.number] = name
            actor.begin(link)
            self._moved.set()  # one that is stopping may have nothing left to ask for
            await self._watch(link)

    async def _watch(self, link: Link) -> None:
        """Return when the connection is over; end it when nothing is heard any more."""
        loop = asyncio.get_running_loop()
        while not link.closed.done():
            await asyncio.wait([link.closed], timeout=LOOK_S)
            silent_s = loop.time() - link.heard_s
            if self._ended:
                link.close()
                await asyncio.wait([link.closed], timeout=DIAL_S)
                link.abort()
                return
            if silent_s > SILENCE_S:
                link.abort()
            elif silent_s > 2 * LOOK_S:
                link.say(b"PING\r\n")

    async def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """As of any world; and who failed instead of going on is heard of at once."""

        def judged() -> bool:
            for task in self._tasks.values():
                if task.done() and not self._ended:
                    task.result()
            return condition()

        await super().until(judged, patience_s)

    async def acknowledged(self, more: int) -> None:
        """Return when that many more sends have been acknowledged, their share of each mailbox."""

        def sent() -> Counter[str]:
            counts: Counter[str] = Counter()
            for actor in self.actors:
                if isinstance(actor, Sender):
                    counts[actor.mailbox] += len(actor.sent)
            return counts

        share, before = more // len(self.mailboxes), sent()
        try:
            await self.until(lambda: all(count - before[mailbox] >= share for mailbox, count in sent().items()))
        except TimeoutError:
            stuck = [mailbox for mailbox, count in sent().items() if count - before[mailbox] < share]
            raise AssertionError(f"nothing is acknowledged in {stuck}\n{self.cluster.log()}") from None

    async def finish(self) -> None:
        """Let the actors end what they are about, and disconnect them. All that broke must have been mended."""
        for actor in self.actors:
            actor.stopping = True
        try:
            await self.until(lambda: all(actor.idle for actor in self.actors), 2 * PATIENCE_S)
        except TimeoutError:
            busy = [f"{actor} to {self.node_of.get(actor.link.number)}" for actor in self.actors if not actor.idle]
            refused = dict(self.ledger.refusals)
            raise AssertionError("\n".join([f"not at rest, refused {refused}:", *busy, self.cluster.log()])) from None
        await self.disconnect()

    async def disconnect(self) -> None:
        """Whatever the actors are about."""
        self._ended = True
        await asyncio.gather(*self._tasks.values())

    # --- Judgement ------------------------------------------------------------------------------------------------

    async def check(self, what: str) -> Tally:
        """Read everything, through each node, and hold it against what was answered. Says what it found; the sum."""
        final = {code: count for code, count in self.ledger.refusals.items() if code not in RETRYABLE}
        assert not final, f"refusals that nobody may repeat: {final}"
        total: Tally | None = None
        rows = []
        for name in self.cluster.names:
            tally = await asyncio.to_thread(self._audit, name, first=total is None)
            attempted, acknowledged = self._sent_by(name)
            rows.append(
                f"\n  {name}: attempted {attempted:,}, acknowledged {acknowledged:,}; found {tally.found:,}, lost {tally.lost},"
                f" duplicated {tally.duplicated}, unexpected {tally.unexpected}, again {tally.again}, missed {tally.missed}"
            )
            if total is None:
                total = tally
            else:
                for column in Tally.BROKEN:
                    setattr(total, column, max(getattr(total, column), getattr(tally, column)))
                total.details += tally.details[: 20 - len(total.details)]
        assert total is not None
        for each in (each for actor in self.actors if isinstance(actor, Consumer) for each in actor.again):
            total.wrong("again", each)
        report(what, f"\n  all: {total}", *rows, f"\n  refused and repeated {dict(self.ledger.refusals)}")
        return total

    def _audit(self, name: str, *, first: bool) -> Tally:
        """What one node says there is. The first one also says what groups are still given, and gets repeated sends."""
        with self._raw(self.cluster.brokers[name]) as client:

            def call(command: str, body: Any, headers: dict[str, str] | None) -> dict[str, Any]:
                return client.call(b"$mq9.AI." + command.encode(), body, headers=headers)

            claims = self.ledger.claims()
            agents = any(isinstance(actor, Registrar) for actor in self.actors)
            found = find(call, self.mailboxes, self.groups if first else (), agents=agents, auditor=f"auditor.{name}")
            if first:
                repeat(call, sample(claims, self.mailboxes), found)
            return judge(claims, found)

    def _sent_by(self, name: str) -> tuple[int, int]:
        """Sends that were asked of a node, and those of them that it answered."""
        asked = [reply for reply, ask in self.ledger.asks.items() if isinstance(ask, Send) and self._node(reply) == name]
        return len(asked), sum(reply in self.ledger.answers for reply in asked)

    def _node(self, reply: bytes) -> str:
        return self.node_of.get(int(reply.split(b".")[1]), "")


async def pause(seconds: float) -> None:
    """Let others work for so long: load goes on while a fault lasts."""
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=seconds)
