"""Core NATS on three nodes is core NATS on one: the same messages to the same subscribers, whoever is connected where."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from google.protobuf.message import Message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from broker_node.broker import Broker
from broker_node.cluster.core import ClusterRouter
from broker_node.cluster.interest import FORGOTTEN_PER_TURN, Interest
from broker_node.connection import Connection
from broker_node.hub import Hub, Timing
from broker_node.router.core import INVALID_SUBJECT, CoreRouter
from broker_node.router.sublist import Subscription
from mq9.settings import Settings
from mq9.testing.clock import ManualClock, ManualLoop
from mq9.v1 import peer_pb2 as wire
from mq9.v1.peer_pb2 import PeerBatch
from tests.broker.rig import Wire
from tests.cluster.memory_links import MemoryLink, MemoryLinks, MemoryNetwork

NODES = "abc"
MESSAGE = re.compile(rb"\bMSG (\S+) (\S+) (?:(\S+) )?\d+\r\n(.*?)\r\n")
NO_RESPONDERS = b"HMSG %b %b 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"


def attach(interest: Interest, links: MemoryLinks) -> None:
    """As a node of a cluster puts the two together."""

    def on_batch(link: MemoryLink, batch: PeerBatch) -> None:
        interest.on_interests(link, batch.interests)
        interest.on_messages(link, batch.messages)

    links.on_batch = on_batch
    links.on_up = interest.link_up
    links.on_down = links.on_accepted_down = interest.link_down


class Ear:
    """A link that takes everything and carries nothing."""

    is_crowded = False

    def __init__(self, node: str, *, is_dialed: bool) -> None:
        self.node = node
        self.is_dialed = is_dialed
        self.said: list[Message] = []

    def send(self, kind: str, message: Message) -> None:
        self.said.append(message)


class Client:
    """A connection to one node: bytes in, bytes out."""

    def __init__(self, hub: Hub, loop: ManualLoop, options: bytes) -> None:
        self._loop = loop
        self.connection = Connection(hub)
        self._wire = Wire(self.connection)
        self.connection.connection_made(self._wire)
        self.say(b"CONNECT " + options + b"\r\n")
        self.take()

    def say(self, data: bytes) -> None:
        """In one chunk, and everything that comes of it on any node."""
        self.connection.data_received(data)
        self._loop.run()

    def take(self) -> bytes:
        """What was said to it since the last time."""
        said = bytes(self._wire.said)
        self._wire.said.clear()
        return said

    def messages(self) -> list[tuple[bytes, ...]]:
        """The same, as (subject, sid, reply, payload), when it is messages without headers or line ends."""
        return [found.groups(b"") for found in MESSAGE.finditer(self.take())]

    def ask(self, data: bytes) -> bytes:
        self.say(data)
        return self.take()

    def end(self) -> None:
        self.connection.connection_lost(None)
        self._loop.run()


class Node:
    """A broker with its connections, one of several."""

    def __init__(self, name: str, network: MemoryNetwork, loop: ManualLoop, incarnation: int = 1) -> None:
        self.loop = loop
        options = Settings(storage="memory")
        self.broker = Broker(options, loop.clock, loop)
        self.core = ClusterRouter(loop)
        self.broker.core = self.core
        self.interest = self.core.interest
        self.hub = Hub(options, loop.clock, self.broker, loop, timing=Timing())
        attach(self.interest, network.join(name, incarnation))

    def client(self, *, echo: bool = True, verbose: bool = False) -> Client:
        flags = b'"verbose":%b,"echo":%b' % (str(verbose).lower().encode(), str(echo).lower().encode())
        return Client(self.hub, self.loop, b'{"pedantic":false,"headers":true,"no_responders":true,' + flags + b"}")


class Cluster:
    """Three of them, all connected, in one loop."""

    def __init__(self) -> None:
        self.loop = ManualLoop(ManualClock())
        self.network = MemoryNetwork(self.loop.call_soon)
        self.nodes = {name: Node(name, self.network, self.loop) for name in NODES}
        self.network.connect_all()
        self.loop.run()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def clients(self, **options: bool) -> list[Client]:
        """One on each node."""
        return [node.client(**options) for node in self.nodes.values()]

    def close(self) -> None:
        for node in self.nodes.values():
            node.broker.close()


def _link(cluster: Cluster, dialer: str, acceptor: str) -> MemoryLink:
    return cluster.network.dialed[dialer, acceptor]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


# --- publish and subscribe --------------------------------------------------------------------------------------------


def test_a_message_goes_to_every_node_once(cluster: Cluster) -> None:
    """However many subscriptions it matches there, and back to the publisher's own."""
    clients = cluster.clients()
    for client in clients:
        client.say(b"SUB x.y 1\r\nSUB x.* 2\r\nSUB > 3\r\n")
    clients[0].say(b"PUB x.y r 2\r\nhi\r\n")
    for client in clients:
        assert sorted(client.messages()) == [(b"x.y", sid, b"r", b"hi") for sid in (b"1", b"2", b"3")]
    assert [node.interest.stats()["out_msgs"] for node in cluster.nodes.values()] == [2, 0, 0]


def test_a_message_goes_only_where_somebody_listens(cluster: Cluster) -> None:
    a, b, c = cluster.clients()
    b.say(b"SUB x 1\r\n")
    c.say(b"SUB y 1\r\n")
    a.say(b"PUB x 1\r\n1\r\n")
    b.say(b"UNSUB 1\r\n")
    a.say(b"PUB x 1\r\n2\r\n")
    assert b.messages() == [(b"x", b"1", b"", b"1")]
    assert c.messages() == []
    assert cluster["a"].interest.stats()["out_msgs"] == 1


def test_headers_and_empty_bodies_arrive_as_they_were_sent(cluster: Cluster) -> None:
    a, b, _ = cluster.clients()
    b.say(b"SUB x 1\r\n")
    a.say(b"HPUB x _R 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n")
    assert b.take() == b"HMSG x 1 _R 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n"
    a.say(b"PUB x 0\r\n\r\n")
    assert b.take() == b"MSG x 1 0\r\n\r\n"


def test_no_echo_and_verbose_mean_the_same(cluster: Cluster) -> None:
    a = cluster["a"].client(echo=False, verbose=True)
    b = cluster["b"].client(verbose=True)
    assert a.ask(b"SUB x 1\r\n") == b"+OK\r\n"
    assert b.ask(b"SUB x 1\r\n") == b"+OK\r\n"
    assert a.ask(b"PUB x 1\r\nm\r\n") == b"+OK\r\n"
    assert b.take() == b"MSG x 1 1\r\nm\r\n"


def test_unsubscribe_after_some_counts_what_comes_from_elsewhere(cluster: Cluster) -> None:
    a, b, c = cluster.clients()
    b.say(b"SUB x 1\r\nUNSUB 1 3\r\n")
    for number in range(3):
        a.say(b"PUB x 1\r\n%d\r\n" % number)
        c.say(b"PUB x 1\r\n%d\r\n" % number)
    assert [message[3] for message in b.messages()] == [b"0", b"0", b"1"]
    assert a.ask(b"SUB r 9\r\nPUB x r 0\r\n\r\n") == NO_RESPONDERS % (b"r", b"9")


def test_the_order_of_a_publisher_is_kept(cluster: Cluster) -> None:
    """Of client messages and of what the broker itself publishes, in as many turns as it takes."""
    a, b, _ = cluster.clients()
    b.say(b"SUB x 1\r\n")
    for number in range(0, 200, 2):
        a.connection.data_received(b"PUB x %d\r\n%d\r\n" % (len(str(number)), number))
        cluster["a"].core.deliver(b"x", b"", b"", b"%d" % (number + 1))
        if number % 3 == 0:
            cluster.loop.turn()
    cluster.loop.run()
    assert [int(message[3]) for message in b.messages()] == list(range(200))


def test_a_client_that_is_gone_wants_nothing(cluster: Cluster) -> None:
    a, b, _ = cluster.clients()
    b.say(b"SUB x 1\r\nSUB y q 2\r\n")
    b.end()
    assert cluster["a"].interest.stats()["remote_subscriptions"] == 0
    assert a.ask(b"SUB r 9\r\nPUB x r 0\r\n\r\n") == NO_RESPONDERS % (b"r", b"9")


def test_commands_are_nobodys_interest(cluster: Cluster) -> None:
    a, b, _ = cluster.clients()
    cluster["b"].interest.local_changed(b"$mq9.AI.MAILBOX.MSG.m.*", b"", 1)
    b.say(b"SUB $mq9.AI.PUBLIC.LIST 1\r\n")
    assert cluster["a"].interest.stats()["remote_subscriptions"] == 0
    assert a.ask(b"PUB $mq9.AI.MAILBOX.MSG.m.x 0\r\n\r\n") == b""


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_across_nodes(cluster: Cluster) -> None:
    """In one chunk: the reply subject is known where the request arrives."""
    a, b, _ = cluster.clients()
    b.say(b"SUB service workers 7\r\n")
    a.say(b"SUB _INBOX.a.* 1\r\nPUB service _INBOX.a.1 3\r\nask\r\n")
    assert b.messages() == [(b"service", b"7", b"_INBOX.a.1", b"ask")]
    assert a.take() == b""
    b.say(b"PUB _INBOX.a.1 3\r\nyes\r\n")
    assert a.messages() == [(b"_INBOX.a.1", b"1", b"", b"yes")]


def test_the_reply_subject_is_known_before_the_request_arrives(cluster: Cluster) -> None:
    """Also when both leave in the turn in which the client subscribed: the service answers at once."""
    a, b = cluster["a"], cluster["b"]
    answers = Receiver("answers")

    class Service:
        def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
            assert b.core.publish(reply, b"", b"", b"yes", None) == 1

    b.core.subscribe(Subscription(Service(), b"service", b"", b"1"))
    cluster.loop.run()
    a.core.subscribe(Subscription(answers, b"_INBOX.a.*", b"", b"1"))
    assert a.core.publish(b"service", b"_INBOX.a.1", b"", b"", None) == 1
    cluster.loop.run()
    assert answers.got == [(b"_INBOX.a.1", b"yes")]


def test_no_responders_means_none_on_any_node(cluster: Cluster) -> None:
    a, _, c = cluster.clients()
    a.say(b"SUB _INBOX.a.* 1\r\n")
    assert a.ask(b"PUB service _INBOX.a.1 0\r\n\r\n") == NO_RESPONDERS % (b"_INBOX.a.1", b"1")
    c.say(b"SUB service workers 7\r\n")
    assert a.ask(b"PUB service _INBOX.a.2 0\r\n\r\n") == b""
    assert len(c.messages()) == 1
    c.say(b"UNSUB 7\r\n")
    assert a.ask(b"PUB service _INBOX.a.3 0\r\n\r\n") == NO_RESPONDERS % (b"_INBOX.a.3", b"1")


def test_the_answer_of_a_command_reaches_a_reply_subject_on_another_node(cluster: Cluster) -> None:
    a, b, _ = cluster.clients()
    b.say(b"SUB answers 1\r\n")
    a.say(b'PUB $mq9.AI.MAILBOX.CREATE answers 16\r\n{"name":"inbox"}\r\n')
    [(subject, _, _, body)] = b.messages()
    assert subject == b"answers"
    assert b'"mail_address":"inbox"' in body


# --- queue groups -----------------------------------------------------------------------------------------------------


def test_one_member_of_a_group_in_the_whole_cluster_gets_a_message(cluster: Cluster) -> None:
    clients = cluster.clients()
    for client in clients:
        client.say(b"SUB x q 1\r\nSUB x.> q 2\r\nSUB x r 3\r\n")
    clients[0].say(b"PUB x 1\r\nm\r\n" * 20)
    assert Counter(message[1] for client in clients for message in client.messages()) == {b"1": 20, b"3": 20}


def test_members_on_the_publishers_node_come_first(cluster: Cluster) -> None:
    clients = cluster.clients()
    for client in clients:
        client.say(b"SUB x q 1\r\n")
    for client in clients:
        client.say(b"PUB x 1\r\nm\r\n" * 5)
        assert [len(each.messages()) for each in clients] == [5 if each is client else 0 for each in clients]


def test_a_publisher_without_echo_is_no_member(cluster: Cluster) -> None:
    a, b = cluster["a"].client(echo=False), cluster["b"].client()
    a.say(b"SUB x q 1\r\n")
    a.say(b"SUB r 9\r\nPUB x r 0\r\n\r\n")
    b.say(b"SUB x q 1\r\n")
    a.take()
    a.say(b"PUB x 1\r\nm\r\n")
    assert (len(a.messages()), len(b.messages())) == (0, 1)


def test_nodes_get_a_groups_messages_by_their_members(cluster: Cluster) -> None:
    """Also after members have left: three on one node, one on the other."""
    a, b, c = cluster.clients()
    b.say(b"".join(b"SUB x q %d\r\n" % sid for sid in range(5)) + b"UNSUB 0\r\n")
    b.say(b"UNSUB 1\r\n")
    c.say(b"SUB x q 1\r\n")
    a.say(b"PUB x 1\r\nm\r\n" * 400)
    to_b, to_c = b.messages(), c.messages()
    assert len(to_b) + len(to_c) == 400
    assert 250 < len(to_b) < 350
    assert {message[1] for message in to_b} == {b"2", b"3", b"4"}


def test_the_lot_falls_on_each_member_alike() -> None:
    """Three members on one node and one on another: three quarters of all numbers are the first one's."""
    lot = 0.0
    loop = ManualLoop(ManualClock())
    network = MemoryNetwork()
    cores = {name: ClusterRouter(loop, lambda: lot) for name in NODES}
    for name, core in cores.items():
        attach(core.interest, network.join(name))
    network.connect_all()
    got = {name: Receiver(name) for name in NODES}
    for name in "bbbc":
        cores[name].subscribe(Subscription(got[name], b"x", b"q", b"1"))
        loop.run()
        network.settle()
    for number in range(100):
        lot = number / 100
        assert cores["a"].publish(b"x", b"", b"", b"", None) == 1
        network.settle()
    assert [len(got[name].got) for name in NODES] == [0, 75, 25]


def test_a_node_is_told_which_of_its_subscribers_a_message_is_for() -> None:
    """All plain ones or none, and one of each group that was chosen to be there; not of one that has it already."""
    loop = ManualLoop(ManualClock())
    core = ClusterRouter(loop)
    links = {}
    wants = {"plain": [(b"a", b"")], "group": [(b"a", b"q"), (b"*", b"r")], "both": [(b"a", b""), (b"a", b"s")], "none": []}
    for node, pairs in wants.items():
        links[node] = Ear(node, is_dialed=True)
        core.interest.link_up(links[node])
        said = [wire.Interest(subject=subject, queue=queue, count=1) for subject, queue in pairs]
        core.interest.on_interests(Ear(node, is_dialed=False), [wire.Interest(first=True), *said])
    core.subscribe(Subscription(Receiver("here"), b"a", b"r", b"1"))
    loop.run()
    for link in links.values():
        link.said.clear()
    assert core.publish(b"a", b"reply", b"header", b"payload", None) == 5
    common = wire.CoreMessage(subject=b"a", reply_to=b"reply", header=b"header", payload=b"payload").SerializeToString()
    flags = {"plain": wire.CoreMessage(plain=True), "group": wire.CoreMessage(queues=[b"q"])}
    flags["both"] = wire.CoreMessage(plain=True, queues=[b"s"])
    for node, flag in flags.items():
        assert links[node].said == [wire.CoreMessage.FromString(common + flag.SerializeToString())]
    assert links["none"].said == []


def test_a_message_for_a_group_alone_is_not_for_the_others(cluster: Cluster) -> None:
    """Who subscribed while it was on its way is not given a message that was meant for somebody else."""
    b = cluster["b"].client()
    b.say(b"SUB x 1\r\nSUB x q 2\r\nSUB x r 3\r\n")
    cluster["b"].interest.on_messages(Ear("a", is_dialed=False), [wire.CoreMessage(subject=b"x", queues=[b"q", b"gone"])])
    cluster.loop.run()
    assert b.messages() == [(b"x", b"2", b"", b"")]


def test_a_group_that_has_left_when_the_message_comes_has_lost_it(cluster: Cluster) -> None:
    """As when it is on the way to a client; other subscriptions get it all the same, and nothing is sent on."""
    a, b, c = cluster.clients()
    b.say(b"SUB x q 1\r\nSUB x 2\r\n")
    cluster.network.hold("a", "b")
    a.say(b"PUB x 1\r\nm\r\n")
    b.say(b"UNSUB 1\r\n")
    c.say(b"SUB x q 1\r\n")
    cluster.network.release("a", "b")
    cluster.loop.run()
    assert b.messages() == [(b"x", b"2", b"", b"m")]
    assert c.messages() == []


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_node_that_comes_later_is_told_everything(cluster: Cluster) -> None:
    a, b, _ = cluster.clients()
    a.say(b"SUB x 1\r\nSUB x q 2\r\n")
    cluster.network.leave("c")
    cluster["c"].broker.close()
    a.say(b"SUB y 3\r\n")
    cluster.nodes["c"] = Node("c", cluster.network, cluster.loop, incarnation=2)
    late = cluster["c"].client()
    late.say(b"SUB z 1\r\n")
    assert late.ask(b"SUB r 9\r\nPUB x r 0\r\n\r\n") == NO_RESPONDERS % (b"r", b"9")
    cluster.network.connect_all()
    cluster.loop.run()
    late.say(b"PUB x 1\r\nm\r\nPUB y 1\r\nm\r\n")
    assert [message[1] for message in a.messages()] == [b"1", b"2", b"3"]
    b.say(b"PUB z 1\r\nm\r\n")
    assert len(late.messages()) == 1


def test_a_dead_node_wants_nothing(cluster: Cluster) -> None:
    a, b, c = cluster.clients()
    b.say(b"SUB x 1\r\nSUB x q 2\r\n")
    c.say(b"SUB x q 2\r\n")
    cluster.network.leave("b")
    a.say(b"PUB x 1\r\nm\r\n" * 10)
    assert len(c.messages()) == 10
    c.end()
    assert a.ask(b"SUB r 9\r\nPUB x r 0\r\n\r\n") == NO_RESPONDERS % (b"r", b"9")
    assert len(cluster["a"].interest._heard) == 0
    assert list(cluster["a"].interest._peers) == ["c"]


@pytest.mark.parametrize("pair", ["ab", "ba"])
def test_a_stream_in_one_direction_is_not_enough(cluster: Cluster, pair: str) -> None:
    """Without ours nothing can be sent, without theirs nothing is known; when it is back, both are as before."""
    a, b, _ = cluster.clients()
    b.say(b"SUB x 1\r\n")
    a.say(b"SUB r 9\r\n")
    cluster.network.cut(*pair)
    assert a.ask(b"PUB x r 0\r\n\r\n") == NO_RESPONDERS % (b"r", b"9")
    b.say(b"SUB y 2\r\n")
    cluster.network.connect(*pair)
    cluster.loop.run()
    assert a.ask(b"PUB x r 1\r\nm\r\nPUB y r 1\r\nm\r\n") == b""
    assert [message[0] for message in b.messages()] == [b"x", b"y"]


def test_a_new_stream_replaces_what_the_old_one_said(cluster: Cluster) -> None:
    """Whichever end notices first that the old one is gone."""
    interest = cluster["a"].interest
    old, new = Ear("b", is_dialed=False), Ear("b", is_dialed=False)
    first = wire.Interest(first=True)
    interest.on_interests(old, [first, wire.Interest(subject=b"x", count=1)])
    interest.on_interests(new, [first, wire.Interest(subject=b"y", count=1)])
    interest.on_interests(old, [wire.Interest(subject=b"z", count=1)])
    interest.link_down(old)
    a = cluster["a"].client()
    assert a.ask(b"SUB r 9\r\nPUB x r 0\r\n\r\n") == NO_RESPONDERS % (b"r", b"9")
    assert a.ask(b"PUB z r 0\r\n\r\n") == NO_RESPONDERS % (b"r", b"9")
    assert a.ask(b"PUB y r 0\r\n\r\n") == b""


def test_forgetting_a_node_that_wanted_much_takes_many_turns(cluster: Cluster) -> None:
    """But from the first it gets nothing."""
    interest, core = cluster["a"].interest, cluster["a"].core
    source = Ear("b", is_dialed=False)
    subjects = [b"s.%d" % number for number in range(3 * FORGOTTEN_PER_TURN)]
    everything = [wire.Interest(subject=subject, count=1) for subject in subjects]
    interest.on_interests(source, [wire.Interest(first=True), *everything])
    assert len(interest._heard) == len(subjects)
    interest.on_interests(source, [wire.Interest(first=True), wire.Interest(subject=b"s.7", count=1)])
    assert [core.publish(subject, b"", b"", b"", None) for subject in (b"s.7", b"s.8")] == [1, 0]
    cluster.loop.turn()
    assert FORGOTTEN_PER_TURN < len(interest._heard) < len(subjects)
    cluster.loop.run()
    assert len(interest._heard) == 1


# --- how much is said -------------------------------------------------------------------------------------------------


def test_what_comes_and_goes_in_a_turn_is_not_said(cluster: Cluster) -> None:
    a = cluster["a"].client()
    before = cluster["a"].interest.stats()["out_interests"]
    a.say(b"".join(b"SUB _INBOX.%d 1\r\nUNSUB 1\r\n" % number for number in range(10_000)))
    assert cluster["a"].interest.stats()["out_interests"] == before


def test_how_many_listen_is_said_of_groups_only(cluster: Cluster) -> None:
    a = cluster["a"].client()
    for number in range(10):
        a.say(b"SUB x p%d\r\nSUB x q q%d\r\nSUB x q r%d\r\n" % (number, number, number))
    assert cluster["a"].interest.stats()["out_interests"] == 2 * (1 + 10)
    for number in range(9):
        a.say(b"UNSUB p%d\r\n" % number)
    assert cluster["a"].interest.stats()["out_interests"] == 2 * (1 + 10)


def test_messages_for_a_crowded_link_are_dropped_and_counted(cluster: Cluster) -> None:
    a, b, c = cluster.clients()
    b.say(b"SUB x 1\r\n")
    c.say(b"SUB x 1\r\n")
    link = _link(cluster, "a", "b")
    link.queued_bytes_max = 10_000
    cluster.network.hold("a", "b")
    a.say(b"PUB x 1000\r\n%b\r\n" % (b"m" * 1000) * 100)
    assert link.queued_bytes < 12_000
    assert a.ask(b"SUB r 9\r\nPUB x r 0\r\n\r\n") == b""  # somebody listens, though it will not get this one
    cluster.network.release("a", "b")
    cluster.loop.run()
    assert len(c.messages()) == 101
    kept = len(b.messages())
    assert 0 < kept < 100
    assert cluster["a"].interest.stats()["dropped_msgs"] == 101 - kept
    a.say(b"PUB x 1\r\nm\r\n")
    assert len(b.messages()) == 1


def test_interest_waits_for_a_crowded_link_and_is_not_lost(cluster: Cluster) -> None:
    """Nor does it pile up: of a subject that came and went many times, the last state is said."""
    a, b, c = cluster.clients()
    link = _link(cluster, "a", "b")
    link.queued_bytes_max = 1000
    cluster.network.hold("a", "b")
    for number in range(2000):
        a.say(b"SUB _INBOX.%d i\r\n" % number)
        a.say(b"UNSUB i\r\n")
    a.say(b"SUB x 1\r\n")
    assert link.queued_bytes < 1100
    assert len(cluster["a"].interest._peers["b"].untold) < 100
    c.say(b"PUB x 1\r\nm\r\n")
    assert len(a.messages()) == 1
    cluster.network.release("a", "b")
    cluster.loop.advance(1)
    b.say(b"PUB x 1\r\nm\r\n")
    assert len(a.messages()) == 1
    assert cluster["b"].interest.stats()["remote_subscriptions"] == 1


def test_a_message_does_not_overtake_the_interest_it_needs(cluster: Cluster) -> None:
    """A request whose reply subject could not be told yet is dropped rather than sent to be answered into the void."""
    a, b, _ = cluster.clients()
    b.say(b"SUB service 1\r\n")
    link = _link(cluster, "a", "b")
    link.queued_bytes_max = -1
    a.say(b"SUB _INBOX.a.* 1\r\nPUB service _INBOX.a.1 0\r\n\r\n")
    assert b.messages() == []
    link.queued_bytes_max = 1000
    a.say(b"PUB service _INBOX.a.2 0\r\n\r\n")
    assert [message[2] for message in b.messages()] == [b"_INBOX.a.2"]
    b.say(b"PUB _INBOX.a.2 0\r\n\r\n")
    assert len(a.messages()) == 1


def test_an_invalid_subject_is_refused_as_on_one_node(cluster: Cluster) -> None:
    core = cluster["a"].core
    assert core.publish(b"a..b", b"", b"", b"", None) == INVALID_SUBJECT
    assert core.deliver(b"a.*", b"", b"", b"") == 0


# --- against one node -------------------------------------------------------------------------------------------------

TOKENS = [b"a", b"b"]
SUBJECTS = [b".".join(tokens) for length in (1, 2, 3) for tokens in itertools.product(TOKENS, repeat=length)]
PATTERNS = [*SUBJECTS[:6], b"*", b"a.*", b"*.a", b">", b"a.>", b"*.*", b"*.>"]


class Receiver:
    """Somebody who subscribes, and keeps what comes."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.got: list[tuple[bytes, bytes]] = []
        self.by_sub: dict[Subscription, list[bytes]] = {}

    def receive(self, sub: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        self.got.append((subject, payload))
        self.by_sub.setdefault(sub, []).append(payload)


class Routers(RuleBasedStateMachine):
    """Routers alone, without sessions: three of a cluster, with two receivers each."""

    subs = Bundle("subs")

    def __init__(self) -> None:
        super().__init__()
        self.loop = ManualLoop(ManualClock())
        self.network = MemoryNetwork()
        self.cores: dict[str, ClusterRouter] = {}
        self.receivers = {name: (Receiver(name), Receiver(name)) for name in NODES}
        self.alive: dict[Subscription, str] = {}
        self.published = 0

    @initialize(seed=st.integers(0, 1 << 16))
    def build(self, seed: int) -> None:
        lots = random.Random(seed)
        self.cores = {name: ClusterRouter(self.loop, lots.random) for name in NODES}
        for name, core in self.cores.items():
            attach(core.interest, self.network.join(name))
        self.network.connect_all()
        self.after()

    def after(self) -> None:
        """What happens between two steps."""

    @rule(
        target=subs,
        node=st.sampled_from(NODES),
        who=st.integers(0, 1),
        pattern=st.sampled_from(PATTERNS),
        queue=st.sampled_from([b"", b"", b"q", b"r"]),
    )
    def subscribe(self, node: str, who: int, pattern: bytes, queue: bytes) -> Subscription:
        sub = Subscription(self.receivers[node][who], pattern, queue, b"1")
        self.alive[sub] = node
        self.cores[node].subscribe(sub)
        self.after()
        return sub

    @rule(sub=consumes(subs))
    def unsubscribe(self, sub: Subscription) -> None:
        self.cores[self.alive.pop(sub)].unsubscribe(sub)
        self.after()

    @rule(dialer=st.sampled_from(NODES), acceptor=st.sampled_from(NODES))
    def cut(self, dialer: str, acceptor: str) -> None:
        self.network.cut(dialer, acceptor)
        self.after()

    @rule()
    def connect(self) -> None:
        self.network.connect_all()
        self.after()

    def teardown(self) -> None:
        """When all have unsubscribed, nothing is left anywhere."""
        self.network.connect_all()
        for sub, node in self.alive.items():
            self.cores[node].unsubscribe(sub)
        while self.loop.turn() or self.network.step():
            pass
        for core in self.cores.values():
            assert len(core.sublist) == len(core.interest._heard) == 0
            assert not core.interest._local


class Settled(Routers):
    """Every change is known everywhere before the next: exactly the receivers that one node would give."""

    def after(self) -> None:
        while self.loop.turn() or self.network.step():
            pass

    def _is_connected(self, one: str, other: str) -> bool:
        return one == other or {(one, other), (other, one)} <= self.network.dialed.keys()

    @rule(node=st.sampled_from(NODES), who=st.integers(0, 1), subject=st.sampled_from(SUBJECTS), echo=st.booleans())
    def publish(self, node: str, who: int, subject: bytes, echo: bool) -> None:
        one_node = CoreRouter()
        for sub, where in self.alive.items():
            if self._is_connected(node, where):
                one_node.subscribe(sub)
        not_to = None if echo else self.receivers[node][who]
        found = one_node.sublist.match(subject)
        assert found is not None
        plain = {sub for sub in found.plain if sub.client is not not_to}
        groups = [{sub for sub in members if sub.client is not not_to} for members in found.queues]
        self.published += 1
        payload = b"%d" % self.published
        count = self.cores[node].publish(subject, b"", b"", payload, not_to)
        self.after()
        got = self._got(payload)
        assert {sub for sub in got if not sub.queue} == plain
        assert len(got) == len(set(got)) == len(plain) + sum(bool(group) for group in groups)
        for group in filter(None, groups):
            [chosen] = group & set(got)
            here = {sub for sub in group if self.alive[sub] == node}
            assert chosen in here or not here
        assert bool(count) == bool(got)

    def _got(self, payload: bytes) -> list[Subscription]:
        receivers = [each for pair in self.receivers.values() for each in pair]
        return [sub for each in receivers for sub, payloads in each.by_sub.items() for _ in range(payloads.count(payload))]


class Racing(Routers):
    """Messages and interest are on the way while everything changes: at most once, in order, never to who did not ask."""

    @rule(node=st.sampled_from(NODES), subject=st.sampled_from(SUBJECTS))
    def publish(self, node: str, subject: bytes) -> None:
        self.published += 1
        self.cores[node].publish(subject, b"", node.encode(), b"%s %d %s" % (node.encode(), self.published, subject), None)

    @rule()
    def turn(self) -> None:
        self.loop.turn()

    @rule()
    def step(self) -> None:
        self.network.step()

    @rule(dialer=st.sampled_from(NODES), acceptor=st.sampled_from(NODES))
    def hold(self, dialer: str, acceptor: str) -> None:
        if (dialer, acceptor) in self.network.dialed:
            self.network.hold(dialer, acceptor)

    @rule()
    def release(self) -> None:
        for pair in self.network.dialed:
            self.network.release(*pair)

    def teardown(self) -> None:
        self.release()
        super().teardown()
        chosen: Counter[tuple[bytes, bytes]] = Counter()
        for receiver in (each for pair in self.receivers.values() for each in pair):
            for sub, payloads in receiver.by_sub.items():
                for node in NODES:
                    numbers = [int(payload.split()[1]) for payload in payloads if payload.startswith(node.encode())]
                    assert numbers == sorted(set(numbers))
                chosen.update((payload, sub.queue) for payload in payloads if sub.queue)
        assert set(chosen.values()) <= {1}


for machine in (Settled, Racing):
    machine.TestCase.settings = settings(stateful_step_count=40)
TestSettled = Settled.TestCase
TestRacing = Racing.TestCase
