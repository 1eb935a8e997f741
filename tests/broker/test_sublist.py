"""The subscription tree against an oracle that is too simple to be wrong, with its caches warm, cold and full."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from broker_node.router import sublist as module
from broker_node.router.core import INVALID_SUBJECT, CoreRouter
from broker_node.router.sublist import Sublist, Subscription
from mq9.limits import ROUTE_CACHE_ENTRIES_MAX
from mq9.nats.subjects import is_valid_publication, matches


class Inbox:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, bytes, bytes]] = []  # sid, subject, payload

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        self.got.append((sub.sid, subject, payload))


ANYONE = Inbox()
# Few enough that they meet: what a cache gets wrong shows where patterns share a prefix.
SHORT = [b".".join(tokens) for length in (1, 2) for tokens in product((b"a", b"b", b"*"), repeat=length)]
LONG = [b"a.b.*", b"a.*.b", b"*.b.a", b"a.b.a", b"*.*.*", b">", b"a.>", b"*.>", b"a.b.>"]
PATTERNS = st.sampled_from([*SHORT, *LONG])
SUBJECTS = (
    st.lists(st.sampled_from([b"a", b"b", b"c", b"aa", b"*", b">", b""]), min_size=1, max_size=4).map(b".".join).filter(bool)
)
UNIVERSE = [b".".join(tokens) for length in (1, 2, 3) for tokens in product((b"a", b"b", b"c"), repeat=length)]
QUEUES = st.sampled_from([b"", b"", b"q", b"r"])


class SublistMachine(RuleBasedStateMachine):
    """Subscriptions come and go between lookups, so that every entry a cache should have dropped is asked for."""

    subs = Bundle("subs")

    def __init__(self) -> None:
        super().__init__()
        self.sublist = Sublist()
        self.alive: list[Subscription] = []

    @rule(target=subs, pattern=PATTERNS, queue=QUEUES)
    def add(self, pattern: bytes, queue: bytes) -> Subscription:
        sub = Subscription(ANYONE, pattern, queue, b"1")
        self.sublist.add(sub)
        self.alive.append(sub)
        return sub

    @rule(target=subs, sub=consumes(subs))
    def remove(self, sub: Subscription) -> object:
        assert self.sublist.remove(sub)
        assert not self.sublist.remove(sub)
        self.alive.remove(sub)
        return multiple()

    @rule(subject=SUBJECTS)
    def look_up(self, subject: bytes) -> None:
        found = self.sublist.match(subject)
        if not is_valid_publication(subject):
            assert found is None
            return
        assert found is not None
        fitting = [sub for sub in self.alive if matches(sub.subject, subject)]
        assert Counter(found.plain) == Counter(sub for sub in fitting if not sub.queue)
        by_queue = {members[0].queue: Counter(members) for members in found.queues}
        assert len(by_queue) == len(found.queues)
        assert by_queue == {
            queue: Counter(sub for sub in fitting if sub.queue == queue) for queue in {sub.queue for sub in fitting if sub.queue}
        }

    @rule()
    def look_up_everything(self) -> None:
        """What was known before a change must not be known wrongly after it."""
        for subject in UNIVERSE:
            self.look_up(subject)

    @invariant()
    def counts(self) -> None:
        assert len(self.sublist) == len(self.alive)
        if not self.alive:
            assert self.sublist._root.is_empty


TestSublist = SublistMachine.TestCase
TestSublist.settings = settings(stateful_step_count=30)


def _sub(subject: bytes, queue: bytes = b"") -> Subscription:
    return Subscription(ANYONE, subject, queue, b"1")


def test_a_fresh_reply_subject_is_a_cache_hit() -> None:
    sublist = Sublist()
    sub = _sub(b"_INBOX.me.*")
    sublist.add(sub)
    for number in range(1000):
        found = sublist.match(b"_INBOX.me.%d" % number)
        assert found is not None
        assert found.plain == (sub,)
    assert (sublist.misses, sublist.hits, sublist.cached) == (1, 999, 1)


def test_inboxes_that_come_and_go_do_not_disturb_the_others() -> None:
    sublist = Sublist()
    sublist.add(_sub(b"_INBOX.me.*"))
    sublist.add(_sub(b"orders.new"))
    sublist.match(b"_INBOX.me.1")
    sublist.match(b"orders.new")
    for number in range(100):
        other = _sub(b"_INBOX.%d.*" % number)
        sublist.add(other)
        once = _sub(b"_INBOX.once%d" % number)
        sublist.add(once)
        assert sublist.match(b"_INBOX.me.2") is sublist.match(b"_INBOX.me.3")
        sublist.match(b"orders.new")
        sublist.remove(once)
        sublist.remove(other)
    assert sublist.misses == 2
    assert not sublist._under_prefix.get(b"_INBOX.")


def test_an_invalid_neighbour_of_a_cached_subject_is_still_invalid() -> None:
    sublist = Sublist()
    sublist.add(_sub(b"a.*"))
    assert sublist.match(b"a.x") is not None
    for subject in (b"a.", b"a.*", b"a.>", b"a." + b"x" * 2000):
        assert sublist.match(subject) is None
    found = sublist.match(b"a.x*")
    assert found is not None
    assert len(found.plain) == 1


def test_a_flood_of_subjects_fills_no_memory() -> None:
    sublist = Sublist()
    sublist.add(_sub(b"a.b.c"))
    for number in range(ROUTE_CACHE_ENTRIES_MAX + 10):
        sublist.match(b"%d.x" % number)
    assert sublist.cached <= ROUTE_CACHE_ENTRIES_MAX
    before = sublist.cached
    sublist.match(b"y" * 200 + b".x")
    assert sublist.cached == before


def test_subscriptions_to_one_subject_leave_in_any_order() -> None:
    sublist = Sublist()
    subs = [_sub(b"a.b") for _ in range(1000)]
    for sub in subs:
        sublist.add(sub)
    for sub in subs[::2] + subs[1::2]:
        assert sublist.remove(sub)
    assert sublist.match(b"a.b") is module.NOBODY


# --- the router on top ------------------------------------------------------------------------------------------------


def test_everyone_gets_it_and_one_of_each_queue() -> None:
    core = CoreRouter()
    inboxes = [Inbox() for _ in range(6)]
    for number, (pattern, queue) in enumerate(
        [(b"a.b", b""), (b"a.*", b""), (b"a.b", b"q"), (b"a.>", b"q"), (b"a.b", b"r"), (b"x", b"")]
    ):
        core.subscribe(Subscription(inboxes[number], pattern, queue, b"%d" % number))
    assert core.publish(b"a.b", b"", b"", b"m", None) == 4
    counts = [len(inbox.got) for inbox in inboxes]
    assert counts[:2] == [1, 1]
    assert sum(counts[2:4]) == 1
    assert counts[4:] == [1, 0]


@given(st.integers(1, 5), st.floats(0, 1, exclude_max=True))
def test_a_publisher_without_echo_is_passed_over_in_its_queue(others: int, lot: float) -> None:
    core = CoreRouter(random_unit=lambda: lot)
    me, someone = Inbox(), Inbox()
    core.subscribe(Subscription(me, b"a", b"q", b"1"))
    assert core.publish(b"a", b"", b"", b"m", me) == 0
    for _ in range(others):
        core.subscribe(Subscription(someone, b"a", b"q", b"2"))
    assert core.publish(b"a", b"", b"", b"m", me) == 1
    assert (me.got, len(someone.got)) == ([], 1)


def test_an_invalid_subject_is_told_apart_from_one_nobody_hears() -> None:
    core = CoreRouter()
    assert core.publish(b"a", b"", b"", b"", None) == 0
    assert core.publish(b"a..b", b"", b"", b"", None) == INVALID_SUBJECT
    assert core.deliver(b"a.*", b"", b"", b"") == 0
