"""AGENT.UNREGISTER: an agent goes away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_node.router.request import Request
from mq9.errors import Mq9Error
from mq9.protocol.replies import OK

if TYPE_CHECKING:
    from broker_node.broker import Broker


def handle(broker: Broker, request: Request) -> None:
    """Reply: `{error:""}`; no DISCOVER that follows finds it."""

    def unregistered(failure: Mq9Error | None) -> None:
        if failure is not None:
            request.fail(failure)
        else:
            request.respond(OK)

    broker.agents.unregister(request.payload, unregistered)
