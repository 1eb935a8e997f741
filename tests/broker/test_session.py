"""What a session does that no reference shows: the order of things, permissions, and bad input met with the right end."""

from __future__ import annotations

import pytest

from broker_node.hub import Timing
from mq9.limits import PREAUTH_CONNECTIONS_PER_ADDRESS_MAX, SUBJECT_TOKENS_MAX
from tests.broker.conftest import Host
from tests.broker.hosted import Hosted
from tests.support.raw import Closed, Frame


def _error(text: str) -> Frame:
    return Frame(b"-ERR", payload=f"'{text}'".encode())


# --- before CONNECT ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"PING\r\n", b"PONG\r\n", b"SUB a 1\r\n", b"UNSUB 1\r\n", b"PUB a 1\r\nx\r\n", b"HPUB a 12 12\r\n"]
)
def test_any_verb_before_connect_ends_the_connection(hosted: Hosted, data: bytes) -> None:
    client = hosted.dial()
    client.send(data)
    assert client.expect_closed() == [_error("Authorization Violation")]


def test_a_client_that_never_says_connect_is_ended(hosted: Hosted) -> None:
    client, good = hosted.dial(), hosted.raw()
    client.send(b"CONN")
    hosted.pass_time(1.9)
    good.flush()
    hosted.pass_time(0.2)
    assert client.expect_closed() == [_error("Authentication Timeout")]
    assert good.flush() == []


def test_slow_bytes_do_not_buy_time_before_connect(hosted: Hosted) -> None:
    client = hosted.dial()
    for byte in b'CONNECT {"verb':
        client.send(bytes([byte]))
        hosted.pass_time(0.1)
    hosted.pass_time(2)
    assert client.expect_closed() == [_error("Authentication Timeout")]


def test_what_is_sent_before_connect_is_bounded(hosted: Hosted) -> None:
    client = hosted.dial()
    client.send(b"CONNECT {" + b" " * 4096)
    assert client.expect_closed() == [_error("maximum control line exceeded")]


def test_one_address_has_its_share_of_unauthenticated_connections(host: Host) -> None:
    hosted = host(max_connections=5)
    silent = [hosted.dial() for _ in range(5)]
    refused = hosted.dial(read_info=False)
    assert refused.expect_closed() == [_error("maximum connections exceeded")]
    silent[0].close()
    silent[1].connect()
    assert hosted.on_loop(lambda: hosted.server.hub.traffic.refused_connections) == 1
    assert PREAUTH_CONNECTIONS_PER_ADDRESS_MAX < 4096


def test_connect_may_change_the_options_later(hosted: Hosted) -> None:
    client = hosted.raw(verbose=False)
    client.send_connect(verbose=True, echo=False)
    client.send(b"SUB a 1\r\nPUB a 1\r\nx\r\n")
    assert client.flush() == [Frame(b"+OK")] * 3


# --- publishing and subscribing ---------------------------------------------------------------------------------------


def test_nobody_publishes_where_only_the_broker_speaks(hosted: Hosted) -> None:
    client = hosted.raw()
    client.pub(b"$mq9.AI.PUBLIC.LIST", b'{"event":"created"}', reply=b"r")
    assert client.flush() == [_error('Permissions Violation for Publish to "$mq9.AI.PUBLIC.LIST"')]


@pytest.mark.parametrize(
    "subject", [b"$mq9.AI.MSG.SEND.a", b"$mq9.AI.>", b"$mq9.AI.MSG.FETCH.*", b"$mq9.AI.PUBLIC.>", b"$mq9.AI.*.LIST"]
)
def test_nobody_subscribes_to_commands(hosted: Hosted, subject: bytes) -> None:
    client = hosted.raw()
    client.sub(subject)
    client.sub(subject, b"thieves")
    text = f'Permissions Violation for Subscription to "{subject.decode()}"'
    assert client.flush() == [_error(text), _error(text + ' using queue "thieves"')]


@pytest.mark.parametrize("pattern", [b">", b"$mq9.>", b"*.AI.>", b"$mq9.*.MSG.SEND.a", b"*.*.*.*.*"])
def test_no_wildcard_overhears_a_command(hosted: Hosted, pattern: bytes) -> None:
    spy, client = hosted.raw(), hosted.raw()
    spy.sub(pattern)
    spy.sub(pattern, b"q")
    spy.flush()
    client.pub(b"$mq9.AI.MSG.SEND.a", b"secret")
    client.flush()
    assert spy.flush() == []


def test_a_command_with_a_bad_subject_gets_json_and_the_connection_goes_on(hosted: Hosted) -> None:
    client = hosted.raw(pedantic=True)
    assert client.call(b"$mq9.AI.NO.SUCH")["code"] == "UNKNOWN_COMMAND"
    assert client.call(b"$mq9.AI.MSG.SEND." + b"x" * 3000, b"m")["code"] in {"INVALID_ADDRESS", "MAILBOX_NOT_FOUND"}
    assert client.flush() == []


def test_jetstream_is_not_there(hosted: Hosted) -> None:
    client = hosted.raw()
    assert client.info["jetstream"] is False
    assert client.request(b"$JS.API.STREAM.INFO.x").status == b"503"


def test_no_responders_reach_the_client_that_asked(hosted: Hosted) -> None:
    client, other = hosted.raw(), hosted.raw()
    other.sub(b"inbox.>")
    other.flush()
    client.sub(b"inbox.*")
    client.pub(b"nobody", reply=b"inbox.1")
    assert client.flush() == [Frame(b"HMSG", (b"inbox.1", b"1", b"16", b"16"), b"NATS/1.0 503\r\n\r\n")]
    assert other.flush() == []


def test_headers_are_taken_off_for_a_client_without_them(hosted: Hosted) -> None:
    plain, sender = hosted.raw(headers=False, no_responders=False), hosted.raw()
    plain.sub(b"a")
    plain.flush()
    sender.pub(b"a", b"hi", header=b"NATS/1.0\r\nk: v\r\n\r\n")
    sender.flush()
    assert plain.flush() == [Frame(b"MSG", (b"a", b"1", b"2"), payload=b"hi")]


def test_a_queue_spreads_evenly_over_its_members(hosted: Hosted) -> None:
    members = [hosted.raw() for _ in range(4)]
    for member in members:
        member.sub(b"jobs.*", b"workers")
        member.flush()
    sender = hosted.raw()
    sender.send(b"PUB jobs.x 1\r\nx\r\n" * 4000)
    sender.flush()
    counts = [len(member.flush()) for member in members]
    assert sum(counts) == 4000
    # Binomial(4000, 1/4): standard deviation 27. Eight of them: once in 10**14 runs by chance.
    assert all(abs(count - 1000) < 8 * 28 for count in counts), counts


def test_a_queue_outlives_its_members(hosted: Hosted) -> None:
    members = [hosted.raw() for _ in range(3)]
    for member in members:
        member.sub(b"jobs", b"workers")
        member.flush()
    sender = hosted.raw()
    members[0].close()
    members[1].send(b"UNSUB 1\r\n")
    members[1].flush()
    while hosted.on_loop(lambda: len(hosted.server.hub.sessions)) > 3:
        sender.flush()
    sender.send(b"PUB jobs 1\r\nx\r\n" * 50)
    sender.flush()
    assert (len(members[1].flush()), len(members[2].flush())) == (0, 50)


def test_too_many_subscriptions_are_refused_and_the_connection_goes_on(host: Host) -> None:
    client = host(max_subscriptions=2).raw()
    for _ in range(3):
        client.sub(b"a")
    assert client.flush() == [_error("maximum subscriptions exceeded")]
    client.pub(b"a", b"x")
    assert len(client.flush()) == 2


def test_too_deep_a_subject_reaches_nobody(hosted: Hosted) -> None:
    client = hosted.raw(pedantic=True)
    client.sub(b">")
    client.pub(b".".join([b"a"] * (SUBJECT_TOKENS_MAX + 1)), b"x")
    client.pub(b"a" * 1025, b"x")
    assert client.flush() == [_error("Invalid Publish Subject")] * 2
    client.sub(b".".join([b"a"] * (SUBJECT_TOKENS_MAX + 1)))
    assert client.flush() == [_error("Invalid Subject")]


@pytest.mark.parametrize("name", [b"a\rb", b"a\x00b", b"a\x0bb", b"a\x7fb"])
def test_control_characters_in_names_end_the_connection(hosted: Hosted, name: bytes) -> None:
    for frame in (b"SUB %b 1\r\n", b"PUB %b 1\r\nx\r\n", b"PUB a %b 1\r\nx\r\n", b"SUB a %b 1\r\n", b"SUB a 1%b\r\n"):
        client = hosted.raw()
        client.send(frame % name)
        assert client.expect_closed() == [_error("Parser Error")]


def test_subscriptions_of_a_closed_connection_are_gone(hosted: Hosted) -> None:
    client = hosted.raw()
    for number in range(50):
        client.sub(b"a.%d.*" % number)
    client.flush()
    assert hosted.on_loop(lambda: len(hosted.server.broker.core.sublist)) == 50
    client.close()
    other = hosted.raw()
    while hosted.on_loop(lambda: len(hosted.server.hub.sessions)) > 1:
        other.flush()
    assert hosted.on_loop(lambda: len(hosted.server.broker.core.sublist)) == 0


def test_one_bad_client_disturbs_nobody(hosted: Hosted) -> None:
    good = hosted.raw()
    good.sub(b"a")
    for junk in (
        b"\x00" * 100 + b"\n",
        b"PUB a 99999999\r\n",
        b"HPUB a 5 1\r\n",
        b"SUB\r\n",
        b"A" * 5000,
        b"PUB a 3\r\nabcdef\r\n",
    ):
        bad = hosted.raw()
        bad.send(b"PUB a 2\r\nok\r\n" + junk)
        bad.expect_closed()
        assert [frame.payload for frame in good.flush()] == [b"ok"]


# --- pings ------------------------------------------------------------------------------------------------------------


def test_a_silent_client_is_pinged_and_then_ended(host: Host) -> None:
    hosted = host(ping_interval_s=10, max_pings_out=2)
    client = hosted.raw()
    hosted.pass_time(2)  # a round that has heard it connect
    for _ in range(2):
        hosted.pass_time(10)
        assert client.frame() == Frame(b"PING")
    hosted.pass_time(10)
    assert client.expect_closed() == [_error("Stale Connection")]


def test_a_client_that_answers_pings_stays(host: Host) -> None:
    hosted = host(ping_interval_s=10, max_pings_out=1)
    client = hosted.raw()
    hosted.pass_time(2)
    for _ in range(5):
        hosted.pass_time(10)
        assert client.frame() == Frame(b"PING")
        client.send(b"PONG\r\n")
        client.flush()
        hosted.pass_time(2)
    assert client.flush() == []


def test_a_busy_client_is_not_pinged(host: Host) -> None:
    hosted = host(ping_interval_s=10)
    client = hosted.raw()
    for _ in range(20):
        hosted.pass_time(5)
        client.send(b"PUB a 1\r\nx\r\n")
        assert client.flush() == []


# --- the broker is behind ---------------------------------------------------------------------------------------------


def test_who_went_away_without_a_word_is_noticed(hosted: Hosted) -> None:
    client = hosted.dial()
    client.close()
    other = hosted.raw()
    while hosted.on_loop(lambda: len(hosted.server.hub.sessions)) > 1:
        other.flush()
    with pytest.raises((Closed, OSError)):
        client.frame()


def test_deadlines_can_be_set(host: Host) -> None:
    hosted = host(timing=Timing(tick_s=1e6, authenticate_s=50))
    client = hosted.dial()
    hosted.pass_time(49)
    client.connect()
