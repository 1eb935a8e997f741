"""Leases: whatever the network, the clocks and the elections do, a broker's lease is over before its fence commits.

The Sessions of the real leader, in a model of everything around them: brokers and meta nodes whose clocks run at different
rates, heartbeats and answers that are late or lost, leaders that are deposed and do not know it, a log in which only the
one true leader commits. Time is a number.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from meta_service.sessions import Leases, Sessions
from mq9.v1 import meta_pb2 as meta

LEASES = Leases()
STEP_S = 0.02
RATES = (0.85, 1.15)  # their quotient stays under session / lease
NEAR_RATES = (0.96, 1.04)  # and under CLOCK_RATES: early elections trust the clocks more
PEERS = [meta.Broker(id=name, incarnation=1, state=meta.ALIVE) for name in "xy"]


class LeaseBroken(Exception):
    """A broker was fenced, or another served in its place, while it still held its lease."""


class OnlyFences(Sessions):
    """A leader that nobody reports anything to."""

    def reported(self, reporter: str, suspect: str, incarnation: int, now_s: float) -> None:
        return


@dataclass
class Clock:
    rate: float
    offset_s: float

    def at(self, true_s: float) -> float:
        return self.offset_s + self.rate * true_s


@dataclass
class BrokerModel:
    clock: Clock
    row: meta.Broker  # as it is committed
    lease_until_s: float = float("-inf")  # on its own clock
    next_heartbeat_s: float = 0.0
    fenced_at_s: float = float("inf")
    replaced_at_s: float = float("inf")  # whoever was elected early delivers from then on
    blind_lease_until_s: float = float("-inf")  # the part of the lease that was lent to a view without that election


@dataclass
class MetaModel:
    clock: Clock
    sessions: Sessions | None = None
    believes_until_s: float = float("inf")
    waiting: list[tuple[int, float]] = field(default_factory=list)  # heartbeats: incarnation, sent on the broker's clock
    log: list[tuple[float, str, tuple[object, ...]]] = field(default_factory=list)  # commits when the first is due
    barrier_in_flight: bool = False
    next_barrier_s: float = 0.0
    next_look_s: float = 0.0


class World:
    """Three meta nodes and one broker."""

    def __init__(self, seed: int, sessions: type[Sessions] = Sessions, rates: tuple[float, float] = RATES) -> None:
        self.rng = random.Random(seed)
        self.rates = rates
        self.kind = sessions
        self.now_s = 0.0
        self.metas = [MetaModel(self.clock()) for _ in range(3)]
        self.broker = BrokerModel(self.clock(), meta.Broker(id="b", incarnation=1, state=meta.ALIVE))
        self.leader = -1
        self.mail: list[tuple[float, str, tuple[object, ...]]] = []
        self.fences = self.renewals = self.deposed = 0
        self.quiet_until_s = 0.0
        self.elect()

    def clock(self) -> Clock:
        return Clock(self.rng.uniform(*self.rates), self.rng.uniform(0, 1000))

    def elect(self) -> None:
        """Another node leads. What the old leader has in flight does not commit; it learns of that sooner or later."""
        old = self.leader
        self.leader = self.rng.choice([number for number in range(3) if number != old])
        if old >= 0:
            self.metas[old].believes_until_s = self.now_s + self.rng.expovariate(1.0)
        clock = self.metas[self.leader].clock
        self.metas[self.leader] = MetaModel(clock, self.kind(LEASES), next_barrier_s=self.now_s)

    def step(self) -> None:
        self.now_s += STEP_S
        if self.rng.random() < 0.002:
            self.elect()
        if self.rng.random() < 0.003:
            self.quiet_until_s = self.now_s + self.rng.expovariate(0.4)  # the broker is cut off, or stopped
        self.send_heartbeat()
        due = [letter for letter in self.mail if letter[0] <= self.now_s]
        self.mail = [letter for letter in self.mail if letter[0] > self.now_s]
        for _, kind, content in due:
            self.take_heartbeat(*content) if kind == "heartbeat" else self.take_answer(*content)  # type: ignore[arg-type]
        for number in range(3):
            self.turn(number)
        broker = self.broker
        if broker.fenced_at_s <= self.now_s and broker.clock.at(self.now_s) < broker.lease_until_s:
            raise LeaseBroken(f"fenced at {broker.fenced_at_s:.2f}, still holding its lease at {self.now_s:.2f}")
        if broker.replaced_at_s <= self.now_s and broker.clock.at(self.now_s) < broker.blind_lease_until_s:
            raise LeaseBroken(f"another delivers since {broker.replaced_at_s:.2f}, it has a lease at {self.now_s:.2f}")
        if broker.fenced_at_s + 1.0 < self.now_s:
            self.register()

    def register(self) -> None:
        self.broker.row = meta.Broker(id="b", incarnation=self.broker.row.incarnation + 1, state=meta.ALIVE)
        self.broker.lease_until_s = float("-inf")
        self.broker.fenced_at_s = self.broker.replaced_at_s = float("inf")
        self.broker.blind_lease_until_s = float("-inf")
        leader = self.metas[self.leader]
        if leader.sessions is not None:
            leader.sessions.heard("b", self.broker.row.incarnation, leader.clock.at(self.now_s))

    def send_heartbeat(self) -> None:
        broker = self.broker
        local_s = broker.clock.at(self.now_s)
        if local_s < broker.next_heartbeat_s or self.now_s < self.quiet_until_s:
            return
        broker.next_heartbeat_s = local_s + LEASES.heartbeat_s
        if self.rng.random() < 0.9:
            delay_s = self.rng.expovariate(10) if self.rng.random() < 0.9 else self.rng.uniform(0, 4)
            to = self.rng.choice([self.leader, self.leader, self.rng.randrange(3)])
            self.mail.append((self.now_s + delay_s, "heartbeat", (to, broker.row.incarnation, local_s)))

    def take_heartbeat(self, number: int, incarnation: int, sent_s: float) -> None:
        node = self.metas[number]
        if node.sessions is not None:
            node.sessions.heard("b", incarnation, node.clock.at(self.now_s))
            node.waiting.append((incarnation, sent_s))

    def take_answer(self, incarnation: int, sent_s: float, saw_deposed: int) -> None:
        if incarnation == self.broker.row.incarnation:
            if saw_deposed < self.deposed:
                lent_until_s = max(self.broker.blind_lease_until_s, sent_s + LEASES.lease_s)
                self.broker.blind_lease_until_s = lent_until_s
            self.renewals += 1
            self.broker.lease_until_s = max(self.broker.lease_until_s, sent_s + LEASES.lease_s)

    def turn(self, number: int) -> None:
        node = self.metas[number]
        if self.now_s > node.believes_until_s:
            self.metas[number] = MetaModel(node.clock)
            return
        if node.sessions is None:
            return
        while number == self.leader and node.log and node.log[0][0] <= self.now_s:
            _, kind, content = node.log.pop(0)
            commit: dict[str, Callable[..., None]] = {"fence": self.commit_fence, "depose": self.commit_depose}
            if kind == "barrier":
                self.commit_barrier(node, *content)  # type: ignore[arg-type]  # as it was proposed
            else:
                commit[kind](*content)
        local_s = node.clock.at(self.now_s)
        if not node.barrier_in_flight and self.now_s >= node.next_barrier_s:
            node.next_barrier_s = self.now_s + 0.2
            node.barrier_in_flight = True
            waiting, node.waiting = node.waiting, []
            self.propose(node, "barrier", (local_s, waiting))
        if self.now_s >= node.next_look_s:
            node.next_look_s = self.now_s + 0.2
            for late in node.sessions.overdue([self.broker.row], local_s):
                self.propose(node, "fence", (late.incarnation,))
            for reporter in "xy":  # its peers have lost it all the time
                node.sessions.reported(reporter, "b", self.broker.row.incarnation, local_s)
            for lost, hold_ms in node.sessions.suspected([self.broker.row, *PEERS], local_s):
                if lost.id == "b":
                    self.propose(node, "depose", (lost.incarnation, hold_ms))

    def propose(self, node: MetaModel, kind: str, content: tuple[object, ...]) -> None:
        delay_s = self.rng.expovariate(20) if self.rng.random() < 0.95 else self.rng.uniform(0, 2)
        after_s = max(self.now_s + delay_s, node.log[-1][0] if node.log else 0.0)
        node.log.append((after_s, kind, content))

    def commit_barrier(self, node: MetaModel, proposed_s: float, waiting: list[tuple[int, float]]) -> None:
        assert node.sessions is not None
        node.barrier_in_flight = False
        node.sessions.barrier_committed(proposed_s, node.clock.at(self.now_s))
        for incarnation, sent_s in waiting:
            if self.broker.row.incarnation == incarnation and self.broker.row.state != meta.FENCED:
                self.mail.append((self.now_s + self.rng.expovariate(5), "answer", (incarnation, sent_s, self.deposed)))

    def commit_fence(self, incarnation: int) -> None:
        if self.broker.row.incarnation == incarnation and self.broker.row.state != meta.FENCED:
            self.broker.row = meta.Broker(id="b", incarnation=incarnation, state=meta.FENCED)
            self.broker.fenced_at_s = self.now_s
            self.fences += 1

    def commit_depose(self, incarnation: int, hold_ms: int) -> None:
        broker = self.broker
        if broker.row.incarnation == incarnation and broker.row.state != meta.FENCED:
            self.deposed += 1
            broker.blind_lease_until_s = broker.lease_until_s
            broker.replaced_at_s = self.now_s + hold_ms / 1000 / self.rng.uniform(*self.rates)  # on the new primary's clock


def run(seeds: int, kind: type[Sessions] = Sessions, rates: tuple[float, float] = RATES) -> None:
    fences = renewals = 0
    for seed in range(seeds):
        world = World(seed, kind, rates)
        for _ in range(5000):
            world.step()
        fences += world.fences
        renewals += world.renewals
    print(f"{seeds} worlds of 100 s: {renewals} renewals, {fences} fences")  # noqa: T201
    assert fences > seeds
    assert renewals > 50 * seeds


def test_a_lease_is_over_before_its_fence_commits_and_before_who_was_elected_early_delivers() -> None:
    run(60, rates=NEAR_RATES)


def test_a_lease_is_over_before_its_fence_commits_on_worse_clocks() -> None:
    run(60, OnlyFences)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_leases_are_over_before_their_fences_commit() -> None:
    run(2500, rates=NEAR_RATES)
    run(2500, OnlyFences)


class CountsFromTheBeginning(Sessions):
    """A new leader that takes what it has not heard for silence."""

    def barrier_committed(self, proposed_s: float, now_s: float) -> None:
        super().barrier_committed(proposed_s, now_s)
        self._counting_since_s = -1e6


class HearsLate(Sessions):
    """A leader that has a heartbeat count from the moment before it came, as if it were received when it was sent."""

    def heard(self, broker: str, incarnation: int, now_s: float) -> None:
        super().heard(broker, incarnation, now_s - 2.5)


class HoldsNothing(Sessions):
    """A leader that has deliveries begin at once where somebody is elected early."""

    def suspected(self, brokers: Iterable[meta.Broker], now_s: float) -> list[tuple[meta.Broker, int]]:
        return [(broker, 1) for broker, _ in super().suspected(brokers, now_s)]


@pytest.mark.parametrize("kind", [CountsFromTheBeginning, HearsLate, HoldsNothing])
def test_the_model_finds_a_broken_rule(kind: type[Sessions]) -> None:
    with pytest.raises(LeaseBroken):
        run(200, kind, NEAR_RATES)


# --- The rules one by one ---------------------------------------------------------------------------------------------

ROW = meta.Broker(id="b", incarnation=3, state=meta.ALIVE)


def beat(sessions: Sessions, from_s: float, to_s: float) -> float:
    """Barriers commit all the time; the moment the broker is overdue, or `to_s`."""
    now_s = from_s
    while now_s < to_s:
        sessions.barrier_committed(now_s, now_s)
        if sessions.overdue([ROW], now_s):
            return now_s
        now_s += 0.1
    return to_s


def test_nobody_is_fenced_before_a_barrier_committed() -> None:
    sessions = Sessions(LEASES)
    for now_s in (0.0, 10.0, 1000.0):
        assert sessions.overdue([ROW], now_s) == []


def test_a_new_leader_waits_one_session() -> None:
    assert 103.9 < beat(Sessions(LEASES), 100.0, 200.0) < 104.3


def test_silence_counts_from_the_last_heartbeat() -> None:
    sessions = Sessions(LEASES)
    assert beat(sessions, 0.0, 2.0) == 2.0
    sessions.heard("b", 3, 2.0)
    assert 5.9 < beat(sessions, 2.0, 100.0) < 6.3


def test_an_old_incarnations_heartbeat_does_not_count() -> None:
    sessions = Sessions(LEASES)
    beat(sessions, 0.0, 3.0)
    sessions.heard("b", 2, 3.0)
    assert beat(sessions, 3.0, 100.0) < 4.3


def test_a_leader_that_stood_still_starts_counting_anew() -> None:
    sessions = Sessions(LEASES)
    beat(sessions, 0.0, 2.0)
    assert 63.9 < beat(sessions, 60.0, 100.0) < 64.3


def test_a_leader_that_cannot_commit_fences_nobody() -> None:
    sessions = Sessions(LEASES)
    sessions.barrier_committed(0.0, 0.0)
    for tenth in range(100):
        assert sessions.overdue([ROW], tenth / 10) == []


FOUR = [meta.Broker(id=name, incarnation=3, state=meta.ALIVE) for name in "abcd"]


def suspect(*reporters: str, brokers: list[meta.Broker], silent_s: float, ago_s: float = 0.0) -> list[tuple[str, int]]:
    """Whom a leader deposes that last heard "a" so long ago, and the others just now; and for how long it holds."""
    sessions = Sessions(LEASES)
    beat(sessions, 0.0, 50.0)
    sessions.heard("a", 3, 50.0)
    now_s = beat(sessions, 50.0, 50.0 + silent_s)
    for broker in brokers[1:]:
        sessions.heard(broker.id, 3, now_s)
    for reporter in reporters:
        sessions.reported(reporter, "a", 3, now_s - ago_s)
    found = sessions.suspected(brokers, now_s)
    assert sessions.suspected(brokers, now_s) == [], "once is enough"
    return [(broker.id, hold_ms) for broker, hold_ms in found]


def test_who_is_lost_by_two_others_and_silent_is_deposed() -> None:
    ((name, hold_ms),) = suspect("b", "c", brokers=FOUR, silent_s=1.2)
    assert name == "a"
    assert 1400 < hold_ms < 1600, "what is left of a lease of 2.5 s, on a clock that runs a tenth slower"
    assert suspect("b", "c", brokers=FOUR, silent_s=3.5) == [("a", 1)]


def test_what_does_not_suffice() -> None:
    assert suspect("b", brokers=FOUR, silent_s=1.2) == [], "one of three others"
    assert suspect("b", "b", "a", brokers=FOUR, silent_s=1.2) == [], "one, twice, and itself"
    assert suspect("b", "z", brokers=FOUR, silent_s=1.2) == [], "one of them is nobody"
    assert suspect("b", "c", brokers=FOUR, silent_s=0.9) == [], "its heartbeats come"
    assert suspect("b", "c", brokers=FOUR, silent_s=1.2, ago_s=4.5) == [], "that was long ago"
    fenced = [*FOUR[:2], meta.Broker(id="c", incarnation=3, state=meta.FENCED), FOUR[3]]
    assert suspect("b", "c", brokers=fenced, silent_s=1.2) == [], "one of them is fenced"


def test_where_only_one_other_is_left_its_word_suffices() -> None:
    assert suspect("b", brokers=FOUR[:2], silent_s=1.2) != []
    assert suspect(brokers=FOUR[:1], silent_s=1.2) == []


def test_a_report_is_about_one_incarnation() -> None:
    sessions = Sessions(LEASES)
    beat(sessions, 0.0, 3.0)
    for reporter in "bc":
        sessions.reported(reporter, "a", 2, 3.0)
    assert sessions.suspected(FOUR, 3.0) == []


def test_a_leader_that_cannot_commit_deposes_nobody() -> None:
    sessions = Sessions(LEASES)
    sessions.barrier_committed(0.0, 0.0)
    for reporter in "bc":
        sessions.reported(reporter, "a", 3, 3.0)
    assert sessions.suspected(FOUR, 3.0) == []


def test_who_is_fenced_is_not_fenced_again() -> None:
    sessions = Sessions(LEASES)
    for tenth in range(100):
        sessions.barrier_committed(tenth / 10, tenth / 10)
        assert sessions.overdue([meta.Broker(id="b", incarnation=3, state=meta.FENCED)], tenth / 10) == []
