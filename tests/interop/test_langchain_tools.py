"""The published LangChain tools (PyPI langchain-mq9 0.3.5, on robustmq 1.0.0), unmodified: every tool, as an agent calls it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
import pytest

from tests.support.server import ServerProcess

sdk = pytest.importorskip("robustmq.mq9", reason="robustmq is not installed (pip install robustmq==1.0.0)")
langchain_mq9 = pytest.importorskip("langchain_mq9", reason="langchain-mq9 is not installed (pip install langchain-mq9==0.3.5)")

pytestmark = [pytest.mark.interop, pytest.mark.anyio]

Call = Callable[..., Awaitable[str]]


@pytest.fixture(params=["async", "sync"])
def call(request: pytest.FixtureRequest, shared_server: ServerProcess) -> Call:
    """call(tool, **arguments) -> what the tool answers to the model. Both ways that LangChain runs a tool."""
    tools = {tool.name: tool for tool in langchain_mq9.Mq9Toolkit(server=shared_server.url).get_tools()}
    assert len(tools) == 6

    async def invoke(tool: str, /, **arguments: Any) -> str:
        if request.param == "async":
            return str(await tools[tool].ainvoke(arguments))
        return str(await anyio.to_thread.run_sync(tools[tool].invoke, arguments))

    return invoke


async def test_a_private_mailbox_from_making_to_emptying(call: Call) -> None:
    mail_id = await call("create_mailbox", ttl=600)
    assert re.fullmatch(r"[a-z0-9]{26}", mail_id)
    assert await call("list_messages", mail_id=mail_id) == f"No messages in mailbox '{mail_id}'."
    assert await call("get_messages", mail_id=mail_id) == f"No messages found in mailbox '{mail_id}'."
    for priority in ("low", "normal", "high", "whatever"):
        known = "normal" if priority == "whatever" else priority
        answer = await call("send_message", mail_id=mail_id, content=f"a {priority} one", priority=priority)
        assert answer == f"Message sent to '{mail_id}' with priority '{known}'."

    first, *listed = (await call("list_messages", mail_id=mail_id)).splitlines()
    assert first == f"4 message(s) in mailbox '{mail_id}':"
    rows = [re.fullmatch(r"  msg_id=(\d+)  priority=(\w+)  ts=\d{10}", line) for line in listed]
    assert [row.groups() for row in rows if row] == [("1", "low"), ("2", "normal"), ("3", "high"), ("4", "normal")]

    # Reading takes nothing away, and gives the most urgent first.
    for _ in range(2):
        assert (await call("get_messages", mail_id=mail_id)).splitlines() == [
            f"Found 4 message(s) in mailbox '{mail_id}':",
            "  [1] priority=high  content=a high one",
            "  [2] priority=normal  content=a normal one",
            "  [3] priority=normal  content=a whatever one",
            "  [4] priority=low  content=a low one",
        ]
    assert (await call("get_messages", mail_id=mail_id, limit=1)).splitlines()[1:] == ["  [1] priority=high  content=a high one"]

    assert await call("delete_message", mail_id=mail_id, msg_id="3") == f"Message '3' deleted from mailbox '{mail_id}'."
    assert "a high one" not in await call("get_messages", mail_id=mail_id)


async def test_a_public_mailbox_is_made_as_often_as_one_likes(call: Call) -> None:
    name = f"interop.langchain.{secrets.token_hex(4)}"
    for _ in range(2):
        answer = await call("create_public_mailbox", name=name, ttl=600, desc="for agents")
        assert answer == f"Public mailbox created. mail_id='{name}'"
        await call("send_message", mail_id=name, content="hello")
    assert (await call("list_messages", mail_id=name)).startswith("2 message(s)")


async def test_a_mailbox_that_is_not_there_is_an_error_the_model_can_read(call: Call) -> None:
    with pytest.raises(sdk.client.Mq9Error, match=r"^mailbox interop\.nobody does not exist$"):
        await call("list_messages", mail_id="interop.nobody")
    assert await call("get_messages", mail_id="interop.nobody") == "No messages found in mailbox 'interop.nobody'."
