"""A model of slot replication around the real rules of the meta service: does what meta allows keep every acknowledged record?

Brokers with logs replicate one slot as docs/meta.md and the cluster design say: append from the primary of the newest epoch,
cut at the first entry of another epoch, acknowledge what is on the disk, count the in-sync set of the view and whoever is being
added to it. Messages are lost, repeated and overtaken; brokers crash, restart, lose their disks, are suspected falsely and cut
off. Every change of epoch, primary and in-sync set goes through rules.py, as commands that are late, repeated and overtaken too.

After each step: every acknowledged record is in the log of every member of the in-sync set.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meta_service import rules
from meta_service.rules import Change, Refused, RuleBroken, View
from meta_service.state import RULES
from mq9.v1 import meta_pb2 as meta
from mq9.v1 import raft_pb2 as pb

MIN_IN_SYNC = 2
NAMES = ("a", "b", "c", "d")
Record = tuple[int, int]  # epoch, value


class RecordLost(Exception):
    """An acknowledged record is not where it has to be."""


@dataclass
class Pending:
    """An AlterIsr that meta has not answered, as far as the primary knows."""

    epoch: int
    ver: int
    isr: tuple[str, ...]
    adding: str
    incarnations: tuple[int, ...]


@dataclass
class Broker:
    name: str
    disk: bytes
    up: bool = True
    incarnation: int = 0
    log: list[Record] = field(default_factory=list)
    epoch: int = 0
    led: int = 0  # the last epoch it led
    leads: bool = False
    start: int = 0  # of its epoch
    high: int = 0
    view: meta.Slot = field(default_factory=meta.Slot)
    known: dict[str, int] = field(default_factory=dict)  # incarnations of the view
    acked: dict[str, int] = field(default_factory=dict)
    pending: Pending | None = None


class World:
    """Four brokers, one slot with three replicas, and the meta service's rules. `broken` switches one precaution off."""

    def __init__(self, seed: int, broken: str = "") -> None:
        self.rng = random.Random(seed)
        self.broken = broken
        self.speed = 1 if seed % 2 else 3  # in slow worlds old messages are very old
        self.view = View()
        self.rev = self.values = self.commits = self.elections = self.alters = self.wipes = 0
        self.brokers = {name: Broker(name, name.encode()) for name in NAMES}
        self.mail: list[tuple[str, str, Callable[[], None]]] = []
        self.acknowledged: dict[int, Record] = {}
        self.cut: set[str] = set()
        self.do("found", pb.Found(cluster_id=b"id", slots=1, replication_factor=3, min_in_sync=MIN_IN_SYNC))
        for broker in self.brokers.values():
            self.register(broker)
        self.do("assign", pb.Assign(assignments=[pb.Assignment(slot=0, epoch=0, ver=1, replicas=NAMES[:3])]))

    @property
    def slot(self) -> meta.Slot:
        return self.view.slots[0]

    # --- The meta service -----------------------------------------------------------------------------------------------

    def do(self, op: str, argument: Any) -> pb.CommandResult | None:
        """A command through the real rules; None when it was refused. The view goes out to everybody, late."""
        self.rev += 1
        change = Change(self.view, self.rev)
        try:
            result = RULES[op](change, argument)
            if not self.broken:
                rules.check(change)
        except Refused:
            return None
        except RuleBroken as broken:
            raise RecordLost(str(broken)) from broken
        epoch = self.slot.epoch if self.view.slots else 0
        self.view.config = change.config_after or self.view.config
        self.view.brokers.update(change.brokers)
        self.view.slots.update(change.slots)
        self.elections += self.slot.epoch > epoch
        for name in NAMES:
            self.publish(name)
        return result

    def publish(self, name: str) -> None:
        slot = self.slot
        incarnations = {broker.id: broker.incarnation for broker in self.view.brokers.values()}
        self.send("meta", name, lambda: self.learn(self.brokers[name], slot, incarnations))

    def register(self, broker: Broker) -> None:
        request = meta.RegisterRequest(node=broker.name, disk_id=broker.disk, peer_address="p", client_address="c")
        result = self.do("register", request)
        if result is not None:
            broker.incarnation = result.incarnation
            broker.leads, broker.pending = False, None
            broker.acked, broker.high = {}, 0

    def fence(self, name: str) -> None:
        known = self.view.brokers[name]
        if known.state != meta.FENCED:
            self.do("fence", pb.Fence(node=name, incarnation=known.incarnation))

    def depose(self, name: str) -> None:
        self.do("depose", pb.Depose(node=name, incarnation=self.view.brokers[name].incarnation, hold_ms=1000))

    # --- The network ------------------------------------------------------------------------------------------------------

    def send(self, sender: str, receiver: str, arrive: Callable[[], None]) -> None:
        self.mail.append((sender, receiver, arrive))
        if len(self.mail) > 150:
            self.mail = self.mail[-80:]

    def deliver(self) -> None:
        if not self.mail:
            return
        place = self.rng.randrange(len(self.mail)) if self.rng.random() < 0.7 else 0
        sender, receiver, arrive = self.mail[place]
        fate = self.rng.random()
        if fate < 0.06 or (sender in self.cut) != (receiver in self.cut):
            del self.mail[place]
            return
        if fate > 0.10:  # else it stays and arrives again
            del self.mail[place]
        if receiver == "meta" or self.brokers[receiver].up:
            arrive()

    # --- Brokers ------------------------------------------------------------------------------------------------------------

    def learn(self, broker: Broker, slot: meta.Slot, incarnations: dict[str, int]) -> None:
        if (slot.epoch, slot.ver) < (broker.view.epoch, broker.view.ver):
            return
        for name, incarnation in incarnations.items():
            if broker.known.get(name) != incarnation and self.broken != "keeps acknowledgements":
                broker.acked.pop(name, None)
        broker.view, broker.known = slot, incarnations
        if broker.pending is not None and slot.ver > broker.pending.ver:
            broker.pending = None
        mine = slot.primary == broker.name and incarnations.get(broker.name) == broker.incarnation
        if mine and slot.epoch >= broker.epoch and slot.epoch > broker.led:
            broker.epoch = broker.led = slot.epoch
            broker.leads, broker.pending = True, None
            broker.acked, broker.high, broker.start = {}, 0, len(broker.log)
        elif slot.epoch > broker.epoch:
            broker.epoch, broker.leads, broker.pending = slot.epoch, False, None

    def primaries(self) -> list[Broker]:
        return [broker for broker in self.brokers.values() if broker.leads and broker.up]

    def write(self, broker: Broker) -> None:
        if len(broker.log) < max(broker.high, broker.start) + 6:  # publishers wait for acknowledgements
            self.values += 1
            broker.log.append((broker.epoch, self.values))

    def replicate(self, broker: Broker) -> None:
        for name in NAMES:
            if name != broker.name:
                previous = broker.acked.get(name, self.rng.randrange(len(broker.log) + 1))
                self.send_append(broker, name, min(previous, len(broker.log)))
        self.advance(broker)

    def send_append(self, broker: Broker, name: str, previous: int) -> None:
        before = broker.log[previous - 1] if previous else (0, 0)
        records = broker.log[previous : previous + self.rng.randrange(12)]
        epoch = broker.epoch
        self.send(broker.name, name, lambda: self.append(broker, self.brokers[name], epoch, (previous, before, records)))

    def append(self, sender: Broker, broker: Broker, epoch: int, what: tuple[int, Record, list[Record]]) -> None:
        previous, before, records = what
        if epoch < broker.epoch:
            return
        if epoch > broker.epoch:
            broker.epoch, broker.leads, broker.pending = epoch, False, None
        if broker.leads:
            return
        if previous > len(broker.log) or (previous and broker.log[previous - 1] != before):
            hint = min(max(previous - 1, 0), len(broker.log))
            self.send(broker.name, sender.name, lambda: self.go_back(sender, broker.name, epoch, hint))
            return
        for place, record in enumerate(records, previous):
            if place < len(broker.log) and broker.log[place] != record:
                del broker.log[place:]
            if place == len(broker.log):
                broker.log.append(record)
        matched, incarnation = previous + len(records), broker.incarnation
        self.send(broker.name, sender.name, lambda: self.acknowledge(sender, broker.name, epoch, (matched, incarnation)))

    def go_back(self, broker: Broker, name: str, epoch: int, hint: int) -> None:
        if broker.leads and broker.epoch == epoch and name not in broker.acked:
            self.send_append(broker, name, min(hint, len(broker.log)))

    def acknowledge(self, broker: Broker, name: str, epoch: int, what: tuple[int, int]) -> None:
        matched, incarnation = what
        if not broker.leads or broker.epoch != epoch:
            return
        if broker.known.get(name) != incarnation and self.broken != "any incarnation":
            return
        broker.acked[name] = max(broker.acked.get(name, 0), matched)
        self.advance(broker)

    def advance(self, broker: Broker) -> None:
        """Acknowledge to publishers what every member of the in-sync set has, and whoever may be one by now."""
        isr = set(broker.view.isr)
        if broker.name not in isr or not broker.leads:
            return
        enough = len(isr) >= MIN_IN_SYNC
        if broker.pending is not None and self.broken != "forgets who is added":
            isr |= {broker.pending.adding} - {""}
        if broker.pending is not None and self.broken == "shrinks early":
            isr &= set(broker.pending.isr)
        matched = min([len(broker.log), *(broker.acked.get(name, 0) for name in isr if name != broker.name)])
        while enough and broker.high < matched:
            record = broker.log[broker.high]
            if self.acknowledged.setdefault(broker.high, record) != record:
                raise RecordLost(f"{record} and {self.acknowledged[broker.high]} are both acknowledged at {broker.high}")
            broker.high += 1
            self.commits += 1

    def alter(self, broker: Broker) -> None:
        """Ask for one more or one less in the in-sync set, or ask again."""
        isr = list(broker.view.isr)
        if broker.pending is None and broker.name in isr:
            name = self.rng.choice([each for each in NAMES[:3] if each != broker.name] or [""])
            caught_up = broker.acked.get(name, -1) >= max(broker.high, broker.start)
            if name in isr and self.rng.random() < 0.1:
                wanted, adding = [each for each in isr if each != name], ""
            elif name not in isr and caught_up:
                wanted, adding = [*isr, name], name
            else:
                return
            incarnations = tuple(broker.known.get(each, 0) for each in wanted)
            broker.pending = Pending(broker.view.epoch, broker.view.ver, tuple(wanted), adding, incarnations)
        if broker.pending is not None:
            pending, incarnation = broker.pending, broker.incarnation
            self.send(broker.name, "meta", lambda: self.altered(broker.name, incarnation, pending))

    def altered(self, name: str, incarnation: int, pending: Pending) -> None:
        epoch, ver = pending.epoch, pending.ver
        incarnations = list(pending.incarnations)
        if self.broken == "no compare":
            epoch, ver = self.slot.epoch, self.slot.ver
        if self.broken == "any incarnation":
            incarnations = [self.view.brokers[each].incarnation for each in pending.isr]
            incarnation = self.view.brokers[name].incarnation
        change = meta.IsrChange(slot=0, epoch=epoch, ver=ver, isr=pending.isr, incarnations=incarnations)
        before = self.slot.ver
        self.do("alter_isr", meta.AlterIsrRequest(node=name, incarnation=incarnation, changes=[change]))
        self.alters += self.slot.ver > before

    # --- What happens to brokers ----------------------------------------------------------------------------------------------

    def crash(self, broker: Broker) -> None:
        broker.up = broker.leads = False
        others = [each for each in self.slot.isr if each != broker.name and self.brokers[each].up]
        if others and self.wipes < 3 and self.rng.random() < 0.3:
            self.wipes += 1  # while another in-sync member lives, which is what three replicas are for
            broker.log, broker.epoch, broker.led = [], 0, 0
            if self.broken != "same disk id":
                broker.disk = b"%s%d" % (broker.name.encode(), self.rev)

    def restart(self, broker: Broker) -> None:
        if self.view.brokers[broker.name].disk_id != broker.disk:
            self.fence(broker.name)  # another disk is only let in when the old session is over
        broker.up = True
        broker.view, broker.known = meta.Slot(), {}
        self.register(broker)

    def step(self) -> None:
        chance, anyone = self.rng.random(), self.brokers[self.rng.choice(NAMES)]
        leading = self.primaries()
        if chance < 0.60:
            for _ in range(self.speed):
                self.deliver()
        elif chance < 0.68 and leading:
            self.write(self.rng.choice(leading))
        elif chance < 0.82 and leading:
            self.replicate(self.rng.choice(leading))
        elif chance < 0.91 and leading:
            self.alter(self.rng.choice(leading))
        elif chance < 0.96:
            self.disturb(chance, anyone)
        else:
            self.publish(anyone.name)

    def disturb(self, chance: float, broker: Broker) -> None:
        if chance < 0.912:
            self.rng.choice([self.fence, self.depose])(broker.name)  # with reason or without
        elif chance < 0.915:
            if broker.up and sum(each.up for each in self.brokers.values()) > 1:
                self.crash(broker)
        elif chance < 0.955:
            if not broker.up:
                self.restart(broker)
            elif self.view.brokers[broker.name].state == meta.FENCED:
                self.register(broker)
        else:  # in slow worlds somebody is cut off most of the time
            is_cut = self.rng.random() < 0.75 / self.speed
            self.cut = set(self.rng.sample([*NAMES, "meta"], self.rng.randint(1, 2))) if is_cut else set()

    def check(self) -> None:
        if self.slot.lost_disk:  # two disasters at once: the records are where no rule looks, and nobody leads
            if self.slot.primary:
                raise RecordLost(f"{self.slot.primary} leads what was lost")
            return
        members = [self.brokers[name] for name in self.slot.isr]
        for member in members:
            # A disk that was changed while its broker was down: meta learns of it when the broker is back.
            if self.broken != "same disk id" and self.view.brokers[member.name].disk_id != member.disk:
                continue
            for place, record in self.acknowledged.items():
                if place >= len(member.log) or member.log[place] != record:
                    raise RecordLost(f"{record} at {place} is not on {member.name}; epoch {self.slot.epoch}, isr {self.slot.isr}")


def run(seed: int, steps: int, broken: str = "") -> World:
    """One world from beginning to end. Raises RecordLost."""
    world = World(seed, broken)
    for number in range(steps):
        world.step()
        if number % 5 == 0:
            world.check()
    world.check()
    return world
