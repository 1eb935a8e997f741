"""AGENT.DISCOVER: the agents that can do what is asked for, best first; without a question all of them, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.router.request import Request
from mq9.errors import Mq9Error

if TYPE_CHECKING:
    from broker_node.broker import Broker


def handle(broker: Broker, request: Request) -> None:
    """Reply: `{error, agents, total, page, limit, mode}`. An error carries an empty `agents`, which clients iterate over."""

    def found(failure: Mq9Error | None, reply: bytes) -> None:
        if failure is not None:
            request.fail(failure, agents=[], total=0)
        else:
            request.respond(reply)

    broker.counters.discovers += 1
    try:
        broker.agents.discover(request.payload, request.client.id, found)
    except Mq9Error as failure:
        request.fail(failure, agents=[], total=0)
