"""Any request to any command, in process: `Broker.command` never raises, and one answer comes, which is never INTERNAL."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from mq9.errors import CODES
from mq9.testing.broker import InProcessBroker, InProcessClient
from tests.fuzz.requests import CONVERSATIONS, Asked

PATIENCE_S = 10.0  # only a request without an answer takes it


@pytest.fixture(scope="module")
def node() -> Iterator[InProcessBroker]:
    """One broker for all examples: what an example leaves behind is part of the next one's world."""
    broker = InProcessBroker(embedding="none", max_mailboxes=200)
    client = broker.client()
    for name in ("box", "work", "public.box"):
        client.command("MAILBOX.CREATE", {"name": name, "public": name.startswith("public")})
        client.send(name, b"first")
    yield broker
    broker.close()


def ask(node: InProcessBroker, client: InProcessClient, request: Asked) -> bytes:
    """Publish it and see to it that it is answered; the reply subject."""
    client._requests += 1
    reply = b"_INBOX.%d.%d" % (client.id, client._requests)
    node.broker.command(client, b"$mq9.AI." + request.command, reply, request.header, request.body)
    node.loop.run()
    return reply


def answers_to(node: InProcessBroker, client: InProcessClient, replies: set[bytes]) -> dict[bytes, list[tuple[bytes, bytes]]]:
    """Answers by reply subject. The registry works in a thread of its own: its answers may take a moment."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not replies <= {subject for subject, _, _ in client.received} and time.monotonic() < deadline_s:
        node.loop.run()
    found: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for subject, header, payload in client.received:
        found.setdefault(subject, []).append((header, payload))
    return found


def check_answer(request: Asked, answers: list[tuple[bytes, bytes]]) -> None:
    header, payload = answers[-1]
    if header.startswith(b"NATS/1.0 204"):
        assert header.count(b"mq9-count: %d\r\n" % (len(answers) - 1)) == 1
        return
    assert len(answers) == 1, f"{len(answers)} answers to {request}"
    answer = msgspec.json.decode(payload)
    assert isinstance(answer, dict)
    problem = answer.get("error", "")
    assert isinstance(problem, str)
    code = answer.get("code")
    if problem:
        assert code in CODES or code in {row.status for row in CODES.values()}, answer
    assert code not in ("INTERNAL", 410), f"{request}: {answer}"


@pytest.mark.fuzz
@given(CONVERSATIONS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large])
def test_every_request_gets_one_answer_and_never_internal(
    node: InProcessBroker, caplog: pytest.LogCaptureFixture, conversation: list[Asked]
) -> None:
    """Fuzz target: see the module."""
    caplog.set_level(logging.ERROR)
    caplog.clear()
    client = node.client()
    replies = [(ask(node, client, request), request) for request in conversation]
    node.advance(61)  # every wait is over
    by_reply = answers_to(node, client, {reply for reply, _ in replies})
    for reply, request in replies:
        assert reply in by_reply, f"no answer to {request}"
        check_answer(request, by_reply[reply])
    client.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
    assert node.broker.partition.fetching.waiting == 0


@pytest.mark.fuzz
@given(CONVERSATIONS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large])
def test_requests_that_want_no_answer_get_none(node: InProcessBroker, conversation: list[Asked]) -> None:
    client = node.client()
    for request in conversation:
        node.broker.command(client, b"$mq9.AI." + request.command, b"", request.header, request.body)
    node.advance(61)
    assert client.received == []
    client.close()
